"""DART: keep the patches with the largest norm, and those least like each of them.

    pivots     = the P patches with the largest |x|, in that order         x: behind the projector; P: option pivots
    for each pivot p in turn: take the (K - P) / P free patches with the smallest cos(x_p, x_j), one more for the first
    (K - P) mod P pivots
    score[j]   = |x_j| / max |x| of a pivot, 1 - cos(x_p, x_j) of a patch that p took

A K of P or less keeps pivots only. It has P top-k's instead of K steps. The official code gives every pivot the same,
(K - P) / P rounded down; AngelSlim, at its layer 0, that rounded up, until the budget is spent.

Paper   https://arxiv.org/abs/2502.11494
Source  xqy1111111/DART@d6a5af6 llava/model/language_model/modeling_llama_self.py, get_retained_image_token (inside the
        language model)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from edgeprune import pruners
from edgeprune.errors import MethodError
from edgeprune.pruners import Eager, Selection, Traits
from edgeprune.pruners._select import lower_take
from edgeprune.taps import Taps

TINY = 1e-12
"""what a norm of zero is taken for"""
BEYOND = 4.0
"""cosines differ by at most 2"""


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    pivots: int = 8
    """how many patches take turns, at least 1"""
    written_from: ClassVar[str] = "official code at xqy1111111/DART@d6a5af6"
    traits: ClassVar[Traits] = Traits(
        reads=("projected features",),
        multiply_adds="18.9 M",
        early=False,
        pools_tiles=True,
        deviations=(
            "prunes projected features in front of the language model; the official code prunes at its second layer",
            "pivots are image tokens by L2 norm; the official code adds text tokens and takes the L1 norm of keys",
            "exactly keep tokens remain; in the official code a multiple of the pivots, as ceil(A // B) rounds down: "
            "24 of 29 with 8 pivots",
            "pivots take their turn by falling norm; the official order is that of a Python set",
        ),
    )

    def __post_init__(self) -> None:
        if self.pivots < 1:
            raise MethodError(f"option pivots of dart must be at least 1, got {self.pivots}")

    def rule(self, patches: int) -> dict[str, Any]:
        count = min(self.pivots, self.keep)
        quotas = [len(range(turn, self.keep - count, count)) for turn in range(count)]
        return {"name": "greedy", "objective": "pivots", "pivots": count, "quotas": quotas}

    def select(self, taps: Taps) -> Selection:
        x = taps.projected.float()
        norms = torch.linalg.vector_norm(x, dim=-1)
        unit = x / norms.clamp_min(TINY).unsqueeze(-1)
        patches = torch.arange(x.shape[1])
        pivots = min(self.pivots, self.keep)
        chosen = [norms.topk(pivots, dim=1).indices]
        free = (chosen[0].unsqueeze(-1) != patches).all(dim=1)
        scores = torch.where(free, -torch.inf, norms / norms.amax(dim=1, keepdim=True).clamp_min(TINY))

        cosines = lower_take(unit, chosen[0], 1) @ unit.transpose(1, 2)  # [B, P, N]
        each, more = divmod(self.keep - pivots, pivots)
        for turn in range(pivots if each else more):
            cosine = cosines[:, turn]
            least = torch.where(free, cosine, BEYOND).topk(each + (turn < more), dim=1, largest=False).indices
            others = (least.unsqueeze(-1) != patches).all(dim=1)
            scores = torch.where(others, scores, 1 - cosine)
            free = free & others
            chosen.append(least)
        picks = torch.cat(chosen, dim=1)
        return Selection(picks.sort(dim=1).values, scores, picks=picks)

    def official(self, eager: Eager) -> Selection:
        x = eager.projected
        length = x.norm(dim=2)
        order = length.argsort(dim=1, descending=True)
        count = min(self.pivots, self.keep)
        falling = length.gather(1, order) / length.amax(dim=1, keepdim=True).clamp(min=1e-12)
        pivots, gains = order[:, :count], [falling[:, :count]]
        chosen = [pivots]
        for turn in range(count):
            quota = len(range(turn, self.keep - count, count))
            pivot = torch.take_along_dim(x, pivots[:, turn, None, None], dim=1)
            cosine = torch.nn.functional.cosine_similarity(x, pivot, dim=-1, eps=1e-12)
            rest = cosine.scatter(1, torch.cat(chosen, dim=1), torch.inf).sort(dim=1)
            taken = rest.values[:, :quota]
            chosen.append(rest.indices[:, :quota])
            gains.append(1 - taken)
        picks = torch.cat(chosen, dim=1)
        scores = torch.full_like(length, -torch.inf).scatter(1, picks, torch.cat(gains, dim=1))
        unit = x / length.clamp(min=1e-12)[:, :, None]
        quantities = {"length": length, "similarity": torch.bmm(unit, unit.mT)}
        return Selection(picks.sort(dim=1).values, scores, picks=picks, quantities=quantities)
