"""`chunks`: a share of the budget for each run of patches, then the highest of each. numpy only.

part    = K w / (sum of w + epsilon)            w: `weight` of each chunk, by the reference                holov
share   = floor(part), and 1 more for the heaviest; those of the device are how many of each it marked
then    the `share` highest scores of each chunk, and, where a chunk has fewer patches, of all that are left
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgeprune.runtime.parity.decisions import Case, Chain, cut, joined, largest, mask, out_of_order
from edgeprune.runtime.parity.tiers import compared, tiers_of
from edgeprune.runtime.parity.worth import Worth, together

__all__ = ["chunks"]


def chunks(case: Case) -> Chain:
    sizes = [int(size) for size in case.rule["sizes"]]
    marked = tiers_of(case.got["scores"]) > 0
    reference, error, relative, errors = compared(case)
    kept = mask(len(marked), case.got["indices"])
    shares = _shares(case, marked, sizes, largest(relative, case.unseen))
    cuts, ends = [], np.cumsum(sizes)
    for size, end in zip(sizes, ends, strict=True):
        here = mask(len(marked), np.arange(end - size, end))
        cuts.append(cut(reference, np.flatnonzero(marked & here), here, errors, case.eps))
    cuts.append(cut(reference, np.flatnonzero(kept & ~marked), ~marked, errors, case.eps))
    chosen = joined(cuts)
    chosen = replace(chosen, sets=[together(chosen.sets)])  # a chunk of next to nothing is no set of its own
    defects = [] if kept[marked].all() else ["a patch of a chunk's share is not kept"]
    return joined([shares, chosen], error, relative, [*defects, *out_of_order(case)])


def _shares(case: Case, marked: np.ndarray, sizes: list[int], relative: float) -> Chain:
    """One decision for each chunk: was its part rounded down, and was it among the heaviest that get one more?"""
    weight = case.quantities["weight"].astype(np.float64)
    part = case.keep * weight / (weight.sum() + float(case.rule["epsilon"]))
    share = np.add.reduceat(marked, np.cumsum([0, *sizes[:-1]])).astype(np.float64)
    full = share >= sizes  # as much as there is: its share may be larger
    floor = np.floor(part)
    tolerance = (2 * relative + 4 * case.eps) * case.keep * weight / weight.sum() + case.eps * case.keep
    more = share - floor
    # A share that is no floor, nor one more, comes of a part beyond the next whole number.
    beyond = np.where(full, 0.0, np.maximum(np.where(more < 0, part - share - 1, share - 1 - part), 0))
    regret, margin = beyond, np.abs(part - np.round(part))
    one_more, without = (more >= 1) & ~full, (more <= 0) & ~full
    if one_more.any() and without.any():
        over = np.maximum(weight[without].max() - weight, 0) * case.keep / weight.sum()
        regret = np.maximum(regret, np.where(one_more, over, 0))
    astray = Worth(float(regret.sum()), 0.0, float(case.keep))  # of the budget, in tokens
    return Chain(regret, tolerance, margin, sets=[astray])
