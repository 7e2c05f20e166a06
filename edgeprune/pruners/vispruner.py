"""VisPruner: keep the patches that [CLS] attends to, and of the others those that resemble each other least.

    s         = mean over heads of A[cls, j]          A: attention of the layer that produces the features
    important = the K // 2 patches of the highest s;  rest = the others, by falling s
    again and again, until K - K // 2 of the rest are left:
        a, b  = those of the rest at even and at odd places
        order a by the highest cosine with any of b, falling, and drop the first 8 (fewer in the last round)
        rest  = what is left of a, in this order, then b              h: in front of the projector

    score[j] = 4 + s of an important patch, 2 + s of one that is left, s of the others

The order of a decides which are compared next: one near tie turns everything behind it.

Paper   https://arxiv.org/abs/2412.01818
Source  Theia-4869/VisPruner@aefa01a, encode_images
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from edgeprune import pruners
from edgeprune.pruners import Eager, Selection, Traits
from edgeprune.pruners._greedy import cosine
from edgeprune.pruners._select import lower_take
from edgeprune.taps import Taps

AT_ONCE = 8
"""how many are dropped in a round"""


def rounds(patches: int, keep: int) -> list[int]:
    """How many of the rest each round drops; never more than there are at even places.

    >>> len(rounds(576, 64)), rounds(40, 15), rounds(12, 2)
    (64, [8, 8, 8, 1], [6, 3, 1])
    """
    rest, wanted = patches - keep // 2, keep - keep // 2
    dropped = []
    while rest > wanted:
        dropped.append(min(AT_ONCE, rest - wanted, (rest + 1) // 2))
        rest -= dropped[-1]
    return dropped


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    written_from: ClassVar[str] = "official code at Theia-4869/VisPruner@aefa01a"
    traits: ClassVar[Traits] = Traits(
        reads=("[CLS] attention", "features"),
        multiply_adds="255.4 M",
        early=False,
        emits=("picks", "order", "worth"),
        deviations=(
            "of an odd number the last one is at an even place, and no round drops more than are there; the official "
            "code fails on both",
            "attention and cosines are float32 in every precision; the official code has them in the model's dtype",
        ),
    )

    def layers(self, depth: int) -> tuple[int, ...]:
        return (depth - 1,)

    def rule(self, patches: int) -> dict[str, Any]:
        return {"name": "thin", "important": self.keep // 2, "dropped": rounds(patches, self.keep)}

    def select(self, taps: Taps) -> Selection:
        attended = taps.cls_attention().mean(dim=1)
        patches, important = attended.shape[1], self.keep // 2
        number = torch.arange(patches)
        order = attended.argsort(dim=-1, descending=True)
        rest = order[:, important:]
        alike = lower_take(lower_take(cosine(taps.features), rest, 1), rest, 2)
        log, worth = [order], [attended.gather(1, order)]
        for dropped in rounds(patches, self.keep):
            highest = alike[:, 0::2, 1::2].amax(dim=-1)
            falling = highest.argsort(dim=-1, descending=True)
            worth.append(highest.gather(1, falling))
            falling = 2 * falling
            log.append(rest.gather(1, falling))
            left = falling[:, dropped:]
            odd = torch.arange(1, rest.shape[1], 2).expand(rest.shape[0], -1)
            left = torch.cat((left, odd), dim=1)
            rest = rest.gather(1, left)
            alike = lower_take(lower_take(alike, left, 1), left, 2)
        picks, scores = rest, attended + 2 * _among(number, rest)
        if important:  # of no patch at all there is no `any` in ONNX
            picks = torch.cat((order[:, :important], rest), dim=1)
            scores = scores + 4 * _among(number, order[:, :important])
        return Selection(
            picks.sort(dim=-1).values, scores, picks=picks, order=torch.cat(log, dim=1), worth=torch.cat(worth, dim=1)
        )

    def official(self, eager: Eager) -> Selection:
        attended = eager.attentions[-1][:, :, 0, eager.prefix :].mean(dim=1)
        important = int(self.keep * 0.5)
        order = attended.argsort(dim=1, descending=True)
        lead, residual = order[:, :important], order[:, important:]
        normalised = eager.features / eager.features.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        log, worth = [order], [attended.gather(1, order)]
        while (left := residual.shape[1] - (self.keep - important)) > 0:
            features = normalised.gather(1, residual[:, :, None].expand(-1, -1, normalised.shape[2]))
            a, b = features[:, ::2], features[:, 1::2]
            values, distinct = torch.bmm(a, b.mT).amax(dim=2).sort(dim=1, descending=True)
            worth.append(values)
            r = min(AT_ONCE, left, a.shape[1])
            ordered = residual[:, ::2].gather(1, distinct)
            log.append(ordered)
            residual = torch.cat((ordered[:, r:], residual[:, 1::2]), dim=1)
        tiers = torch.zeros_like(attended).scatter(1, lead, 4.0).scatter(1, residual, 2.0)
        picks = torch.cat((lead, residual), dim=1)
        return Selection(
            picks.sort(dim=1).values,
            tiers + attended,
            picks=picks,
            order=torch.cat(log, dim=1),
            worth=torch.cat(worth, dim=1),
            quantities={"similarity": torch.bmm(normalised, normalised.mT)},
        )


def _among(number: Tensor, patches: Tensor) -> Tensor:
    """Whether each patch is one of these: [N], [B, K] -> [B, N] bool"""
    return (patches.unsqueeze(-1) == number).any(dim=1)
