"""Zero-TPrune: rows that important rows attend to go on, by some rounds of PageRank on the attention map.

    per head: s <- A^T s, `rounds` times        A: attention of the layer in front of the step; S tokens in it with the
                                                special ones in front; at first s is 1 / S, and sqrt(n) / S of [CLS]
    score[j] = sqrt(mean over heads of s_j^2)

Rounds fall with the depth: 30 in the first third of the layers, 5 in the second, 1 in the last. The whole map is
recomputed at each step; a round is a product with a vector.
The paper's counts are searched for each model: give them as --schedule. --encoder-cost places two steps.

Paper   https://arxiv.org/abs/2305.17328 (sections 3.2 and 3.3); no code was read
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from edgeprune.errors import MethodError
from edgeprune.pruners import inside
from edgeprune.pruners._select import top_in_order
from edgeprune.pruners.inside import Eager, Reduction, Step
from edgeprune.taps import Taps


@dataclass(frozen=True)
class Reducer(inside.Reducer):
    rounds: int = 0
    """of every step; 0: by its depth"""
    depth: int = 0
    """layers that depth is a share of; 0: those in front of the features"""
    bias: bool = False
    written_from: ClassVar[str] = "paper"
    merges: ClassVar[bool] = False
    by_patch: ClassVar[bool] = True
    deviations: ClassVar[tuple[str, ...]] = (
        "its first half alone: of similar rows none is dropped for being similar (tome and nearest merge them)",
        "every head counts; the paper leaves out those of too small or too large a variance",
        "steps are as given, by default two; the paper searches them for each model",
        "rounds are fixed; the paper goes on until scores settle",
        "scores are float32 in every precision",
    )

    def __post_init__(self) -> None:
        if self.rounds < 0:
            raise MethodError(f"option rounds of zero_tprune must be 1 or more, or 0 for its own, got {self.rounds}")

    def prepared(self, has_cls: bool, depth: int) -> inside.Reducer:
        return self if self.depth else dataclasses.replace(self, depth=depth)

    def rounds_at(self, step: Step) -> int:
        if self.rounds:
            return self.rounds
        return (30, 5, 1)[min(2, 3 * (step.layer - 1) // max(self.depth, step.layer))]

    @property
    def reads_maps(self) -> bool:
        return True

    def rule(self, step: Step) -> dict[str, Any]:
        return {"name": "topk"}

    def multiply_adds(self, step: Step, rows: int, width: int, heads: int) -> int:
        return rows * rows * (width + heads * self.rounds_at(step))

    def select(self, step: Step, taps: Taps, carried: Mapping[str, Tensor]) -> Reduction:
        whole = taps.attention[step.layer - 1].weights()
        tokens = whole.shape[3] - taps.suffix
        maps = whole[:, :, :tokens, :tokens]
        start = torch.full((1, 1, 1, tokens), 1 / tokens)
        if taps.prefix:
            start = torch.cat((start[..., :1] * (tokens - taps.prefix) ** 0.5, start[..., 1:]), dim=-1)
        rank = start @ maps
        for _ in range(self.rounds_at(step) - 1):
            rank = rank @ maps
        scores = rank.square().mean(dim=1).sqrt()[:, 0, taps.prefix :]
        return Reduction(top_in_order(scores, step.keep), scores)

    def official(
        self, step: Step, eager: Eager, carried: Mapping[str, Tensor], rows: Tensor | None = None
    ) -> Reduction:
        columns = eager.attentions[-1].mT
        tokens = columns.shape[2]
        importance = torch.ones(*columns.shape[:3], 1) / tokens
        if eager.prefix:
            importance[:, :, 0] *= (tokens - eager.prefix) ** 0.5
        for _ in range(self.rounds_at(step)):
            importance = columns[..., :tokens] @ importance
        score = importance[:, :, eager.prefix :, 0].norm(dim=1) / columns.shape[1] ** 0.5
        chosen = score.topk(step.keep, dim=1).indices.sort(dim=1).values if rows is None else rows
        return Reduction(chosen, score)
