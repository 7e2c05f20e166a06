"""GTP: the rows of the lowest rank are dropped, and each hands a share of itself to its neighbours on the grid.

    score[j] = max over heads of A[j, j] * max over heads of sum over i of A[i, j]
    x_i <- x_i + alpha sum over dropped j of W[i, j] x_j        W = D^-1/2 G D^-1/2, G: the 8 neighbours on the grid
    s_i <- s_i + alpha sum over dropped j of W[i, j] s_j        D: how many these are; later logits += log s

--schedule official: as many rows behind every layer. The whole attention map is recomputed at each step.

Paper   https://arxiv.org/abs/2311.03035
Source  Ackesnal/GTP-ViT@97a1178 models_v3.py (MixedAttnMax, Spatial, GraphProp, token scale)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from edgeprune.pruners import inside
from edgeprune.pruners._select import lower_take, top_in_order
from edgeprune.pruners.inside import Eager, Reduction, Step
from edgeprune.taps import Taps


@dataclass(frozen=True)
class Reducer(inside.Reducer):
    alpha: float = 0.1
    bias: bool = True
    written_from: ClassVar[str] = "official code at Ackesnal/GTP-ViT@97a1178"
    by_patch: ClassVar[bool] = True
    depths: ClassVar[tuple[float, ...]] = (0.2, 0.4, 0.6, 0.8)
    even: ClassVar[bool] = True
    every: ClassVar[int] = 1
    deviations: ClassVar[tuple[str, ...]] = (
        "rows are dropped behind a whole layer; the official code drops them between its attention and its MLP",
        "the graph is that of the grid; the official code can add the most similar tokens",
        "attention keeps its small values; the official code can zero them by their rank among all",
        "rows stay in raster order; the official code sorts them by rank",
        "scores are float32 in every precision",
    )

    @property
    def reads_maps(self) -> bool:
        return True

    def rule(self, step: Step) -> dict[str, Any]:
        return {"name": "topk"}

    def multiply_adds(self, step: Step, rows: int, width: int, heads: int) -> int:
        return rows * rows * width + step.keep * rows * (width + 1)

    def select(self, step: Step, taps: Taps, carried: Mapping[str, Tensor]) -> Reduction:
        maps = taps.attention[step.layer - 1].weights()
        first, end = taps.prefix, maps.shape[3] - taps.suffix
        itself = maps.diagonal(dim1=2, dim2=3).amax(dim=1)[:, first:end]
        scores = itself * maps.sum(dim=2).amax(dim=1)[:, first:end]
        rows = top_in_order(scores, step.keep)
        count = scores.shape[1]
        same = rows.unsqueeze(-1) == torch.arange(count)  # [B, K, n]
        height, width = taps.grid
        every = [[at // width, at % width, _degree(at, taps.grid) ** -0.5] for at in range(height * width)]
        table = torch.tensor(every).expand(scores.shape[0], -1, -1)
        if taps.names is not None:
            table = lower_take(table.contiguous(), taps.names, 1)
        place, scale = table[:, :, :2], table[:, :, 2]
        far = (lower_take(place, rows, 1).unsqueeze(2) - place.unsqueeze(1)).abs().amax(dim=-1)
        near = (far < 1.5) & ~same.any(dim=1, keepdim=True)  # of the dropped ones
        share = near * scale.gather(1, rows).unsqueeze(-1) * scale.unsqueeze(1)
        weights = same + self.alpha * share
        size = torch.ones_like(scores) if taps.size is None else taps.size
        return Reduction(rows, scores, weights=weights, size=(weights @ size.unsqueeze(-1)).squeeze(-1))

    def official(
        self, step: Step, eager: Eager, carried: Mapping[str, Tensor], rows: Tensor | None = None
    ) -> Reduction:
        maps, first = eager.attentions[-1], eager.prefix
        rank = torch.diagonal(maps, dim1=-2, dim2=-1)[:, :, first:].max(dim=1).values
        rank = rank * maps[..., first:].sum(dim=-2).max(dim=1).values
        if rows is None:
            rows = rank.topk(step.keep, dim=1).indices.sort(dim=1).values
        graph = _graph(*eager.grid)
        weights, sizes = [], []
        for image, kept in enumerate(rows):
            names = eager.names[image]
            stays = torch.zeros(len(names), dtype=torch.bool).scatter(0, kept, True)
            here = graph[names[kept]][:, names]
            here[:, stays] = 0.0
            weights.append(torch.eye(len(names))[kept] + self.alpha * here)
            sizes.append(eager.size[image][kept] + self.alpha * here @ eager.size[image])
        return Reduction(rows, rank, weights=torch.stack(weights), size=torch.stack(sizes))


def _degree(at: int, grid: tuple[int, int]) -> int:
    """How many of the 8 neighbours are on the grid; 1 where none is.

    >>> [_degree(at, (3, 3)) for at in range(9)]
    [3, 5, 3, 5, 8, 5, 3, 5, 3]
    """
    down, right = divmod(at, grid[1])
    tall, wide = (1 + (at > 0) + (at < size - 1) for at, size in ((down, grid[0]), (right, grid[1])))
    return max(1, tall * wide - 1)


def _graph(height: int, width: int) -> Tensor:
    """[N, N], normalised symmetrically."""
    down = torch.arange(height).repeat_interleave(width)
    right = torch.arange(width).repeat(height)
    near = ((down[:, None] - down).abs() <= 1) & ((right[:, None] - right).abs() <= 1)
    graph = near.float() - torch.eye(height * width)
    root = graph.sum(dim=1).clamp(min=1).rsqrt()
    return root[:, None] * graph * root
