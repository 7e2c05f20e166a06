"""IDSelection: keep important patches, and let each take from the importance of those that are like it.

    m        = (a - min a) / (max a - min a + 1e-6)                      a: mean [CLS] row over heads
    next     = argmax over j of m[j]
    m[i]    -= exp(-20 (1 - cos(x_i, x_next))^2) max(m[next], 0)         x: behind the projector; for every i
    score[j] = m[j] when it was picked, for the patches that were

The ports that this is written from set m to 0 where it falls below, and choose of such patches by rounding. Here it
stays below 0, so that what was taken least from comes first, and a pick from there takes nothing.

Source  a third party's ports of ID-Selection; they read features inside the language model, and take importance from
        there, from the encoder, or from both
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from edgeprune import pruners
from edgeprune.errors import MethodError
from edgeprune.pruners import Eager, Selection, Traits, greedily
from edgeprune.pruners._greedy import Pick, State, cosine, greedy
from edgeprune.taps import Taps

SMALLEST = 1e-6
"""added to the range that importance is divided by"""


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    width: float = 20.0
    """how fast a pick's pull falls with the distance, 0 or more"""
    written_from: ClassVar[str] = "third-party note"
    traits: ClassVar[Traits] = Traits(
        reads=("[CLS] attention", "projected features"),
        multiply_adds="1020 M",
        early=False,
        nested=True,
        masks=True,
        deviations=(
            "importance is what [CLS] attends to, and features are the projector's; the ports read the language model",
            "importance falls below 0, where the ports stop it: what comes of ties is not left to rounding",
        ),
        on_tiles=("each tile has its own pool of candidates",),
    )

    def __post_init__(self) -> None:
        if not 0 <= self.width < float("inf"):
            raise MethodError(f"option width of idselection must be 0 or more, got {self.width}")

    def layers(self, depth: int) -> tuple[int, ...]:
        return (depth - 1,)

    def rule(self, patches: int) -> dict[str, Any]:
        return {"name": "greedy", "objective": "suppression", "width": self.width, "smallest": SMALLEST}

    def select(self, taps: Taps) -> Selection:
        attended = taps.cls_attention().mean(dim=1)
        low, high = attended.amin(dim=-1, keepdim=True), attended.amax(dim=-1, keepdim=True)
        importance = (attended - low) / (high - low + SMALLEST)

        def take(state: State, pick: Pick) -> State:
            away = 1 - pick.row
            return (state[0] - (-self.width * away * away).exp() * pick.gain.clamp_min(0.0),)

        return greedy(cosine(taps.projected), importance, (importance,), lambda state: state[0], take, self.keep)

    def official(self, eager: Eager) -> Selection:
        x = eager.projected / eager.projected.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        likeness = torch.bmm(x, x.mT)
        attended = eager.attentions[-1][:, :, 0, eager.prefix :].mean(dim=1)
        least, most = attended.min(dim=1, keepdim=True).values, attended.max(dim=1, keepdim=True).values
        left = (attended - least) / (most - least + 1e-6)

        def gain(chosen: Tensor) -> Tensor:
            nonlocal left
            if chosen.shape[1]:
                last = chosen[:, -1:]
                row = torch.take_along_dim(likeness, last[:, :, None], dim=1).squeeze(1)
                left = left - torch.exp(-self.width * (1 - row).square()) * left.gather(1, last).clamp(min=0)
            return left

        quantities = {"similarity": likeness, "attention": attended}
        return replace(greedily(gain, x.shape[0], self.keep), quantities=quantities)
