"""Received: keep the patches that an early layer attends to, and drop the others there.

    score[j] = mean over heads and queries of A[i, j]        A: attention of layer l, by option `layer`

Nothing behind layer l runs on the others. It is the shallow half of HiPrune without its anchors, put inside the
encoder: a baseline for scorers that are trained.

Source  the column mean of https://arxiv.org/abs/2508.00553; dropping inside the encoder is ours
"""

from __future__ import annotations

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
    layer: int = 2
    traits: ClassVar[Traits] = Traits(
        reads=("attention map of an early layer",), multiply_adds="341 M", query_rows=None, inside=True
    )

    def steps(self, depth: int) -> tuple[int, ...]:
        return (self.layer,)

    def layers(self, depth: int) -> tuple[int, ...]:
        if depth < 2:
            raise MethodError(f"received chooses behind a layer and in front of another one; this encoder has {depth}")
        if not 0 < self.layer < depth:
            raise MethodError(f"option layer of received must be in 1..{depth - 1}, got {self.layer}")
        return (self.layer - 1,)

    def rule(self, patches: int) -> dict[str, Any]:
        return {"name": "topk", "shares": True}

    def select(self, taps: Taps) -> Selection:
        scores = taps.column_mean(self.layer - 1)
        indices, picks = ranked_top(scores, self.keep)
        return Selection(indices, scores, picks=picks)

    def official(self, eager: Eager) -> Selection:
        received = eager.attentions[self.layer - 1].sum(dim=2)
        score = received.mean(dim=1) / received.shape[2]
        score = score[:, eager.prefix : eager.prefix + eager.features.shape[1]]
        chosen = score.topk(self.keep, dim=1).indices
        return Selection(chosen.sort(dim=1).values, score, picks=chosen)
