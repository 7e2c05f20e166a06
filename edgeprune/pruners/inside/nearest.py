"""Nearest: the rows of the highest score go on, and each of the others joins the one of these that is most like it.

    j -> argmax over kept i of cos(k_i, k_j)        k: keys of the layer in front of the step, mean over heads
    x_i <- sum s_j x_j / sum s_j        j: row i and all that join it; sizes s likewise; later logits += log s

Which score is the option `score` (`_scores`). Ours: the cut of a pruner with the merge of VisionZip's rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from edgeprune.pruners._greedy import unit
from edgeprune.pruners._select import lower_take, top_in_order
from edgeprune.pruners.inside import Eager, Reduction, Step
from edgeprune.pruners.inside._merges import own_or
from edgeprune.pruners.inside._scores import Ranked, officially_ranked, ranked
from edgeprune.taps import Taps


@dataclass(frozen=True)
class Reducer(Ranked):
    score: str = "auto"
    bias: bool = True
    written_from: ClassVar[str] = "ours"

    def rule(self, step: Step) -> dict[str, Any]:
        return {"name": "joins", "shares": self.shares}

    def multiply_adds(self, step: Step, rows: int, width: int, heads: int) -> int:
        return step.keep * rows * (width // heads + width) + self.ranking(rows, width)

    def select(self, step: Step, taps: Taps, carried: Mapping[str, Tensor]) -> Reduction:
        scores, kept = ranked(self.score, step, taps, carried)
        rows = top_in_order(scores, step.keep)
        keys = unit(taps.keys())
        near = (keys @ lower_take(keys, rows, 1).transpose(1, 2)).argmax(dim=-1)
        return Reduction(rows, scores, into=own_or(rows, near), carried=kept)

    def official(
        self, step: Step, eager: Eager, carried: Mapping[str, Tensor], rows: Tensor | None = None
    ) -> Reduction:
        scores, kept = officially_ranked(self.score, step, eager, carried)
        if rows is None:
            rows = scores.topk(step.keep, dim=1).indices.sort(dim=1).values
        keys = torch.nn.functional.normalize(eager.keys[:, :, eager.prefix :].mean(dim=1), dim=2)
        similarity = torch.bmm(keys, keys.mT)
        images = range(len(rows))
        into = torch.stack([similarity[at][:, rows[at]].argmax(dim=1) for at in images])
        into = into.scatter(1, rows, torch.arange(step.keep).repeat(len(rows), 1))
        return Reduction(rows, scores, into=into, carried=kept, quantities={"similarity": similarity})
