"""Drop: the rows of the highest score go on, the others are gone. The plain baseline of every merge.

Which score is the option `score` (`_scores`); by default the mean over heads of [CLS]'s attention.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from edgeprune.pruners._select import top_in_order
from edgeprune.pruners.inside import Eager, Reduction, Step
from edgeprune.pruners.inside._scores import Ranked, officially_ranked, ranked
from edgeprune.taps import Taps


@dataclass(frozen=True)
class Reducer(Ranked):
    score: str = "auto"
    bias: bool = False
    written_from: ClassVar[str] = "ours"
    merges: ClassVar[bool] = False

    def rule(self, step: Step) -> dict[str, Any]:
        return {"name": "topk", "shares": self.shares}

    def multiply_adds(self, step: Step, rows: int, width: int, heads: int) -> int:
        return self.ranking(rows, width)

    def select(self, step: Step, taps: Taps, carried: Mapping[str, Tensor]) -> Reduction:
        scores, kept = ranked(self.score, step, taps, carried)
        return Reduction(top_in_order(scores, step.keep), scores, carried=kept)

    def official(
        self, step: Step, eager: Eager, carried: Mapping[str, Tensor], rows: Tensor | None = None
    ) -> Reduction:
        scores, kept = officially_ranked(self.score, step, eager, carried)
        chosen = scores.topk(step.keep, dim=1).indices.sort(dim=1).values if rows is None else rows
        return Reduction(chosen, scores, carried=kept)
