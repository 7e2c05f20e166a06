"""HiPrune: keep what a middle layer attends to, its surroundings, and what the last layer attends to.

    deep[j]    = mean over heads and all queries of A[., j]        A: attention of the layer that produces the features
    shallow[j] = the same in the object layer
    anchors    = the round(K alpha / 5) patches with the highest shallow; buffers: the four neighbours of each
    score[j]   = deep[j] + 2 where j is an anchor or a buffer; the K highest are kept

Neighbours are `flat`, as in the official code: j - 1, j + 1, j - W, j + W, clamped to 0..N-1, so they wrap from one
row to the next, and patch 0 or N-1 stands in for what is beyond the border. `grid` takes only those that touch.

Paper   https://arxiv.org/abs/2508.00553
Source  Danielement321/HiPrune@6e83a12 LLaVA/llava/model/llava_arch.py, encode_images
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from edgeprune import pruners
from edgeprune.errors import MethodError, unknown_name
from edgeprune.pruners import Eager, Selection, Traits
from edgeprune.taps import Taps

FIRST = 2.0
"""what the first tier is above the other; a mean of attention is at most 1"""
PUBLISHED_LAYERS = {23: 9, 24: 9, 31: 16, 32: 16}
"""layers in front of the features -> the published object layer: CLIP ViT-L has 24 layers, LLaVA reads the 23rd"""


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    alpha: float = 0.1
    """how much of the budget anchors and buffers take, 0..1"""
    object_layer: int = 0
    """counted from 1; 0 for the published one"""
    neighbours: str = "flat"
    written_from: ClassVar[str] = "official code at Danielement321/HiPrune@6e83a12"
    traits: ClassVar[Traits] = Traits(
        whole_grid=True,
        reads=("attention maps of two layers",),
        multiply_adds="682 M",
        query_rows=None,
        deviations=("scores are float32 in every precision; the official code averages in the model's dtype",),
        on_tiles=("keep is the budget of each tile; the official code divides one budget by the tiles and the batch",),
    )

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise MethodError(f"option alpha of hiprune must be in 0..1, got {self.alpha:g}")
        if self.neighbours not in ("flat", "grid"):
            raise MethodError(unknown_name("neighbours", self.neighbours, ("flat", "grid")))
        if 5 * self._anchors > self.keep:
            raise MethodError(
                f"{self._anchors} anchors with 4 buffers each must fit into keep {self.keep}; lower option alpha, "
                f"{self.alpha:g}"
            )

    @property
    def _anchors(self) -> int:
        return round(self.keep * self.alpha / 5)  # halves to the even number, as in the official code

    def _object_layer(self, depth: int) -> int:
        """The object layer, from 0; by default the published one, or half way up the encoder and one more."""
        layer = self.object_layer or PUBLISHED_LAYERS.get(depth, min((depth + 1) // 2 + 1, depth))
        if not 1 <= layer <= depth:
            raise MethodError(f"option object_layer of hiprune must be in 1..{depth} on this encoder, got {layer}")
        return layer - 1

    def layers(self, depth: int) -> tuple[int, ...]:
        middle, last = self._object_layer(depth), depth - 1
        return (middle, last) if self._anchors and middle != last else (last,)

    def rule(self, patches: int) -> dict[str, Any]:
        return {"name": "stages", "anchors": self._anchors}

    def select(self, taps: Taps) -> Selection:
        scores = taps.column_mean()
        anchors = scores[:, :0].long()
        if self._anchors:
            anchors = taps.column_mean(self._object_layer(taps.depth)).topk(self._anchors, dim=1).indices
            around = torch.tensor(_surroundings(taps.grid, self.neighbours))
            marked = torch.nn.functional.embedding(anchors, around).flatten(1)
            chosen = (marked.unsqueeze(-1) == torch.arange(scores.shape[1])).any(dim=1)
            scores = scores + FIRST * chosen.float()
        # Anchors first, then the others by their score: picked for a second time, an anchor would come twice.
        ahead = (anchors.unsqueeze(-1) == torch.arange(scores.shape[1])).any(dim=1) if self._anchors else None
        rest = scores if ahead is None else torch.where(ahead, -1.0, scores)
        picks = torch.cat((anchors, rest.topk(self.keep - self._anchors, dim=1).indices), dim=1)
        return Selection(picks.sort(dim=1).values, scores, picks=picks)

    def official(self, eager: Eager) -> Selection:
        rows, columns = eager.grid
        deep = eager.attentions[-1].mean(dim=1).mean(dim=1)[:, eager.prefix :]
        shallow = eager.attentions[self._object_layer(len(eager.attentions))].mean(dim=1).mean(dim=1)[:, eager.prefix :]
        count = round(self.keep * self.alpha / 5)
        a = shallow.topk(count, dim=1).indices
        around = _beside(a[..., None], rows, columns, self.neighbours).flatten(1)
        first = torch.zeros_like(deep).scatter(1, around, 1.0)  # the union of the two
        rest = self.keep - first.sum(dim=1, keepdim=True)
        place = torch.argsort(torch.argsort(deep - first, dim=1, descending=True), dim=1)  # they come last: deep <= 1
        keep = torch.where(first > 0, torch.ones_like(first), (place < rest).to(first.dtype))
        indices = torch.topk(keep, self.keep, dim=1).indices.sort(dim=1).values
        scores = deep + 2 * first
        behind = scores.scatter(1, a, -1.0).topk(self.keep - count, dim=1).indices
        quantities = {"first": shallow}
        if count:
            every = torch.arange(rows * columns)[:, None]
            quantities["around"] = _beside(every, rows, columns, self.neighbours).repeat(len(deep), 1, 1).float()
        return Selection(indices, scores, picks=torch.cat((a, behind), dim=1), quantities=quantities)


def _beside(a: Tensor, rows: int, columns: int, neighbours: str) -> Tensor:
    """The anchors [..., 1] and their four neighbours, [..., 5], as the official code finds them."""
    if neighbours == "flat":
        return torch.cat([a, a - 1, a + 1, a - columns, a + columns], dim=-1).clamp(0, rows * columns - 1)
    row, column = a // columns, a % columns
    beside = [row * columns + (column + step).clamp(0, columns - 1) for step in (-1, 1)]
    above = [(row + step).clamp(0, rows - 1) * columns + column for step in (-1, 1)]
    return torch.cat([a, *beside, *above], dim=-1)


def _surroundings(grid: tuple[int, int], neighbours: str) -> list[list[int]]:
    """Each patch and its four neighbours; a neighbour that is not there is replaced by what the rule says.

    neighbours: "flat" or "grid" -> [N, 5] patches

    >>> _surroundings((2, 3), "flat")[3]
    [3, 2, 4, 0, 5]
    >>> _surroundings((2, 3), "grid")[3]
    [3, 3, 4, 0, 3]
    """
    rows, columns = grid
    last, steps = rows * columns - 1, (-1, 1, -columns, columns)
    around = []
    for at in range(rows * columns):
        row, column = divmod(at, columns)
        inside = (column > 0, column < columns - 1, row > 0, row < rows - 1)
        if neighbours == "flat":
            around.append([at, *(min(max(at + step, 0), last) for step in steps)])
        else:
            around.append([at, *(at + step if there else at for step, there in zip(steps, inside, strict=True))])
    return around
