"""Adaptive Sparse ViT: the rows that [CLS] attends to go on, each head counting as much as it gives the row.

    score[j] = sum over heads of A_h[cls, j] ||o_hj|| / sum over heads of ||o_hj||        o_h = A_h v_h: head h's output

Its trained thresholds, which let every image keep as many as it needs, have no static form: the count of a step is
fixed, and the score decides which. `edgeprune adapt --kind thresholds` trains them, and counts what they leave in the
mean over images, as the official code does of a batch; `edgeprune export --adapted` takes its steps from there.
The whole attention map is recomputed at each step.

Paper   https://arxiv.org/abs/2209.13802
Source  Cydia2018/AS-ViT@e57f445 vit.py
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from edgeprune.pruners import inside
from edgeprune.pruners._select import top_in_order
from edgeprune.pruners.inside import Eager, Reduction, Step
from edgeprune.taps import Taps


@dataclass(frozen=True)
class Reducer(inside.Reducer):
    bias: bool = False
    written_from: ClassVar[str] = "official code at Cydia2018/AS-ViT@e57f445"
    merges: ClassVar[bool] = False
    by_patch: ClassVar[bool] = True
    gated: ClassVar[bool] = True
    deviations: ClassVar[tuple[str, ...]] = (
        "a fixed count goes on at each step; of one image the official code takes what passes a trained threshold",
        "thresholds are trained of the score over its mean, and without the weights of the encoder, which stay",
        "scores are float32 in every precision",
    )

    @property
    def needs_cls(self) -> bool:
        return True

    @property
    def reads_maps(self) -> bool:
        return True

    def rule(self, step: Step) -> dict[str, Any]:
        return {"name": "topk", "shares": True}

    def multiply_adds(self, step: Step, rows: int, width: int, heads: int) -> int:
        return 2 * rows * rows * width

    def select(self, step: Step, taps: Taps, carried: Mapping[str, Tensor]) -> Reduction:
        seen = taps.attention[step.layer - 1]
        assert seen.value is not None
        end = seen.value.shape[2] - taps.suffix
        maps = seen.weights()[:, :, :end, :end]
        gives = torch.linalg.vector_norm((maps @ seen.value[:, :, :end].float())[:, :, taps.prefix :], dim=-1)
        attended = maps[:, :, 0, taps.prefix :]
        scores = (attended * gives).sum(dim=1) / (gives.sum(dim=1) + 1e-8)
        return Reduction(top_in_order(scores, step.keep), scores)

    def official(
        self, step: Step, eager: Eager, carried: Mapping[str, Tensor], rows: Tensor | None = None
    ) -> Reduction:
        maps, first = eager.attentions[-1], eager.prefix
        outputs = torch.einsum("bhij,bhjd->bhid", maps, eager.values[-1])[:, :, first : maps.shape[3]]
        importance = outputs.norm(dim=-1)
        importance = importance / (importance.sum(dim=1, keepdim=True) + 1e-8)
        score = (maps[:, :, 0, first:] * importance).sum(dim=1)
        chosen = score.topk(step.keep, dim=1).indices.sort(dim=1).values if rows is None else rows
        return Reduction(chosen, score)
