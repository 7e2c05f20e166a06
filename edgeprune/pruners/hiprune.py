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

from edgeprune import pruners
from edgeprune.errors import MethodError, unknown_name
from edgeprune.pruners import Eager, Selection, Traits
from edgeprune.pruners._anchors import surrounded, surrounded_as_published
from edgeprune.taps import Taps

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
        deep = taps.column_mean()
        shallow = taps.column_mean(self._object_layer(taps.depth)) if self._anchors else deep
        return surrounded(shallow, deep, self._anchors, self.keep, taps.grid, self.neighbours)

    def official(self, eager: Eager) -> Selection:
        deep = eager.attentions[-1].mean(dim=1).mean(dim=1)[:, eager.prefix :]
        shallow = eager.attentions[self._object_layer(len(eager.attentions))].mean(dim=1).mean(dim=1)[:, eager.prefix :]
        count = round(self.keep * self.alpha / 5)
        return surrounded_as_published(shallow, deep, count, self.keep, eager.grid, self.neighbours)
