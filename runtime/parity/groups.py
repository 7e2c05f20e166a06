"""`groups`: of each group those that stand, whom none before them is alike, and then the others. numpy only.

    order    the group that each patch is of: the strongest of its `directions` [N, G]; worth: how strong    prunesid
             that is. A relative error of the features turns a direction `turn` [G] times as far, and float32 alone by
             as much as `rounding` [G]
    stands   a patch whose cosine, `similarity`, with no other that stands in its group is above the `threshold`; the
             others each have one that stands, and comes first by s, whom they are more alike than that
    share    what the rule makes of how many there are in each group and how many stand, by `most`: no decision
    then     the `share` highest of each group, those that stand first
    score    s + 4 of a kept patch, + 2 of one that stands

Three decisions: of every patch its group, and whether it stands, and of every kept one the cut of its group.
"""

from __future__ import annotations

from dataclasses import replace

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
from edgeprune.runtime.parity.tiers import compared, tiers_of
from edgeprune.runtime.parity.worth import together, worth

__all__ = ["groups"]

MORE = 4
"""than such errors turn directions that are drawn, those of a device may: unharmed ones up to 2.6 times as far"""
NO_COSINE = -1.0


def groups(case: Case) -> Chain:
    order, tiers = np.asarray(case.got["order"], np.int64), tiers_of(case.got["scores"])
    reference, error, relative, errors = compared(case)
    directions = case.quantities["directions"].astype(np.float64)
    count = directions.shape[1]
    if order.max(initial=0) >= count:
        return joined([NOTHING], error, relative, [f"order must name one of {count} groups"])
    stands, kept = tiers % 2 == 1, mask(len(order), np.asarray(case.got["indices"], np.int64))
    grouped, apart, turned = _grouped(case, order, directions)
    parts, share, defects = [], np.zeros(count, int), []
    sizes, standing = (np.bincount(order[one], minlength=count) for one in (order >= 0, stands))
    if not np.array_equal(tiers >= 2, kept):
        defects.append("the scores must mark the kept patches")
    if ((sizes > 0) & (standing == 0)).any():
        defects.append("a group must have a patch that stands")
    else:
        share = shares(sizes, standing, case.keep, int(case.rule["most"]))
    for one in range(count):
        here = order == one
        if (kept & here).sum() != share[one]:
            defects.append(f"group {one} must keep {share[one]} patches, got {(kept & here).sum()}")
        if (kept & here & ~stands).any() and (here & stands & ~kept).any():
            defects.append(f"group {one} must keep all that stand in it before the others")
        for among in (here & stands, here & ~stands):
            parts.append(cut(reference, np.flatnonzero(kept & among), among, errors, case.eps))
    chosen = joined(parts)
    chosen = replace(chosen, sets=[together(chosen.sets)])
    chains = [grouped, _stood(case, order, stands, reference, errors), chosen]
    return joined(chains, largest(error, apart), largest(relative, turned), [*defects, *out_of_order(case)])


def shares(sizes: np.ndarray, standing: np.ndarray, keep: int, most: int) -> np.ndarray:
    """How many of each group are kept: [G] whole numbers each, of how many there are and stand."""
    upper = np.minimum(np.minimum(sizes, standing), most)
    while upper.sum() < keep:
        upper = np.minimum(upper + 1, sizes)
    least = np.minimum(sizes, 1)
    others, every = keep - least.sum(), standing.sum()
    whole, rest = np.divmod(np.cumsum(standing) * others, every)
    whole = whole + (2 * rest > every) + ((2 * rest == every) & (whole % 2 == 1))  # halves to the even number
    share = np.minimum(least + np.diff(whole, prepend=0), upper)
    for one in np.argsort(-standing, kind="stable"):
        share[one] += min(upper[one] - share[one], keep - share.sum())
    return np.asarray(share)


def _grouped(case: Case, order: np.ndarray, directions: np.ndarray) -> tuple[Chain, float, float]:
    """Is each patch of the group of its strongest direction? -> chain, the largest error of `worth`, that over what it
    may be."""
    patches, count = directions.shape
    got, own = case.got["worth"].astype(np.float64), directions[np.arange(patches), order]
    best, errors = directions.argmax(axis=1), np.abs(got - own)
    turn, rounding = (case.quantities[name].astype(np.float64) for name in ("turn", "rounding"))
    off = case.cosine_error * turn + rounding
    allowed = case.cosine_error * MORE * turn + rounding
    near = np.array([largest(errors[order == one], off[one]) for one in range(count)])
    tolerance = 2 * np.maximum(near[order], near[best]) + COSINE_NOISE
    others = directions.copy()
    others[np.arange(patches), order] = -np.inf
    highest = others.max(axis=1) if count > 1 else own - np.inf
    top = np.maximum(highest, own)
    chain = Chain(
        np.maximum(highest - own, 0), tolerance, np.abs(highest - own), sets=[worth(top, own, directions.mean(axis=1))]
    )
    return chain, largest(errors), largest(case.bound * errors / allowed[order])


def _stood(case: Case, order: np.ndarray, stands: np.ndarray, reference: np.ndarray, errors: np.ndarray) -> Chain:
    """Is each patch that stands like none that does, and each other like one before it?"""
    similarity, threshold = case.quantities["similarity"].astype(np.float64), float(case.quantities["threshold"][0])
    off = (
        2 * case.cosine_error * (1 + float(case.rule["times"]))
    )  # of a cosine, and of the mean that it is held against
    same = (order[:, None] == order) & stands  # of i, whether j stands in its group
    np.fill_diagonal(same, False)
    later = reference[:, None] - reference  # how far i should come first
    slack = 2 * np.maximum(errors[:, None], errors) + case.eps * reference.max(initial=0)
    alike = np.where(same, similarity, NO_COSINE)
    sure, edge = (np.where(later < limit, alike, NO_COSINE).max(axis=1) for limit in (-slack, slack))
    over = np.where(stands, alike.max(axis=1) - threshold, threshold - edge)
    margin = np.where(stands, np.abs(over), np.maximum(sure - threshold, 0))
    return Chain(np.maximum(over, 0), np.full(len(order), off), margin)
