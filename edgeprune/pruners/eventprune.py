"""Eventprune: keep the patches that [CLS] attends to and where an event camera saw something, by both ranks.

    r(p)[j]  = (patches i with p_i < p_j + half of those with p_i = p_j, j among them) / N      p: the prior
    r(a)[j]  = mean over i of clamp((ln a_j - ln a_i) / 2 + 1 / 2, 0, 1)      a: mean over heads of A[cls, j]
    score[j] = r(p)[j] / 2 + r(a)[j] / 2, less 1 where p_j is 0 or less; the K highest are kept

A: attention of the layer that produces the features. `edgeprune.runtime.priors.active` makes the prior of events:
log(1 + events since the last keyframe). A patch without any is kept only where others do not fill the budget. Of
EventPrune an abstract alone is known: event-inactive tokens go, and ranks of events and attention are fused. How is
ours: a rank of attention counts in part what lies within a factor of e, for a rank that rounding can turn over decides
nothing.

Source  ours, after the abstract of https://arxiv.org/abs/2605.19506
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from edgeprune import pruners
from edgeprune.errors import MethodError
from edgeprune.ports import PRIOR, Port, prior_port
from edgeprune.pruners import Eager, Selection, Traits
from edgeprune.pruners._select import ranked_top
from edgeprune.taps import Taps

TINY = 1e-12
"""what an attention of nothing is taken for"""


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    weight: float = 0.5
    """of the prior's rank, 0..1"""
    written_from: ClassVar[str] = "ours"
    traits: ClassVar[Traits] = Traits(whole_grid=True, reads=("[CLS] attention",), multiply_adds="0.59 M", query_rows=1)

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise MethodError(
                f"option weight of eventprune must be in 0..1, got {self.weight:g}; 0.5 counts both alike"
            )

    @property
    def ports(self) -> tuple[Port, ...]:
        return (prior_port("log(1 + events since the last keyframe); 0: this patch is kept last"),)

    def layers(self, depth: int) -> tuple[int, ...]:
        return (depth - 1,)

    def rule(self, patches: int) -> dict[str, Any]:
        return {"name": "topk"}

    def select(self, taps: Taps) -> Selection:
        prior, attended = taps.given[PRIOR], taps.cls_attention().mean(dim=1).clamp_min(TINY).log()
        over = prior.unsqueeze(-1) - prior.unsqueeze(1)  # [B, N, N], of a row its own less each other
        of_prior = ((over > 0).float() + (over == 0).float() / 2).mean(dim=-1)
        of_attention = ((attended.unsqueeze(-1) - attended.unsqueeze(1)) / 2 + 0.5).clamp(0, 1).mean(dim=-1)
        scores = self.weight * of_prior + (1 - self.weight) * of_attention - (prior <= 0).float()
        indices, picks = ranked_top(scores, self.keep)
        return Selection(indices, scores, picks=picks)

    def official(self, eager: Eager) -> Selection:
        prior, row = eager.given[PRIOR], eager.attentions[-1][:, :, 0, eager.prefix :].mean(dim=1)
        row = row.float().clamp(min=1e-12)
        below = (prior[:, None, :] < prior[:, :, None]).sum(dim=2) + (prior[:, None, :] <= prior[:, :, None]).sum(dim=2)
        ratio = torch.log(row[:, :, None] / row[:, None, :])
        attention = torch.clamp(ratio, min=-1, max=1).sum(dim=2) / (2 * row.shape[1]) + 0.5
        score = torch.lerp(attention, below / (2.0 * row.shape[1]), self.weight)
        score = torch.where(prior > 0, score, score - 1)
        chosen = score.topk(self.keep, dim=1).indices
        return Selection(chosen.sort(dim=1).values, score, picks=chosen)
