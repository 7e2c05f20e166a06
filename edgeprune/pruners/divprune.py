"""DivPrune: keep the patches furthest from each other, by the cosine distance of projected features.

    D[i, j] = 1 - cos(x_i, x_j)                              x: behind the projector
    first   = argmax over j of min over i != j of D[i, j]    the patch whose nearest neighbour is furthest
    next    = argmax over j of min over chosen s of D[s, j]
    score[j] = that distance, for the patches that were picked

Paper   https://arxiv.org/abs/2503.02175
Source  vbdi/divprune@799e2d9 llava/model/llava_arch.py; its licence is non-commercial: the mathematics only
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from edgeprune import pruners
from edgeprune.pruners import Eager, Selection, Traits, greedily
from edgeprune.pruners._greedy import cosine, greedy
from edgeprune.taps import Taps

FAR = 4.0
"""above every cosine distance, which ends at 2"""


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    written_from: ClassVar[str] = "official code at vbdi/divprune@799e2d9"
    traits: ClassVar[Traits] = Traits(
        reads=("projected features",),
        multiply_adds="1019 M",
        early=False,
        pools_tiles=True,
        nested=True,
        masks=True,
        deviations=(
            "a chosen patch cannot be chosen again, so that exactly K distinct ones remain; the official code relies "
            "on its distance to itself being 0",
            "distances are float32 in every precision; the official code has them in the model's dtype",
        ),
        on_tiles=("the tiles are one pool of candidates without newline tokens, and padding is not cut off",),
    )

    def rule(self, patches: int) -> dict[str, Any]:
        return {"name": "greedy", "objective": "max-min"}

    def select(self, taps: Taps) -> Selection:
        distance = 1 - cosine(taps.projected)
        nearest = (distance + FAR * torch.eye(distance.shape[-1])).amin(dim=-1)
        chosen = greedy(
            distance,
            nearest,
            (nearest * 0 + FAR,),
            gain=lambda state: state[0],
            update=lambda state, pick: (torch.minimum(state[0], pick.row),),
            keep=self.keep,
        )
        return chosen

    def official(self, eager: Eager) -> Selection:
        x = eager.projected
        lengths = x.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        distance = 1 - torch.bmm(x / lengths, (x / lengths).mT)

        def gain(chosen: Tensor) -> Tensor:
            if chosen.shape[1] == 0:  # the smallest is the distance to itself
                return distance.topk(min(2, distance.shape[1]), dim=1, largest=False).values[:, -1]
            return torch.take_along_dim(distance, chosen.unsqueeze(-1), dim=1).amin(dim=1)

        return replace(greedily(gain, x.shape[0], self.keep), quantities={"similarity": 1 - distance})
