"""Zero-TPrune: of like rows the less important are dropped, then rows that important rows do not attend to.

    I'  first = importance after 1 round; A: the less important half of the rows, B: the others
    S   c[a] = max over b of cos(k_a, k_b)                           a in A, b in B; keys, mean over heads
        the r rows a of the highest c are dropped                    r = `similar` of all that the step drops
    I   of the rows that are left, those of the highest importance after `rounds` rounds go on

    importance, per head: s <- A^T s, so many times        A: attention of the layer in front of the step; S tokens in
                                                           it with the special ones in front; at first s is 1 / S, and
                                                           sqrt(n) / S of [CLS]
    then sqrt(sum of w_h s_h^2 / sum of w_h)               w_h: 1 where the variance of S s_h / its mean is in LIMITS

score[j] = importance[j], and -3 - c[j] of what was dropped for being similar.

On the embedded model, 32 of 144 tokens, one step to .6 of its multiply-adds, 400 scenes, points against the same tokens
chosen behind the encoder: -29 by the last stage alone with every head, -17 with the heads left out, -11 with both
stages (a quarter or three quarters for being similar: -12 and -13). Errors of about 1.

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

from edgeprune.errors import MethodError, RequestError
from edgeprune.pruners import inside
from edgeprune.pruners._greedy import unit
from edgeprune.pruners._select import top_in_order
from edgeprune.pruners.inside import Eager, Reduction, Step
from edgeprune.taps import Taps

LIMITS = 0.01, 0.7
"""of the variance of a head's importance, relative to its mean"""
EDGE = 0.1
"""a head at a limit counts by half, and in full a twentieth inside of it: no rounding turns one on or off"""
LEAST = 1e-3
"""what a head counts at least, so that all count alike where all are outside"""
GONE = 3.0


@dataclass(frozen=True)
class Reducer(inside.Reducer):
    rounds: int = 0
    """of every step; 0: by its depth"""
    similar: float = 0.5
    """which part of the rows that a step drops is dropped for being similar, 0..1"""
    filter: bool = True
    """whether heads are left out whose importance varies too little or too much"""
    depth: int = 0
    """layers that depth is a share of; 0: those in front of the features"""
    bias: bool = False
    written_from: ClassVar[str] = "paper"
    merges: ClassVar[bool] = False
    by_patch: ClassVar[bool] = True
    deviations: ClassVar[tuple[str, ...]] = (
        "both stages at one step, by the attention of one layer; the paper's stand behind layers of their own",
        "half of what a step drops is dropped for being similar; the paper searches how many for each model",
        "variance is relative to the mean, which the paper leaves open; at its limits a head counts in part",
        "steps are as given, by default two; the paper searches them for each model",
        "rounds are fixed; the paper goes on until scores settle",
        "scores are float32 in every precision",
    )

    def __post_init__(self) -> None:
        if self.rounds < 0:
            raise MethodError(f"option rounds of zero_tprune must be 1 or more, or 0 for its own, got {self.rounds}")
        if not 0 <= self.similar <= 1:
            raise MethodError(f"option similar of zero_tprune must be in 0..1, got {self.similar:g}")

    def prepared(self, has_cls: bool, depth: int) -> inside.Reducer:
        return self if self.depth else dataclasses.replace(self, depth=depth)

    def rounds_at(self, step: Step) -> int:
        if self.rounds:
            return self.rounds
        return (30, 5, 1)[min(2, 3 * (step.layer - 1) // max(self.depth, step.layer))]

    def similar_of(self, rows: int, step: Step) -> int:
        """How many of so many rows are dropped for being similar. Raises RequestError for more than half of them."""
        count = int(self.similar * (rows - step.keep))
        if count > rows // 2:
            raise RequestError(
                f"zero_tprune drops up to half of the rows for being similar, {rows // 2} of {rows}, got {count} "
                f"behind layer {step.layer}; lower option similar, {self.similar:g}, or take more steps"
            )
        return count

    @property
    def reads_maps(self) -> bool:
        return True

    def rule(self, step: Step) -> dict[str, Any]:
        return {"name": "halves", "similar": self.similar} if self.similar else {"name": "topk"}

    def multiply_adds(self, step: Step, rows: int, width: int, heads: int) -> int:
        compared = rows * rows * (width // heads + heads) if self.similar_of(rows, step) else 0
        return rows * rows * (width + heads * self.rounds_at(step)) + compared

    def select(self, step: Step, taps: Taps, carried: Mapping[str, Tensor]) -> Reduction:
        whole = taps.attention[step.layer - 1].weights()
        tokens = whole.shape[3] - taps.suffix
        maps, count = whole[:, :, :tokens, :tokens], tokens - taps.prefix
        every = torch.ones(maps.shape[0], count)
        removed = self.similar_of(count, step)
        if not removed:
            scores = self._importance(maps, every, taps.prefix, self.rounds_at(step))
            return Reduction(top_in_order(scores, step.keep), scores)
        less = _among(self._importance(maps, every, taps.prefix, 1).topk(count // 2, largest=False).indices, count)
        keys = unit(taps.keys())
        alike = torch.where(less.unsqueeze(1), -2.0, keys @ keys.transpose(1, 2)).amax(dim=-1)
        gone = _among(torch.where(less, alike, -3.0).topk(removed).indices, count)
        left = self._importance(maps, (~gone).float(), taps.prefix, self.rounds_at(step))
        scores = torch.where(gone, -GONE - alike, left)
        return Reduction(top_in_order(scores, step.keep), scores)

    def _importance(self, maps: Tensor, left: Tensor, prefix: int, rounds: int) -> Tensor:
        """[B, n] float32, 0 of rows that are not left; maps: [B, H, S, S], left: [B, n], 1 or 0"""
        count = left.sum(dim=-1, keepdim=True)
        here = torch.cat((torch.ones(left.shape[0], prefix), left), dim=-1)
        start = here / (prefix + count)
        if prefix:
            start = torch.cat((start[:, :1] * count.sqrt(), start[:, 1:]), dim=-1)
        here, rank = here[:, None, None], start[:, None, None].expand(-1, maps.shape[1], -1, -1)
        for _ in range(rounds):
            rank = (rank @ maps) * here
        rank = rank[:, :, 0, prefix:]
        if not self.filter:
            return rank.square().mean(dim=1).sqrt()
        count, left = count.unsqueeze(1), left.unsqueeze(1)
        ratio = rank * count / rank.sum(dim=-1, keepdim=True)
        varies = ((ratio - 1) * left).square().sum(dim=-1, keepdim=True) / count
        low, high = LIMITS
        inside_of = torch.minimum((varies - low) / (EDGE * low), (high - varies) / (EDGE * high))
        weight = (inside_of + 0.5).clamp(LEAST, 1.0)
        return ((weight * rank.square()).sum(dim=1) / weight.sum(dim=1)).sqrt()

    def official(
        self, step: Step, eager: Eager, carried: Mapping[str, Tensor], rows: Tensor | None = None
    ) -> Reduction:
        first = eager.prefix
        maps, keys = eager.attentions[-1], eager.keys[:, :, first:].mean(dim=1)
        count = maps.shape[3] - first
        maps = maps[:, :, : first + count]
        removed, rounds = self.similar_of(count, step), self.rounds_at(step)
        before = torch.stack([self._by_votes(one, first, 1 if removed else rounds) for one in maps])
        score, quantities = before, {}
        if removed:
            lengthless = torch.nn.functional.normalize(keys, dim=-1)
            similarity = torch.bmm(lengthless, lengthless.mT)
            quantities = {"first": before, "similarity": similarity}
            rated = []
            for at, cosines in enumerate(similarity):
                falling = before[at].argsort(descending=True)
                more, less = falling[: count - count // 2], falling[count - count // 2 :]
                closest = cosines[less][:, more].max(dim=1).values
                order = closest.argsort(descending=True)[:removed]
                spared = torch.ones(count).scatter(0, less[order], 0.0).nonzero()[:, 0]
                places = torch.cat((torch.arange(first), first + spared))
                votes = self._by_votes(maps[at][:, places][:, :, places], first, rounds)
                own = torch.zeros(count).scatter(0, less[order], -3 - closest[order])
                rated.append(own.scatter(0, spared, votes))
            score = torch.stack(rated)
        chosen = score.topk(step.keep, dim=1).indices.sort(dim=1).values if rows is None else rows
        return Reduction(chosen, score, quantities=quantities)

    def _by_votes(self, maps: Tensor, first: int, rounds: int) -> Tensor:
        """[n]; maps: [H, S, S], of the tokens that have a vote"""
        tokens = maps.shape[2]
        importance = torch.ones(maps.shape[0], tokens, 1) / tokens
        if first:
            importance[:, 0] *= (tokens - first) ** 0.5
        for _ in range(rounds):
            importance = maps.mT @ importance
        votes = importance[:, first:, 0]
        if not self.filter:
            return votes.square().mean(dim=0).sqrt()
        spread = votes.var(dim=1, correction=0) / votes.mean(dim=1) ** 2
        counts = [_counted(spread, limit, side) for limit, side in zip(LIMITS, (1, -1), strict=True)]
        counted = torch.minimum(*counts).clamp(min=LEAST)
        return torch.mv(votes.mT**2, counted).div(counted.sum()).sqrt()


def _among(places: Tensor, count: int) -> Tensor:
    """[B, n] bool, whether each row is one of the places [B, m]"""
    return (places.unsqueeze(-1) == torch.arange(count)).any(dim=1)


def _counted(spread: Tensor, limit: float, side: int) -> Tensor:
    """From 0 to 1 over a tenth of the limit, a half at it; side: 1 above it, -1 below"""
    return (0.5 + side * (spread - limit) / (limit * EDGE)).clamp(0, 1)
