"""Token Transforming: every row is shared out among those that go on, the more of it the more alike they are.

    P[i, j] = softmax over kept i of cos(k_i, k_j) / temperature        k: keys of the layer in front, mean over heads
    x_i <- sum over j of P[i, j] s_j x_j / s_i        s_i <- sum over j of P[i, j] s_j; later logits += log s

Many to many: x' = W x with a full matrix, of which dropping and merging are special ones. The paper's text says that
much, and that rows of high attention are what is transformed to; its code is not public. The softmax over cosines, and
that sizes weigh and add up, are ours. Which score is the option `score` (`_scores`).
The paper's schedule is not public: give one as --schedule, or --encoder-cost.

Paper   https://arxiv.org/abs/2506.05709; no code was read
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from edgeprune.errors import MethodError
from edgeprune.pruners._greedy import unit
from edgeprune.pruners._select import lower_take, top_in_order
from edgeprune.pruners.inside import Eager, Reduction, Step
from edgeprune.pruners.inside._merges import own_or
from edgeprune.pruners.inside._scores import Ranked, officially_ranked, ranked
from edgeprune.taps import Taps


@dataclass(frozen=True)
class Reducer(Ranked):
    score: str = "auto"
    temperature: float = 0.1
    bias: bool = True
    written_from: ClassVar[str] = "paper"
    deviations: ClassVar[tuple[str, ...]] = (
        "the matrix is a softmax over cosines of keys, weighed by size: ours, the paper's own is not public",
        "rows are transformed behind a whole layer",
        "steps are as given, by default two; the paper's own are not public",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0:
            raise MethodError(
                f"option temperature of token_transforming must be above 0, such as 0.1, got {self.temperature:g}"
            )

    def rule(self, step: Step) -> dict[str, Any]:
        return {"name": "joins", "shares": self.shares}

    def multiply_adds(self, step: Step, rows: int, width: int, heads: int) -> int:
        return step.keep * rows * (width // heads + width) + self.ranking(rows, width)

    def select(self, step: Step, taps: Taps, carried: Mapping[str, Tensor]) -> Reduction:
        scores, kept = ranked(self.score, step, taps, carried)
        rows = top_in_order(scores, step.keep)
        keys = unit(taps.keys())
        alike = lower_take(keys, rows, 1) @ keys.transpose(1, 2)  # [B, K, n]
        shares = (alike / self.temperature).softmax(dim=1)
        if taps.size is not None:
            shares = shares * taps.size.unsqueeze(1)
        size = shares.sum(dim=-1)
        return Reduction(
            rows,
            scores,
            into=own_or(rows, alike.argmax(dim=1)),
            weights=shares / size.unsqueeze(-1),
            size=size,
            carried=kept,
        )

    def official(
        self, step: Step, eager: Eager, carried: Mapping[str, Tensor], rows: Tensor | None = None
    ) -> Reduction:
        scores, kept = officially_ranked(self.score, step, eager, carried)
        if rows is None:
            rows = scores.topk(step.keep, dim=1).indices.sort(dim=1).values
        keys = torch.nn.functional.normalize(eager.keys[:, :, eager.prefix :].mean(dim=1), dim=2)
        similarity = torch.bmm(keys, keys.mT)
        into, weights, sizes = [], [], []
        for image, taken in enumerate(rows):
            near = similarity[image][taken]
            power = torch.exp((near - near.max(dim=0).values) / self.temperature)
            transform = power / power.sum(dim=0) * eager.size[image]
            place = near.argmax(dim=0)
            place[taken] = torch.arange(len(taken))
            into.append(place)
            sizes.append(transform.sum(dim=1))
            weights.append(transform / transform.sum(dim=1)[:, None])
        return Reduction(
            rows,
            scores,
            into=torch.stack(into),
            weights=torch.stack(weights),
            size=torch.stack(sizes),
            carried=kept,
            quantities={"similarity": similarity},
        )
