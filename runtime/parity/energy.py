"""`energy`: of the rows of the highest energy every other one joins the most similar of the rest. One step of PiToMe.

quantities   `similarity` [n, n], cosines of the rows' keys; `margin`, by which f jumps at it: a cosine within
             rounding of it may stand on either side, which moves an energy by margin / n
scores       -E of a row that goes on alone or joins another one, TAKES - E of a row that others may join
decisions    2r picks: the row of the highest energy of all that are left, whose turn says whether it joins or takes;
             then each of the r that join goes to the most similar of the r that take

The order in which rows were picked is that of the device's own scores, in turns; whether it is right is judged by the
reference's. numpy only.
"""

from __future__ import annotations

import numpy as np

from edgeprune.runtime.parity.decisions import NEAR, Case, Chain, Floats, joined, largest
from edgeprune.runtime.parity.joins import nearest
from edgeprune.runtime.parity.topk import measured

__all__ = ["TAKES", "energy"]

TAKES = 4.0
"""above every energy, which lies in -1..1"""


def energy(case: Case) -> Chain:
    got, trail = case.got["scores"].astype(np.float64), case.got["trail"].astype(np.int64)
    takes = got > TAKES / 2
    own = _energies(got)
    true = _energies(case.reference["scores"].astype(np.float64))
    error, _, errors = measured(own, true)
    relative = largest(errors - _jumps(case)) / max(largest(np.abs(true)), 1e-30)
    kept = case.got["indices"].astype(np.int64)
    gone = np.setdiff1d(np.arange(len(trail)), kept)
    if takes.sum() != len(gone):
        return Chain(*(np.zeros(0),) * 3, error, relative, [f"the scores must mark {len(gone)} rows that take others"])
    takers = np.flatnonzero(takes)
    target = kept[trail[gone]]
    if (trail[gone] < 0).any() or not np.isin(target, takers).all() or np.isin(takers, gone).any():
        return Chain(*(np.zeros(0),) * 3, error, relative, ["a row went to one that takes none"])
    alike = case.quantities["similarity"].astype(np.float64)[np.ix_(gone, takers)]
    merges = nearest(alike, np.searchsorted(takers, target), 2 * case.cosine_error + case.eps)
    picked = _picked(true, _order(own, gone, takers), errors, case.eps)
    return joined([picked, merges], error, relative)


def _energies(scores: Floats) -> Floats:
    return np.where(scores > TAKES / 2, TAKES - scores, -scores)


def _jumps(case: Case) -> Floats:
    """[n]: how far an energy may be off because cosines stand at the margin."""
    margin = float(case.rule["margin"])
    near = np.abs(case.quantities["similarity"].astype(np.float64) - margin) <= 2 * case.cosine_error
    jumps: Floats = near.mean(axis=1) * margin
    return jumps


def _order(own: Floats, gone: np.ndarray, takers: np.ndarray) -> np.ndarray:
    """[2r]: rows in turns, those that join by falling energy, and behind each of them one that takes."""
    order = np.empty(2 * len(gone), np.int64)
    order[0::2], order[1::2] = (rows[np.argsort(-own[rows], kind="stable")] for rows in (gone, takers))
    return order


def _picked(true: Floats, order: np.ndarray, errors: Floats, eps: float) -> Chain:
    """Was each the highest of all that were left?"""
    scale = eps * largest(np.abs(true))
    left, regret, tolerance, margin = true.copy(), [], [], []
    for turn, row in enumerate(order):
        left[row] = -np.inf
        best = left.max()
        near = order[max(0, turn - NEAR) : turn + NEAR]
        regret.append(max(0.0, best - true[row]))
        margin.append(abs(true[row] - best))
        tolerance.append(2 * float(errors[near].max()) + scale)
    return Chain(np.array(regret), np.array(tolerance), np.array(margin))
