"""FasterVLM: keep the patches that [CLS] attends to.

    score[j] = mean over heads of A[cls, j]        A: attention of the layer that produces the features

Paper   https://arxiv.org/abs/2412.01818
Source  Theia-4869/FasterVLM@f5d5f12 llava/model/multimodal_encoder/clip_encoder.py, llava/model/llava_arch.py
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from edgeprune import pruners
from edgeprune.pruners import Eager, Selection, Traits
from edgeprune.pruners._select import ranked_top
from edgeprune.taps import Taps


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    written_from: ClassVar[str] = "official code at Theia-4869/FasterVLM@f5d5f12"
    traits: ClassVar[Traits] = Traits(
        reads=("[CLS] attention",),
        multiply_adds="0.59 M",
        query_rows=1,
        ranks=True,
        nested=True,
        deviations=("scores are float32 in every precision; the official code averages heads in the model's dtype",),
    )

    def layers(self, depth: int) -> tuple[int, ...]:
        return (depth - 1,)

    def rule(self, patches: int) -> dict[str, Any]:
        return {"name": "topk", "shares": True}

    def select(self, taps: Taps) -> Selection:
        scores = taps.cls_attention().mean(dim=1)
        indices, picks = ranked_top(scores, self.keep)
        return Selection(indices, scores, picks=picks)

    def official(self, eager: Eager) -> Selection:
        cls_attention = eager.attentions[-1][:, :, 0, eager.prefix :].mean(dim=1)
        chosen = cls_attention.topk(self.keep, dim=1).indices
        return Selection(chosen.sort(dim=1).values, cls_attention, picks=chosen)
