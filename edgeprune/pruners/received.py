"""Received: keep the patches that a layer on the way attends to, and drop the others there.

    score[j] = mean over heads and queries of A[i, j]        A: attention of layer l, by option `layer`

Nothing behind layer l runs on the others. It is the shallow half of HiPrune without its anchors, put inside the
encoder: a baseline for scorers that are trained.

By default l lies two thirds of the way up. In early layers patches attend to what matters least, and this does worse
than chance; further up less is saved. Measured behind every layer, without any training:

    drawn scenes' YOLOS of 6 layers, 600 scenes, mAP at .5 of the patches, unpruned 92.4 (random patches dropped there)
        layer 1: 12.4 (43.6)   2: 46.4 (55.3)   3: 90.3 (68.5)   4: 91.6 (83.7)   5: 91.2 (88.0)
        `edgeprune bavit eval --received 1,2,3,4,5 --shares 0.75,0.5`
    tiny LLaVA, 5 layers in front of the features, 300 scenes, % right at 64 / 32 of 144 tokens, unpruned 90.6
        layer 1: 47.0 / 41.9   2: 53.5 / 43.3   3: 63.7 / 53.3   4: 83.6 / 75.8
        `edgeprune sweep --methods received:layer=1,received:layer=2,received:layer=3,received --keep 64,32`

On the LLaVA it loses against random patches behind the encoder (88.3 / 82.8) wherever it drops.

Source  the column mean of https://arxiv.org/abs/2508.00553; dropping inside the encoder is ours
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from edgeprune import pruners
from edgeprune.errors import MethodError
from edgeprune.pruners import Eager, Selection, Traits
from edgeprune.pruners._select import ranked_top
from edgeprune.taps import Taps


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    layer: int = 0
    """from 1; 0: two thirds of the way up the encoder"""
    written_from: ClassVar[str] = "ours"
    traits: ClassVar[Traits] = Traits(
        reads=("attention map of an early layer",), multiply_adds="341 M", query_rows=None, inside=True
    )

    def steps(self, depth: int) -> tuple[int, ...]:
        return (self._behind(depth),)

    def layers(self, depth: int) -> tuple[int, ...]:
        if depth < 2:
            raise MethodError(f"received chooses behind a layer and in front of another one; this encoder has {depth}")
        if not 0 <= self.layer < depth:
            raise MethodError(f"option layer of received must be in 1..{depth - 1}, got {self.layer}")
        return (self._behind(depth) - 1,)

    def warnings(self, depth: int) -> tuple[str, ...]:
        own = Method(self.keep)._behind(depth)
        if self._behind(depth) >= own:
            return ()
        return (
            f"received reads layer {self.layer} of {depth}, where attention can go to what matters least; measure "
            f"that, or leave option layer out: {own}",
        )

    def _behind(self, depth: int) -> int:
        """Layers in front of the place of dropping."""
        return self.layer or min(math.ceil(2 * depth / 3), depth - 1)

    def rule(self, patches: int) -> dict[str, Any]:
        return {"name": "topk", "shares": True}

    def select(self, taps: Taps) -> Selection:
        scores = taps.column_mean(self._behind(taps.depth) - 1)
        indices, picks = ranked_top(scores, self.keep)
        return Selection(indices, scores, picks=picks)

    def official(self, eager: Eager) -> Selection:
        received = eager.attentions[self.layer - 1].sum(dim=2)  # by default the last that is handed over
        score = received.mean(dim=1) / received.shape[2]
        score = score[:, eager.prefix : eager.prefix + eager.features.shape[1]]
        chosen = score.topk(self.keep, dim=1).indices
        return Selection(chosen.sort(dim=1).values, score, picks=chosen)
