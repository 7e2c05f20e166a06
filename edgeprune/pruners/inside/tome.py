"""ToMe: rows at even places merge into the most similar at an odd place, the most similar pairs first.

    k       = the rows in front of the step; with option metric=keys, as in the paper, keys of the layer in front of it,
              mean over heads
    c[a]    = max over b of cos(k_a, k_b), b[a] where it is          a: rows at even places, b: at odd ones
    the r rows a of the highest c join their b:  x_b <- (s_b x_b + sum s_a x_a) / (s_b + sum s_a), sizes s likewise
    later logits += log s

--schedule official: as many rows behind every layer.

score[a] = 1 - c[a], score[b] = 4: what is not merged, and what others join, goes on.

On the embedded model, 32 of 144 tokens, 700 scenes, points against the same tokens chosen behind the encoder, three
steps to half of its multiply-adds: -1.1 by rows, -1.8 by keys.

Paper   https://arxiv.org/abs/2210.09461 (section 3); written from its formula
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from edgeprune.errors import MethodError, RequestError, unknown_name
from edgeprune.pruners import inside
from edgeprune.pruners._greedy import unit
from edgeprune.pruners._select import place_in
from edgeprune.pruners.inside import Eager, Reduction, Step
from edgeprune.pruners.inside._merges import in_turns
from edgeprune.taps import Taps

METRICS = ("rows", "keys")
TAKES = 4.0
"""score of a row that others may join, above every 1 - cosine"""


@dataclass(frozen=True)
class Reducer(inside.Reducer):
    bias: bool = True
    metric: str = "rows"
    """what is compared: rows, or keys"""
    written_from: ClassVar[str] = "paper"
    depths: ClassVar[tuple[float, ...]] = (0.17, 0.33, 0.5, 0.67, 0.83)
    even: ClassVar[bool] = True
    most: ClassVar[float] = 0.5
    gentle: ClassVar[float] = 0.41  # 1:88 of 144 loses .2 points, 1:84 .7, 1:76,2:66 3.2, 1:72,2:68 8 (800 scenes)
    every: ClassVar[int] = 1
    deviations: ClassVar[tuple[str, ...]] = (
        "rows merge behind a whole layer by their own cosines, as its keys are of what went into it (metric=keys); the "
        "paper merges between its attention and its MLP, by its keys",
        "rows stay in raster order of the patch that others joined; the paper puts those that joined nothing first",
        "cosines are float32 in every precision",
    )

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise MethodError(unknown_name("metric", self.metric, METRICS))

    def layers(self, step: Step) -> tuple[int, ...]:
        return super().layers(step) if self.metric == "keys" else ()

    def rule(self, step: Step) -> dict[str, Any]:
        return {"name": "pairs"}

    def multiply_adds(self, step: Step, rows: int, width: int, heads: int) -> int:
        even = rows - rows // 2
        compared = width if self.metric == "rows" else width // heads
        return even * (rows // 2) * compared + step.keep * rows * width

    def select(self, step: Step, taps: Taps, carried: Mapping[str, Tensor]) -> Reduction:
        keys = taps.features.float() if self.metric == "rows" else taps.keys()
        count = keys.shape[1]
        merged = _merged(count, step)
        even, odd = unit(keys[:, 0::2]), unit(keys[:, 1::2])
        best, near = (even @ odd.transpose(1, 2)).max(dim=-1)
        takes = torch.full_like(best[:, : odd.shape[1]], TAKES)
        scores = in_turns(1 - best, takes)
        joined = 2 * near + 1
        own = here = (2 * torch.arange(odd.shape[1]) + 1).expand(odd.shape[0], -1)
        if stay := even.shape[1] - merged:  # in ONNX the maximum over none of them is not false
            alone = best.topk(stay, dim=-1, largest=False).indices  # of the even ones
            stays = (alone.unsqueeze(-1) == torch.arange(even.shape[1])).any(dim=1)
            joined = torch.where(stays, 2 * torch.arange(even.shape[1]), joined)
            here = torch.cat((2 * alone, own), dim=1).sort(dim=1).values
        target = in_turns(joined, own)  # [B, n], the row that each one is part of
        into = place_in(here, target)
        return Reduction(here, scores, into=into)

    def official(
        self, step: Step, eager: Eager, carried: Mapping[str, Tensor], rows: Tensor | None = None
    ) -> Reduction:
        keys = eager.features if self.metric == "rows" else eager.keys[:, :, eager.prefix :].mean(dim=1)
        batch, count, _ = keys.shape
        lengthless = torch.nn.functional.normalize(keys, dim=-1)
        alike = torch.bmm(lengthless[:, ::2], lengthless[:, 1::2].mT)
        highest, nearest = alike.max(dim=2)
        if rows is None:
            order = highest.argsort(dim=1, descending=True)
            gone = order[:, : _merged(count, step)] * 2
            stays = torch.ones(batch, count).scatter(1, gone, 0.0)
            rows = torch.stack([one.nonzero().squeeze(1) for one in stays])
        place = torch.full((batch, count), -1).scatter(1, rows, torch.arange(rows.shape[1]).repeat(batch, 1))
        target = torch.arange(count).repeat(batch, 1)
        target[:, ::2] = torch.where(place[:, ::2] < 0, 2 * nearest + 1, target[:, ::2])
        scores = torch.full((batch, count), TAKES)
        scores[:, ::2] = 1 - highest
        return Reduction(rows, scores, into=place.gather(1, target), quantities={"alike": alike})


def _merged(count: int, step: Step) -> int:
    """How many rows join another. Raises RequestError where that is more than half of them."""
    if count - step.keep > count // 2:
        raise RequestError(
            f"tome merges up to half of the rows at a step, {count} to {count - count // 2} or more, got {step.keep} "
            f"behind layer {step.layer}; take more steps"
        )
    return count - step.keep
