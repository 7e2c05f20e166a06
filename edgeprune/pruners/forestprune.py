"""ForestPrune: keep what is central in its frame and new in the video, the roots of trees over its frames.

    A        = softmax of cos(x_i, x_j) / .03 over the patches j of a frame with cos >= .5      x: behind the projector
    score[j] = ((|x|) A^5)[j] / how many such patches j has                             the highest half of each frame
    joins    frame by frame, each patch of the half: the tree of the patch of an earlier frame that is most like it, of
             those with cos >= .9 that are no further than .2 of the grid away, along rows and along columns
    depth    0 of one that joins none, the root of a tree; else 1 more than its tree had before this frame
    r[j]     of a root: the cosine at which it goes, when of the most alike pair of those that are left the later one
             does, again and again
    kept     the roots of the lowest r; where there are not so many, the smallest depths, the earliest first

    score[j] = (1 - r) / 2 of a root; 1 - j / N - 2 depth of what is deeper; of what is in no half its part of the
               highest score - 2 frames

What goes first goes at the highest cosine, and i before j is there when their cosine is reached unless it went at a
higher one: r[j] = max of cos(x_i, x_j) > r[i] over the roots i before j. All of them are found at once, in rounds: each
takes r of the round before, and is right where chains of roots that hang on each other are not longer than rounds.

One image alone is one frame: all of its half are roots, and what is kept of them is what is not alike.

Paper   https://arxiv.org/abs/2603.22911
Source  luminousllsa/ForestPrune@1686829 llava/model/llava_arch_forest.py; it has no licence: the mathematics only
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from edgeprune import pruners
from edgeprune.pruners import Eager, Selection, Traits
from edgeprune.pruners._greedy import cosine
from edgeprune.pruners._loop import State, repeat
from edgeprune.pruners._select import ranked_top
from edgeprune.taps import Taps

SHARE, LIKE, TEMPERATURE, POWER = 0.5, 0.5, 0.03, 5
"""of a frame that goes on; the cosine of patches that attend to each other, what it is divided by, and how often they
do"""
JOINS, REACH = 0.9, 0.2
"""the cosine of a patch with one of a tree that it joins, and how far away that may be, in parts of the grid"""
NONE = -1.0
"""no cosine is less"""
ROUNDS = 32
"""in which it is found when roots go: probes of the embedded model settle in 9 or fewer, 1568 patches of a random walk
in 18"""


def half(patches: int) -> int:
    """How many patches of a frame go on.

    >>> half(144), half(25), half(1)
    (72, 12, 1)
    """
    return max(1, round(patches * SHARE))


def reaches(side: int) -> int:
    """How many rows, or columns, away a patch may be.

    >>> reaches(14), reaches(11), reaches(1)
    (2, 2, 0)
    """
    return int(REACH * max(side - 1, 1) + 1e-9)


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    written_from: ClassVar[str] = "official code at luminousllsa/ForestPrune@1686829"
    traits: ClassVar[Traits] = Traits(
        reads=("projected features",),
        multiply_adds="1021 M",
        early=False,
        pools_tiles=True,
        pools_frames=True,
        whole_grid=True,
        official_in_onnx=False,
        nested=True,
        emits=("picks", "order", "worth"),
        deviations=(
            "of equal depths in one frame the first patches are kept, and of equal cosines the earliest patch is "
            "joined; the official code leaves the first open, and joins the nearest",
            "what is exactly a fifth of the grid away is within reach; in the official code rounding says so or not",
            f"when roots go is found in {ROUNDS} rounds, more than chains of roots that hang on each other are long in "
            "any but contrived images",
            "a budget of more than half of all patches is filled up by the scores of the others; the official code "
            "keeps fewer",
            "cosines are float32 in every precision; the official code has them in the model's dtype",
        ),
        on_tiles=("the tiles of an image are taken for frames, in their order",),
    )

    def rule(self, patches: int) -> dict[str, Any]:
        return {"name": "forest", "share": SHARE, "like": LIKE, "joins": JOINS, "times": POWER / TEMPERATURE}

    def select(self, taps: Taps) -> Selection:
        x, (rows, columns) = taps.projected.float(), taps.grid
        size, total = rows * columns, x.shape[1]
        frames, number = total // size, torch.arange(total)
        alike = cosine(x)
        own = torch.stack([alike[:, at : at + size, at : at + size] for at in range(0, total, size)], dim=1)
        like = own >= LIKE
        attended = torch.where(like, own / TEMPERATURE, -torch.inf).softmax(dim=-1)
        received = torch.linalg.vector_norm(x, dim=-1).reshape(-1, frames, 1, size)
        for _ in range(POWER):
            received = received @ attended
        received, many = received.flatten(1), like.sum(dim=-1).flatten(1)
        score = received / many.float()
        best = score.reshape(-1, frames, size).topk(half(size), dim=-1).indices
        inside = (best.unsqueeze(-1) == torch.arange(size)).any(dim=-2).flatten(1)
        tree, depth = _trees(alike, inside, rows, columns)
        worst = _went(alike, inside & (depth == 0))
        deep = torch.where(depth == 0, ((1 - worst) / 2).clamp(0, 1), 1 - number / total) - 2 * depth
        rest = score / score.amax(dim=-1, keepdim=True) - 2.0 * frames
        scores = torch.where(inside, deep, rest)
        indices, picks = ranked_top(scores, self.keep)
        return Selection(indices, scores, picks=picks, order=torch.cat((tree, many - 1), dim=1), worth=received)

    def official(self, eager: Eager) -> Selection:
        x, (rows, columns) = eager.projected.float(), eager.grid
        size = rows * columns
        said = [_official(one, rows, columns) for one in x]
        scores, tree, many, received, similarity = (torch.stack(each) for each in zip(*said, strict=True))
        picks = scores.argsort(dim=1, descending=True, stable=True)[:, : self.keep]
        frame, place = torch.arange(x.shape[1]) // size, torch.arange(x.shape[1]) % size
        within = [REACH * max(side - 1, 1) for side in (rows, columns)]
        where = torch.stack((frame, place // columns / within[0], place % columns / within[1]), dim=1)
        return Selection(
            picks.sort(dim=1).values,
            scores,
            picks=picks,
            order=torch.cat((tree, many - 1), dim=1),
            worth=received,
            quantities={
                "similarity": similarity,
                "received": received,
                "place": where.float().expand(len(x), -1, -1),
            },
        )


def _trees(alike: Tensor, inside: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """alike: [B, N, N], inside: [B, N] bool -> the root of each patch's tree [B, N] int64, itself where it is in no
    half; its depth [B, N] float32"""
    size, total = rows * columns, inside.shape[1]
    row, column = torch.arange(size) // columns, torch.arange(size) % columns
    near = ((row.unsqueeze(-1) - row).abs() <= reaches(rows)) & (
        (column.unsqueeze(-1) - column).abs() <= reaches(columns)
    )
    number = torch.arange(total)
    tree, depth = number[:size].expand(inside.shape[0], -1), torch.zeros_like(alike[:, 0, :size])
    for at in range(size, total, size):
        now, count = slice(at, at + size), at // size
        earlier = near & inside[:, :at].reshape(-1, count, size, 1)
        block = alike[:, :at, now].reshape(-1, count, size, size)
        best, nearest = torch.where(earlier, block, NONE).flatten(1, 2).max(dim=1)
        joined = torch.where(inside[:, now] & (best >= JOINS), tree.gather(1, nearest), number[now])
        same = tree.unsqueeze(2) == joined.unsqueeze(1)
        deeper = torch.where(same, depth.unsqueeze(2) + 1, 0.0).amax(dim=1)
        tree, depth = torch.cat((tree, joined), dim=1), torch.cat((depth, deeper), dim=1)
    return tree, depth


def _went(alike: Tensor, roots: Tensor) -> Tensor:
    """The cosine at which each root goes: [B, N, N], [B, N] bool -> [B, N] float32; of what is none it says nothing."""
    number = torch.arange(roots.shape[1])
    before = torch.where(roots.unsqueeze(1) & (number < number.unsqueeze(-1)), alike, NONE)

    def step(carry: State, at: Tensor | int) -> tuple[State, Tensor]:
        went = torch.where(before > carry[0].unsqueeze(1), before, NONE).amax(dim=-1)
        return (went,), went[:, :1]

    (went,), _ = repeat(step, (alike[:, 0] * 0 + NONE,), ROUNDS)
    return went


def _official(x: Tensor, rows: int, columns: int) -> tuple[Tensor, ...]:
    """One image, or the frames of one video, [N, D] -> scores, root of the tree, how many are like it, what it
    received, [N] each; cosines [N, N]"""
    total, size = len(x), rows * columns
    frames, unit = total // size, torch.nn.functional.normalize(x, dim=1)
    similarity = torch.mm(unit, unit.T)
    received, many, inside = [], [], []
    for at in range(0, total, size):
        own = similarity[at : at + size, at : at + size]
        a = (own / TEMPERATURE).masked_fill(own < LIKE, -torch.inf).softmax(dim=1)
        many.append((a > 0).sum(dim=1))
        received.append(x[at : at + size].norm(dim=1) @ torch.matrix_power(a, POWER))
        best = (received[-1] / many[-1]).argsort(descending=True, stable=True)[: max(1, round(SHARE * size))]
        inside += sorted((best + at).tolist())
    place = torch.arange(total) % size
    spot = torch.stack((place // columns / max(rows - 1, 1), place % columns / max(columns - 1, 1)), dim=1)
    root, depth = list(range(total)), dict[int, int]()
    tail = dict[int, int]()
    for frame in range(frames):
        before = [j for j in inside if j // size < frame]
        new = [j for j in inside if j // size == frame]
        depth |= dict.fromkeys(new, 0)
        if before:
            apart = (spot[before][:, None] - spot[new]).abs().amax(dim=2)
            most, nearest = similarity[before][:, new].masked_fill(apart > REACH + 1e-6, NONE).max(dim=0)
            for j, cos, at in zip(new, most.tolist(), nearest.tolist(), strict=True):
                if cos >= JOINS:
                    root[j] = root[before[at]]
                    depth[j] = depth[tail[root[j]]] + 1
        tail |= {root[j]: j for j in new}
    roots = [j for j in inside if root[j] == j]
    first, later = (torch.tensor(roots)[one] for one in torch.triu_indices(len(roots), len(roots), 1))
    falling = similarity[first, later].sort(descending=True)
    left, went = set(roots), dict.fromkeys(roots, NONE)
    for cos, at in zip(falling.values.tolist(), falling.indices.tolist(), strict=True):
        if int(first[at]) in left and int(later[at]) in left:
            left.remove(int(later[at]))
            went[int(later[at])] = cos
    counted, weight = torch.cat(many), torch.cat(received)
    value = weight / counted
    scores = value / value.max() - 2 * frames
    for j in inside:
        scores[j] = 1 - j / total - 2 * depth[j] if depth[j] else (1 - went[j]) / 2
    return scores, torch.tensor(root), counted, weight, similarity
