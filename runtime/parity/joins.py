"""`joins`: the highest rows go on, and each of the others joins the one of these that is most like it. numpy only.

quantities   `similarity` [n, n], cosines of the rows' keys
decisions    a cut by the scores (`topk`); then one for each row that is gone, which joined the most similar kept one

Keys do not leave the graph: the error of a cosine is that of rows as exact as the tokens.
"""

from __future__ import annotations

import numpy as np

from edgeprune.runtime.parity.decisions import NOTHING, Case, Chain, Floats, joined
from edgeprune.runtime.parity.topk import lower_went_on, topk
from edgeprune.runtime.parity.worth import worth

__all__ = ["joins", "nearest", "unjoined"]


def joins(case: Case) -> Chain:
    chosen, trail = topk(case), case.got["trail"].astype(np.int64)
    kept = case.got["indices"].astype(np.int64)
    gone = np.setdiff1d(np.arange(len(trail)), kept)
    alike = case.quantities["similarity"].astype(np.float64)[np.ix_(gone, kept)]
    return joined([chosen, nearest(alike, trail[gone], 2 * case.cosine_error + case.eps)])


def unjoined(case: Case) -> list[str]:
    """What a step of this kind never does: every row that does not go on joins one that does."""
    kept, trail, layer = case.got["indices"], case.got["trail"], case.rule["layer"]
    if trail.min() < 0 or trail.max() >= len(kept):
        return [f"a row that does not go on behind layer {layer} must join one that does"]
    return lower_went_on(case)


def nearest(alike: Floats, target: np.ndarray, tolerance: float) -> Chain:
    """Did each row join the most similar? alike: [A, B] cosines; target: [A], which of the B each one joined"""
    if not len(alike):
        return NOTHING
    got = alike[np.arange(len(alike)), target]
    ranked = np.sort(alike, axis=1)
    second = ranked[:, -2] if alike.shape[1] > 1 else np.full(len(alike), -np.inf)
    best = ranked[:, -1]
    lost = worth(best, got, alike.mean(axis=1))
    return Chain(best - got, np.full(len(alike), tolerance), np.abs(got - second), sets=[lost])
