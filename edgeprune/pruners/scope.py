"""SCOPE: keep the salient patches that cover what no kept one covers yet (facility location).

    cover[j] = max(0, max over chosen s of cos(x_s, x_j))                            x: in front of the projector
    next     = argmax over i of saliency[i]^alpha * sum over j of max(0, cos(x_i, x_j) - cover[j])
    score[i] = that value, for the patches that were picked                          saliency: mean [CLS] row

AngelSlim calls the same function on projected features, and with [CLS] rows that are a softmax over the patches alone:
half of the patches are other ones then.

Source  kinredon/SCOPE@6bf7306 scope/clip_encoder.py, CLIPVisionTower_SCOPE; it has no licence file. Of its SCOPE,
        Tencent/AngelSlim@67394ce angelslim/compressor/token_compressor/algorithm/scope.py has a copy
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from edgeprune import pruners
from edgeprune.errors import MethodError
from edgeprune.pruners import Eager, Selection, Traits, greedily
from edgeprune.pruners._greedy import State, cosine, greedy
from edgeprune.taps import Taps


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    alpha: float = 1.0
    """power of the saliency, 0 or more; 0 leaves coverage alone"""
    written_from: ClassVar[str] = "official code at kinredon/SCOPE@6bf7306"
    traits: ClassVar[Traits] = Traits(
        reads=("[CLS] attention", "features"),
        multiply_adds="255.4 M",
        early=False,
        nested=True,
        masks=True,
        deviations=(
            "cosines and gains are float32 in every precision; the official code has them in the model's dtype",
        ),
    )

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < float("inf"):
            raise MethodError(f"option alpha of scope must be 0 or more, got {self.alpha}")

    def layers(self, depth: int) -> tuple[int, ...]:
        return (depth - 1,)

    def rule(self, patches: int) -> dict[str, Any]:
        return {"name": "greedy", "objective": "coverage"}

    def select(self, taps: Taps) -> Selection:
        saliency = taps.cls_attention().mean(dim=1) ** self.alpha
        similarity = cosine(taps.features)

        def gain(state: State) -> Tensor:
            return (similarity - state[0].unsqueeze(1)).relu().sum(dim=-1) * saliency

        nothing = torch.zeros_like(saliency)
        return greedy(
            similarity,
            gain((nothing,)),
            (nothing,),
            gain,
            update=lambda state, pick: (torch.maximum(state[0], pick.row),),
            keep=self.keep,
        )

    def official(self, eager: Eager) -> Selection:
        x = eager.features / eager.features.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        likeness = torch.bmm(x, x.mT)
        salient = eager.attentions[-1][:, :, 0, eager.prefix :].mean(dim=1) ** self.alpha

        def gain(chosen: Tensor) -> Tensor:
            covered = torch.zeros_like(salient)
            if chosen.shape[1]:
                covered = torch.take_along_dim(likeness, chosen.unsqueeze(-1), dim=1).amax(dim=1).clamp(min=0)
            return torch.clamp(likeness - covered.unsqueeze(1), min=0).sum(dim=2) * salient

        quantities = {"similarity": likeness, "saliency": salient}
        return replace(greedily(gain, x.shape[0], self.keep), quantities=quantities)
