"""SCORE: keep what [CLS] attends to and what is far from all that is kept, by the product of both.

    w[j]     = a[j]^power                                           a: mean [CLS] row over heads; power: .8
    first    = argmax of w
    next     = argmax over j of w[j] (1 - max over chosen s of cos(h_s, h_j))           h: in front of the projector
    score[j] = that value, for the patches that were picked; the first one's is w

Source  a third party's notes on SCoRe: the formula, without code; whether a row is summed or a mean changes no choice
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from edgeprune import pruners
from edgeprune.errors import MethodError
from edgeprune.pruners import Eager, Selection, Traits, greedily
from edgeprune.pruners._greedy import cosine, greedy
from edgeprune.taps import Taps

UNLIKE = -2.0
"""below every cosine"""


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    power: float = 0.8
    """of the attention, 0 or more; 0 leaves the distance alone"""
    written_from: ClassVar[str] = "third-party note"
    traits: ClassVar[Traits] = Traits(
        reads=("[CLS] attention", "features"),
        multiply_adds="255.4 M",
        early=False,
        nested=True,
        masks=True,
        deviations=("no code was read: distances are those of a cosine, 1 - cos",),
        on_tiles=("each tile has its own first patch and pool of candidates",),
    )

    def __post_init__(self) -> None:
        if not 0 <= self.power < float("inf"):
            raise MethodError(f"option power of score must be 0 or more, got {self.power}")

    def layers(self, depth: int) -> tuple[int, ...]:
        return (depth - 1,)

    def rule(self, patches: int) -> dict[str, Any]:
        return {"name": "greedy", "objective": "apart"}

    def select(self, taps: Taps) -> Selection:
        weight = taps.cls_attention().mean(dim=1) ** self.power
        return greedy(
            cosine(taps.features),
            weight,
            (weight * 0 + UNLIKE,),
            gain=lambda state: weight * (1 - state[0]),
            update=lambda state, pick: (torch.maximum(state[0], pick.row),),
            keep=self.keep,
        )

    def official(self, eager: Eager) -> Selection:
        h = eager.features / eager.features.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        likeness = torch.bmm(h, h.mT)
        salient = eager.attentions[-1].mean(dim=1)[:, 0, eager.prefix :].pow(self.power)

        def gain(chosen: Tensor) -> Tensor:
            if chosen.shape[1] == 0:
                return salient
            return (1 - torch.take_along_dim(likeness, chosen.unsqueeze(-1), dim=1)).amin(dim=1) * salient

        quantities = {"similarity": likeness, "saliency": salient}
        return replace(greedily(gain, h.shape[0], self.keep), quantities=quantities)
