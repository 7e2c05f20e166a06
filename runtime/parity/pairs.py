"""`pairs`: of the rows at even places those most like one at an odd place join it. One step of ToMe. numpy only.

quantities   `similarity` [n, n], cosines of the rows' keys; score 1 - highest cosine of a row at an even place
decisions    a cut: the r even rows of the highest cosine merge; each of them joins the most similar odd row

What merges are judged by leaves the graph as the scores: the error of a cosine is taken for the largest of theirs.
"""

from __future__ import annotations

import numpy as np

from edgeprune.runtime.parity.decisions import COSINE_NOISE, Case, Chain, cut, joined, largest, mask
from edgeprune.runtime.parity.topk import measured

__all__ = ["pairs"]


def pairs(case: Case) -> Chain:
    reference, trail = case.reference["scores"].astype(np.float64), case.got["trail"].astype(np.int64)
    error, relative, errors = measured(case.got["scores"], reference)
    stays = case.got["indices"].astype(np.int64)
    count = len(reference)
    even, odd = np.arange(0, count, 2), np.arange(1, count, 2)
    if not np.isin(odd, stays).all():
        return Chain(*(np.zeros(0),) * 3, error, relative, ["a row at an odd place must go on"])
    gone = np.setdiff1d(even, stays)
    noise = np.maximum(errors, COSINE_NOISE)
    chosen = cut(-reference, gone, mask(count, even), noise, case.eps)
    target = stays[trail[gone]]
    if not np.isin(target, odd).all():
        return Chain(*(np.zeros(0),) * 3, error, relative, ["a row went to one at an even place"])
    alike = case.quantities["similarity"].astype(np.float64)[np.ix_(gone, odd)]
    got = alike[np.arange(len(gone)), np.searchsorted(odd, target)]
    highest = np.sort(alike, axis=1)
    second = highest[:, -2] if len(odd) > 1 else np.full(len(gone), -np.inf)
    tolerance = np.full(len(gone), 2 * max(largest(errors), COSINE_NOISE) + case.eps)
    return joined([chosen, Chain(highest[:, -1] - got, tolerance, np.abs(got - second))], error, relative)
