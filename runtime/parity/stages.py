"""`stages`: several cuts, each among what is left: anchors with their surroundings, then the rest. numpy only.

    first    the anchors, which `picks` begin with: the highest of `first`             hiprune
    marked   an anchor and its four neighbours, by `around` [N, 5]; they are kept
    then     the highest of the others by s, where score = s + 2 of a marked patch

`first` does not leave the graph: its error is taken for that of s, relative to the largest, or of the tokens.
"""

from __future__ import annotations

import numpy as np

from edgeprune.runtime.parity.decisions import Case, Chain, cut, joined
from edgeprune.runtime.parity.topk import measured

__all__ = ["TIER_ROUNDING", "parted", "stages"]

TIER_ROUNDING = 2.0**-20
"""what s may lose to the 2 t in front of it, in float32, on both sides"""


def stages(case: Case) -> Chain:
    count, every = int(case.rule["anchors"]), np.ones(len(case.got["scores"]), bool)
    ranked, tiers = parted(case.got["scores"]), tiers_of(case.got["scores"])
    reference = parted(case.reference["scores"])
    error, relative, errors = measured(ranked, reference)
    if error <= TIER_ROUNDING:  # what s lost to the tier in front of it
        relative = min(relative, case.bound)
    anchors = case.picks[:count]
    marked = np.zeros(len(every), bool)
    if count:
        marked[case.quantities["around"][anchors].astype(np.int64).ravel()] = True
    defects = [] if np.array_equal(tiers > 0, marked) else ["the first picks are not anchors of the marked patches"]
    chosen = np.asarray(case.got["indices"], np.int64)
    if marked[chosen].sum() != marked.sum():
        defects.append("a marked patch is not kept")
    chains = []
    if count:
        first = case.quantities["first"].astype(np.float64)
        chains.append(cut(first, anchors, every, max(relative, case.unseen) * float(first.max()), case.eps))
    chains.append(cut(reference, chosen[~marked[chosen]], ~marked, errors, case.eps))
    return joined(chains, error, relative, defects)


def tiers_of(scores: np.ndarray) -> np.ndarray:
    """score = 2 t + s, s in 0..1 -> t"""
    tiers: np.ndarray = np.floor((scores.astype(np.float64) + TIER_ROUNDING) / 2)
    return tiers


def parted(scores: np.ndarray) -> np.ndarray:
    """score = 2 t + s -> s"""
    values: np.ndarray = scores.astype(np.float64) - 2 * tiers_of(scores)
    return values
