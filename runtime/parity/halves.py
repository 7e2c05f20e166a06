"""`halves`: of the less important half of the rows those most like one of the other half are dropped, then the least
important of all that are left. One step of Zero-TPrune. numpy only.

    first       [n], the importance by which the rows are halved: the n // 2 lowest are A, the others B
    similarity  [n, n], cosines
    r           rule["similar"] of the rows that the step drops: those of A most similar to one of B; score below GONE
    then        a cut by the scores of those that are left

The halves do not leave the graph. A row as near to where they part as rounding may be of either: those that are gone
are taken for as similar as they may be, those that are left for as little, and what that leaves open is not decided.
Where other rows are gone than of the reference, its importance of those that are left is not the device's: what is
chosen of them is undecided. `first` does not leave the graph either: its error is that of the tokens, relative.
"""

from __future__ import annotations

import numpy as np

from edgeprune.runtime.parity.decisions import Case, Chain, Floats, cut, joined, largest, mask
from edgeprune.runtime.parity.topk import of_shares, undropped
from edgeprune.runtime.parity.worth import worth_of_cut

__all__ = ["GONE", "halves", "unhalved"]

GONE, GONE_AT = -1.0, -3.0
"""above the score of every row that is gone for being similar, GONE_AT - its cosine, and below every importance"""


def halves(case: Case) -> Chain:
    reference, got = (side["scores"].astype(np.float64) for side in (case.reference, case.got))
    stays = case.got["indices"].astype(np.int64)
    gone = np.flatnonzero(got < GONE)
    chains = _similar(case, gone) if len(gone) else []
    left, shared = got >= GONE, (got >= GONE) & (reference >= GONE)
    errors = np.where(shared, np.abs(got - reference), 0.0)
    error, relative = largest(errors), of_shares(errors[shared], reference[shared])
    if np.array_equal(shared, left):
        chains.append(cut(reference, stays, left, errors, case.eps))
        return joined(chains, error, relative)
    none = np.zeros(len(stays))
    among = stays[shared[stays]]
    chains.append(Chain(none, none + np.inf, none, sets=[worth_of_cut(reference, among, shared)]))
    return joined(chains)  # what the others are worth hangs on who is gone


def _similar(case: Case, gone: np.ndarray) -> list[Chain]:
    """Were the rows that are gone of the less important half, and of it the most similar to one of the other?"""
    first = case.quantities["first"].astype(np.float64)
    rising = np.argsort(first, kind="stable")
    half = len(first) // 2
    below, above = first[rising[half - 1]], first[rising[half]]
    tolerance = (2 * case.unseen + case.eps) * largest(first)
    less = mask(len(first), rising[:half])
    either = np.where(less, above - first, first - below) <= tolerance
    over = np.where(less, first - above, first - below)[gone]
    halved = Chain(np.where(less[gone], 0.0, over), np.full(len(gone), tolerance), np.abs(over))

    most = _closest(case, ~less | either)
    least = _closest(case, ~less & ~either)
    rounding = 2 * case.cosine_error + case.eps
    stays = ~mask(len(first), gone)
    rivals, possible = stays & less & ~either, stays & (less | either)
    lost = (least[rivals].max() if rivals.any() else -np.inf) - most[gone]
    open_ = least[gone] - (most[possible].max() if possible.any() else -np.inf)
    alike = GONE_AT - case.got["scores"].astype(np.float64)[gone]
    beyond = largest(alike - most[gone], least[gone] - alike)
    lone = [worth_of_cut(most, gone, less | ~stays)]
    chosen = Chain(np.maximum(lost, 0), np.full(len(gone), rounding), np.maximum(open_, 0), beyond, beyond, sets=lone)
    return [halved, chosen]


def _closest(case: Case, among: np.ndarray) -> Floats:
    """[n], of each row the highest cosine with another one of these; -1 where there is none"""
    alike = np.where(among, case.quantities["similarity"].astype(np.float64), -1.0)
    np.fill_diagonal(alike, -1.0)
    closest: Floats = alike.max(axis=1)
    return closest


def unhalved(case: Case) -> list[str]:
    """What a step of this kind never does: so many rows are gone for being similar, and nothing becomes of any that
    does not go on."""
    scores, share = case.got["scores"], float(case.rule["similar"])
    if not 0 <= share <= 1:
        raise ValueError(f"similar must be in 0..1, got {share:g}")
    wanted = int(share * (len(scores) - len(case.got["indices"])))
    if (count := int((scores < GONE).sum())) != wanted:
        return [f"{wanted} rows must be gone for being similar behind layer {case.rule['layer']}, got {count}"]
    return undropped(case)
