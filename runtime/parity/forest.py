"""`forest`: of each frame the highest half, trees of these over the frames, and what stands lowest. numpy only.

    many     how many patches of its frame each one is like, cosines, `similarity`, from `like` on          forestprune
             of `order` [2 N], its second half, less 1
    half     the highest of `received` / many of each frame; `worth` is what the device received
    tree     the patch at its root, the first half of `order`: that of the most alike, from `joins` on, of the earlier
             ones near it by `place` [N, 3], frame, row and column in units of how far it may be; else itself
    depth    of how many frames before there is a patch of that tree: no decision
    goes     of the most alike pair of roots that are left the later one, again and again, at the cosine r
    score    (1 - r) / 2 of a root, s - 2 depth of what is deeper, s - 2 frames of what is in no half

A relative error of the rows turns what a patch received `times` as far, of itself: logits are cosines over a small
number, taken so many times. Five decisions: of every patch how many are like it, the cut of every half, of every patch
of a later half its tree, of every root but the last when it goes, and the cut of the others where they fill up.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgeprune.runtime.parity.decisions import (
    COSINE_NOISE,
    NOTHING,
    Case,
    Chain,
    Floats,
    cut,
    joined,
    largest,
    mask,
    out_of_order,
)
from edgeprune.runtime.parity.greedy import BESIDE
from edgeprune.runtime.parity.tiers import TIER_ROUNDING, parted, tiers_of
from edgeprune.runtime.parity.worth import together, worth

__all__ = ["forest"]

NO_COSINE = -1.0
NEARBY = 1 + 1e-3
"""of the distance that is allowed: it is one of few, and `place` is rounded"""


def forest(case: Case) -> Chain:
    order, tiers = np.asarray(case.got["order"], np.int64), tiers_of(case.got["scores"])
    patches = len(tiers)
    tree, many = order[:patches], order[patches:] + 1
    place, similarity = (case.quantities[name].astype(np.float64) for name in ("place", "similarity"))
    if not np.isfinite(place).all():
        return joined([NOTHING], defects=["place must be finite"])
    frame = place[:, 0].astype(np.int64)
    frames = int(frame.max()) + 1
    size, inside, number = patches // frames, tiers > -frames, np.arange(patches)
    if len(order) != 2 * patches or many.max() > size:
        return joined([NOTHING], defects=[f"order must have a tree and up to {size} like it of each patch"])
    half = max(1, round(float(case.rule["share"]) * size))
    count = np.bincount(frame[inside], minlength=frames)
    if (count != half).any():
        return joined([NOTHING], defects=[f"the scores must mark {half} patches of each frame"])
    received, got = (one.astype(np.float64) for one in (case.quantities["received"], case.got["worth"]))
    off, value = np.abs(got - received), received / many
    allowed = received * case.cosine_error * (1 + float(case.rule["times"]))
    cuts = [cut(value, number[inside & (frame == one)], frame == one, off / many, case.eps) for one in range(frames)]
    halves = joined(cuts)
    kept = mask(patches, np.asarray(case.got["indices"], np.int64))
    filled = cut(value, number[kept & ~inside], ~inside, off / many, case.eps)
    roots = number[inside & (tree == number)]
    gone, apart = _gone(case, roots, similarity)
    chains = [
        _liked(case, many, frame, similarity),
        replace(halves, sets=[together(halves.sets)]),
        *(_joined(case, at, tree, inside, place, similarity) for at in range(1, frames)),
        gone,
        filled,
    ]
    relative = largest(case.bound * off / np.where(allowed > 0, allowed, 1), case.bound * apart / case.cosine_error)
    defects = _misplaced(case, tree, frame, inside, got / many)
    return joined(chains, largest(off, apart), relative, [*defects, *out_of_order(case)])


def _liked(case: Case, many: np.ndarray, frame: np.ndarray, similarity: Floats) -> Chain:
    """Is each patch like so many? Its cosines from the highest down must pass the threshold there."""
    like, above, below = float(case.rule["like"]), np.zeros(len(many)), np.zeros(len(many))
    for at, count in enumerate(many):
        falling = -np.sort(-similarity[at][frame == frame[at]])
        above[at] = falling[count - 1] - like
        below[at] = like - (falling[count] if count < len(falling) else NO_COSINE)
    least = np.minimum(above, below)
    return Chain(np.maximum(-least, 0), np.full(len(many), 2 * case.cosine_error), np.abs(least))


def _joined(case: Case, at: int, tree: np.ndarray, inside: np.ndarray, place: Floats, similarity: Floats) -> Chain:
    """Is each patch of the frame's half of the tree of the earlier one that is most like it, or of its own?"""
    now, before = (np.flatnonzero(inside & one) for one in (place[:, 0] == at, place[:, 0] < at))
    least = float(case.rule["joins"])
    near = (np.abs(place[now, None, 1:] - place[None, before, 1:]) <= NEARBY).all(axis=2)
    alike = np.where(near, similarity[np.ix_(now, before)], NO_COSINE)
    own, root = tree[now][:, None] == tree[before], tree[now] == now
    mine = np.where(root, least, np.where(own, alike, NO_COSINE).max(axis=1))
    other = np.maximum(np.where(own, NO_COSINE, alike).max(axis=1), np.where(root, NO_COSINE, least))
    over = other - mine
    mean = (least + np.where(near, alike, 0.0).sum(axis=1)) / (1 + near.sum(axis=1))
    lost = worth(np.maximum(mine, other), mine, mean)
    tolerance = np.full(len(now), 2 * case.cosine_error + case.eps)
    return Chain(np.maximum(over, 0), tolerance, np.abs(over), sets=[lost])


def _gone(case: Case, roots: np.ndarray, similarity: Floats) -> tuple[Chain, Floats]:
    """Is each root, but for the last, the later one of the most alike pair of those that are left when it goes? ->
    chain, how far off the cosine was that the device says"""
    said = 1 - 2 * parted(case.got["scores"])[roots]
    falling = np.argsort(-said, kind="stable")
    order, said = roots[falling], said[falling]
    count = len(order)
    first = np.triu(np.ones((count, count), bool), 1)
    pairs = np.where(first, similarity[np.ix_(order, order)], NO_COSINE)
    later = order[None, :] > order[:, None]  # of the pair that row and column are, the column
    mine, turned = (np.where(one, pairs, NO_COSINE).max(axis=1) for one in (~later, later))
    behind = np.append(np.maximum.accumulate(pairs.max(axis=1)[::-1])[::-1][1:], NO_COSINE)
    other, apart = np.maximum(turned, behind), np.abs(said - mine)
    if count == 1:
        return NOTHING, apart
    best, over = np.maximum(mine, other)[:-1], (other - mine)[:-1]
    near = np.array([apart[max(0, at - BESIDE) : at + BESIDE + 1].max() for at in range(count - 1)])
    lost = worth(best, mine[:-1], pairs[first].mean())
    tolerance = 2 * near + 2 * COSINE_NOISE + case.eps * np.abs(best)
    return Chain(np.maximum(over, 0), tolerance, np.abs(over), sets=[lost]), apart


def _misplaced(case: Case, tree: np.ndarray, frame: np.ndarray, inside: np.ndarray, value: Floats) -> list[str]:
    """What no device does whose scores are of its own trees."""
    patches, frames = len(tree), int(frame.max()) + 1
    number, scores, defects = np.arange(patches), case.got["scores"].astype(np.float64), list[str]()
    if (tree != number)[~inside | (frame == 0)].any():
        defects.append("a patch of the first frame, or of no half, must be a tree of its own")
    depth, tallest = np.zeros(patches, int), np.full(patches, -1)
    for at in range(frames):
        now = inside & (frame == at)
        depth[now] = tallest[tree[now]] + 1
        tallest[tree[now]] = depth[now]
    slack = 4 * TIER_ROUNDING * frames
    if (tiers_of(case.got["scores"])[inside] != -depth[inside]).any():
        defects.append("the scores must mark the depth of each patch in its tree")
    deep = inside & (depth > 0)
    if (np.abs(scores - (1 - number / patches - 2 * depth))[deep] > slack).any():
        defects.append("of one depth the scores must fall from the first patch to the last")
    if (np.abs(scores - (value / (value.max() or 1.0) - 2 * frames))[~inside] > slack).any():
        defects.append("the scores of what is in no half must be its part of the highest one's worth")
    return defects
