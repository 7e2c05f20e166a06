"""ToDRE: from the patch that [CLS] attends to most, keep those least like all that are kept (max-sum). Its first stage.

    first    = argmax of the [CLS] row, mean over heads
    next     = argmin over j of the sum over chosen s of cos(h_s, h_j)        h: in front of the projector
    score[j] = minus that sum, for the patches that were picked; the first one's is its attention

Paper   https://arxiv.org/abs/2505.18757
Source  the paper's text; its code was not read
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


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    written_from: ClassVar[str] = "paper"
    traits: ClassVar[Traits] = Traits(
        reads=("[CLS] attention", "features"),
        multiply_adds="255 M",
        early=False,
        nested=True,
        masks=True,
        deviations=("the second stage, inside the language model, is left out",),
        on_tiles=(
            "each tile has its own first patch and pool of candidates; the paper takes the thumbnail's for the image",
        ),
    )

    def layers(self, depth: int) -> tuple[int, ...]:
        return (depth - 1,)

    def rule(self, patches: int) -> dict[str, Any]:
        return {"name": "greedy", "objective": "max-sum"}

    def select(self, taps: Taps) -> Selection:
        pivot = taps.cls_attention().mean(dim=1)
        return greedy(
            cosine(taps.features),
            pivot,
            (torch.zeros_like(pivot),),
            gain=lambda state: -state[0],
            update=lambda state, pick: (state[0] + pick.row,),
            keep=self.keep,
        )

    def official(self, eager: Eager) -> Selection:
        h = eager.features / eager.features.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        attended = eager.attentions[-1][:, :, 0, eager.prefix :].mean(dim=1)

        def gain(chosen: Tensor) -> Tensor:
            if chosen.shape[1] == 0:
                return attended
            return -torch.bmm(torch.take_along_dim(h, chosen.unsqueeze(-1), dim=1), h.mT).sum(dim=1)

        quantities = {"similarity": torch.bmm(h, h.mT), "first": attended}
        return replace(greedily(gain, h.shape[0], self.keep), quantities=quantities)
