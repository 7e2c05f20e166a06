"""`match`: patches that are not kept go to the kept one that is most like them. `origin` says to which. numpy only.

    nearest  a cut by the scores, what main directions leave, which an error turns `turn` times as far; every other
             patch joins the kept one of the highest `similarity`                                               lrcp
    stands   a cut (`dominant`); of the rest, every step-th stands for itself, and the others join the nearest
             of these                                                                                       visionzip
    rounds   tokens at even places join the nearest at an odd place, the r most alike of them, round by round; each
             counts once, or `by_size` as often as it stands for patches                           aim, tome_behind
    energy   tokens of the highest energy join each other in turns, round by round (`energy.py`)      pitome_behind

origin[j] is the place in `indices` of the token that patch j went to, -1 for none; of rounds, order[j] is the patch
whose token it joined. What merges are judged by does not leave the graph: the error of a cosine is taken for twice that
of the tokens, or of the scores where that is more.
"""

from __future__ import annotations

import numpy as np

from edgeprune.runtime.parity.decisions import (
    COSINE_NOISE,
    NOTHING,
    Case,
    Chain,
    cut,
    joined,
    largest,
    mask,
    out_of_order,
)
from edgeprune.runtime.parity.energy import cosines, energy_rounds
from edgeprune.runtime.parity.joins import nearest
from edgeprune.runtime.parity.tiers import compared, parted, tiers_of

__all__ = ["match"]

TURNED = 1 / 8
"""of the farthest that directions may turn, what is allowed in a row: unharmed devices use a 20th of that"""


def match(case: Case) -> Chain:
    forms = {"nearest": _nearest, "stands": _stands, "rounds": _rounds, "energy": energy_rounds}
    return forms[case.rule["form"]](case)


def _nearest(case: Case) -> Chain:
    reference = case.reference["scores"].astype(np.float64)
    got = case.got["scores"].astype(np.float64)
    # An error of e in X_j, which subtractions left little of, is one of 2 e sqrt(score_j) in the score. The mean is
    # made of all rows, and as exact as the longest of them; of the turn of the directions a row meets a part.
    length, turn = case.quantities["length"].astype(np.float64), float(case.quantities["turn"][0])
    off = case.cosine_error * (length.max() + TURNED * turn * length)
    scale = (2 * off * np.sqrt(reference.clip(0)) + off**2).clip(1e-30) / case.bound
    errors = np.abs(got - reference) + (COSINE_NOISE * length) ** 2  # of which nothing is left
    kept = np.asarray(case.got["indices"], np.int64)
    chosen = cut(reference, kept, np.ones(len(reference), bool), errors, case.eps)
    others = np.setdiff1d(np.arange(len(reference)), kept)
    error, relative = largest(np.abs(got - reference)), largest(np.abs(got - reference) / scale)
    merges, defects = _joins(case, others, kept, 0.0)
    return joined([chosen, merges], error, relative, [*defects, *out_of_order(case)])


def _stands(case: Case) -> Chain:
    dominant, contextual = int(case.rule["dominant"]), int(case.rule["contextual"])
    tiers = tiers_of(case.got["scores"])
    reference, error, relative, errors = compared(case)
    every = np.ones(len(tiers), bool)
    lead = np.flatnonzero(tiers == 2)
    rest = np.setdiff1d(np.arange(len(tiers)), lead)
    step = max(1, len(rest) // max(contextual, 1))
    stands = rest[::step][:contextual]
    defects = []
    if len(lead) != dominant or not np.array_equal(np.flatnonzero(tiers == 1), stands):
        defects.append(f"the scores must mark {dominant} dominant patches and every {step}-th of the others")
    elif not np.array_equal(np.sort(np.concatenate((lead, stands))), case.got["indices"]):
        defects.append("the kept patches are not those that the scores mark")
    chains = [cut(reference, lead, every, errors, case.eps)]
    if contextual and not defects:
        merges, more = _joins(case, np.setdiff1d(rest, stands), stands, relative)
        chains.append(merges)
        defects += more
    return joined(chains, error, relative, [*defects, *out_of_order(case)])


def _joins(case: Case, others: np.ndarray, targets: np.ndarray, relative: float) -> tuple[Chain, list[str]]:
    """Each of the others must have gone to the nearest of the targets: -> chain, what is no merge at all."""
    origin, kept = np.asarray(case.got["origin"], np.int64), np.asarray(case.got["indices"], np.int64)
    defects = []
    if len(kept) and not np.array_equal(origin[kept], np.arange(len(kept))):
        defects.append("a kept patch must be of its own token")
    if not len(others):
        return NOTHING, defects
    went = np.where(origin[others] >= 0, kept[origin[others]], -1)
    if not np.isin(went, targets).all():
        return NOTHING, [*defects, "a patch went to a token that takes none"]
    alike = case.quantities["similarity"].astype(np.float64)[np.ix_(others, targets)]
    tolerance = 2 * _cosine_error(case, relative) + case.eps
    return nearest(alike, np.searchsorted(targets, went), tolerance), defects


def _rounds(case: Case) -> Chain:
    origin, order = (np.asarray(case.got[name], np.int64) for name in ("origin", "order"))
    through = tiers_of(case.got["scores"])
    errors = np.abs(parted(case.got["scores"]) - parted(case.reference["scores"]))
    error = largest(errors)
    noise = _cosine_error(case, 2 * error)  # a score has half of a cosine
    products = case.quantities["products"].astype(np.float64)
    patches = len(through)
    names, mix = np.arange(patches), np.eye(patches)  # what each token is made of
    size, weighted = np.ones(patches), bool(case.rule.get("by_size"))
    root = names  # whose token each patch is by now
    chains: list[Chain] = []
    defects: list[str] = []
    for turn, count in enumerate(int(count) for count in case.rule["merged"]):
        a, b = names[0::2], names[1::2]
        gone = through[a] == turn
        if gone.sum() != count or (through[b] == turn).any():
            defects.append(f"round {turn + 1} must merge {count} of the tokens at even places")
            break
        alike = cosines(mix[a], mix[b], products)
        best = np.zeros(patches)
        best[a] = alike.max(axis=1)
        chains.append(cut(best, a[gone], mask(patches, a), noise, case.eps))
        joins = order[a[gone], None] == b
        if not joins.any(axis=1).all():
            defects.append("a patch went to a token that none of its round became")
            break
        into = joins.argmax(axis=1)
        renamed = np.arange(patches)
        renamed[a[gone]] = b[into]
        root = renamed[root]
        chains.append(nearest(alike[gone], into, 2 * noise + case.eps))
        share = size if weighted else np.ones(patches)
        total, shares = mix[b] * share[b, None], share[b]
        np.add.at(total, into, mix[a[gone]] * share[a[gone], None])
        np.add.at(shares, into, share[a[gone]])
        mix[b] = total / shares[:, None]
        size[b] += np.bincount(into, weights=size[a[gone]], minlength=len(b))
        alone = a[~gone]
        names = np.concatenate((alone[np.argsort(best[alone], kind="stable")], b))
    if not defects:
        kept = np.sort(names)
        if not np.array_equal(kept, case.got["indices"]) or (through[kept] != len(case.rule["merged"])).any():
            defects.append("the kept patches are not what the rounds leave")
        elif not np.array_equal(kept[origin], root):
            defects.append("origin is not where the rounds took each patch")
    return joined([NOTHING, *chains], error, 2 * error, defects)


def _cosine_error(case: Case, relative: float) -> float:
    return 2 * largest(case.unseen, relative) + COSINE_NOISE
