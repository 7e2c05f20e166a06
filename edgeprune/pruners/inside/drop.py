"""Drop: the rows of the highest [CLS] attention go on, the others are gone. The plain baseline of every merge.

score[j] = mean over heads of A[cls, j]        A: attention of the layer in front of the step
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from edgeprune.pruners import inside
from edgeprune.pruners._select import top_in_order
from edgeprune.pruners.inside import Eager, Reduction, Step
from edgeprune.taps import Taps


@dataclass(frozen=True)
class Reducer(inside.Reducer):
    bias: bool = False
    merges: ClassVar[bool] = False
    needs_cls: ClassVar[bool] = True

    def rule(self, step: Step) -> dict[str, Any]:
        return {"name": "topk", "shares": True}

    def select(self, step: Step, taps: Taps, carried: Mapping[str, Tensor]) -> Reduction:
        scores = taps.cls_attention().mean(dim=1)
        return Reduction(top_in_order(scores, step.keep), scores)

    def official(
        self, step: Step, eager: Eager, carried: Mapping[str, Tensor], rows: Tensor | None = None
    ) -> Reduction:
        scores = eager.attentions[-1][:, :, 0, eager.prefix :].mean(dim=1)
        chosen = scores.topk(step.keep, dim=1).indices.sort(dim=1).values if rows is None else rows
        return Reduction(chosen, scores)
