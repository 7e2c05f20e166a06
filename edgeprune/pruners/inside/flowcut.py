"""FlowCut: the rows that most information flows through go on, a few less behind every second layer.

    s_j = (a_j / sum a + v_j / sum v) * ||mean over heads of v_j||_1        a: mean over heads of A[cls, j]
          v_j = mean over heads of softmax(v_cls . v_j)
    cum = cum / 2 + s / 2, and s at first; the rows of the highest cum go on

Each step scores the two layers in front of it; steps behind every second layer score all of them, as the paper does.
The official counts hang on the image: with L layers in front of the last, behind layer i, an odd one from 0,
n -= round((n - T) / sqrt(L - i - 1) * (1 - (H / log n)^2)), H the entropy of a / sum a, and T are left in the end.
Here they are frozen: --schedule official takes the median of that rule over images, step by step (`edgeprune.frozen`).
Other reducers rank by it with --option score=flowcut, and lose less: what they drop is merged.

Paper   https://arxiv.org/abs/2505.19536
Source  TungChintao/FlowCut@a2ecd24 flowcut/utils_flowcut.py, flowcut/modeling_clip_flowcut.py
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
    bias: bool = False
    written_from: ClassVar[str] = "official code at TungChintao/FlowCut@a2ecd24"
    score: ClassVar[str] = "flowcut"  # type: ignore[misc]
    merges: ClassVar[bool] = False
    by_patch: ClassVar[bool] = True
    depths: ClassVar[tuple[float, ...]] = (0.2, 0.4, 0.6, 0.8)
    few: ClassVar[bool] = False
    even: ClassVar[bool] = True
    every: ClassVar[int] = 2
    frozen: ClassVar[bool] = True
    deviations: ClassVar[tuple[str, ...]] = (
        "how many rows go on is fixed; the official code drops more of an image whose attention is peaked",
        "scores are float32 in every precision",
    )

    def rule(self, step: Step) -> dict[str, Any]:
        return {"name": "topk"}

    def select(self, step: Step, taps: Taps, carried: Mapping[str, Tensor]) -> Reduction:
        scores, kept = ranked("flowcut", step, taps, carried)
        return Reduction(top_in_order(scores, step.keep), scores, carried=kept)

    def official(
        self, step: Step, eager: Eager, carried: Mapping[str, Tensor], rows: Tensor | None = None
    ) -> Reduction:
        scores, kept = officially_ranked("flowcut", step, eager, carried)
        chosen = scores.topk(step.keep, dim=1).indices.sort(dim=1).values if rows is None else rows
        return Reduction(chosen, scores, carried=kept)
