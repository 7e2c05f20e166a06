"""VisionZip: keep the patches that [CLS] attends to, and merge the others into a few that stand evenly among them.

    s[j]       = mean over heads of A[cls, j]             A: attention of the layer that produces the features
    dominant   = top-k of s
    contextual = every step-th of the M other patches, in raster order        step = M // contextual, 1 at least
    token      = h_j of a dominant patch; h_j + mean of h_i over the patches i nearest to a contextual one
    nearest    = argmax over contextual j of cos(k_i, k_j)                    k: keys of that layer, mean over heads

    score[j] = 4 + s of a dominant patch, 2 + s of a contextual one, s of the others

K is divided as published, 54 + 10 of 64. Official code that scores by column means, without [CLS], is not offered.

Paper   https://arxiv.org/abs/2412.04467
Source  dvlab-research/VisionZip@3151f6d visionzip/clip_encoder.py
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from edgeprune import pruners
from edgeprune.errors import MethodError
from edgeprune.pruners import Eager, Selection, Traits, rows_of
from edgeprune.pruners._select import lower_take, ranked_top
from edgeprune.taps import Taps

NO_COSINE = -2.0
"""below all of them"""
TINY = 1e-12
"""what a length or an attention of zero is taken for"""


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    contextual: int | None = None
    """how many of the kept tokens are merged ones; None: 10 of 64"""
    written_from: ClassVar[str] = "official code at dvlab-research/VisionZip@3151f6d"
    traits: ClassVar[Traits] = Traits(
        reads=("[CLS] attention", "keys", "features"),
        multiply_adds="40.7 M",
        early=False,
        emits=("picks", "origin"),
        deviations=(
            "[CLS] is no token: all K are patches; the official code counts it among the dominant ones",
            "tokens stay in raster order; the official code puts the contextual ones behind the dominant ones",
            "attention and cosines are float32 in every precision; the official code has them in the model's dtype",
        ),
    )

    def __post_init__(self) -> None:
        if self.contextual is not None and not 0 <= self.contextual < self.keep:
            raise MethodError(
                f"option contextual of visionzip must be in 0..{self.keep - 1} for keep {self.keep}, "
                f"got {self.contextual}"
            )

    @property
    def parts(self) -> tuple[int, int]:
        """How many tokens are dominant, and how many contextual.

        >>> [Method(keep).parts for keep in (192, 128, 64, 2)]
        [(162, 30), (108, 20), (54, 10), (2, 0)]
        """
        contextual = round(self.keep * 10 / 64) if self.contextual is None else self.contextual
        return self.keep - contextual, contextual

    def layers(self, depth: int) -> tuple[int, ...]:
        return (depth - 1,)

    def rule(self, patches: int) -> dict[str, Any]:
        dominant, contextual = self.parts
        return {"name": "match", "form": "stands", "dominant": dominant, "contextual": contextual}

    def select(self, taps: Taps) -> Selection:
        attended = taps.cls_attention().mean(dim=1)
        patches, (dominant, contextual) = attended.shape[1], self.parts
        number = torch.arange(patches)
        leads = (attended.topk(dominant, dim=-1).indices.unsqueeze(-1) == number).any(dim=1)
        if not contextual:
            scores = attended + 4 * leads
            indices, picks = ranked_top(scores, self.keep)
            own = indices.unsqueeze(1) == number.unsqueeze(-1)
            return Selection(indices, scores, picks=picks, origin=_place(own))
        step = max(1, (patches - dominant) // contextual)
        place = (~leads).int().cumsum(dim=1) - 1  # among the others
        stands = ~leads & (place.unsqueeze(-1) == step * torch.arange(contextual)).any(dim=-1)
        scores = attended + 4 * leads + 2 * stands
        indices, picks = ranked_top(scores, self.keep)
        here = indices.unsqueeze(-1) == number  # [B, K, N]
        keys = taps.keys()
        keys = keys / torch.linalg.vector_norm(keys, dim=-1, keepdim=True).clamp_min(TINY)
        similarity = lower_take(keys, indices, 1) @ keys.transpose(1, 2)
        near = torch.where((here & stands.unsqueeze(1)).any(dim=-1, keepdim=True), similarity, NO_COSINE).argmax(dim=1)
        joins = (near.unsqueeze(1) == torch.arange(self.keep).unsqueeze(-1)) & ~(leads | stands).unsqueeze(1)
        merge = here.float() + joins.float() / joins.sum(dim=-1, keepdim=True).clamp_min(1)
        origin = _place((here | joins).transpose(1, 2))
        return Selection(indices, scores, merge.to(taps.features.dtype), picks=picks, origin=origin)

    def official(self, eager: Eager) -> Selection:
        attended = eager.attentions[-1][:, :, 0, eager.prefix :].sum(dim=1)
        keys = eager.keys.mean(dim=1)[:, eager.prefix :]
        keys = keys / keys.norm(dim=-1, keepdim=True).clamp(min=TINY)
        (batch, patches), (dominant, contextual) = attended.shape, self.parts
        lead = attended.topk(dominant, dim=1).indices

        taken = torch.zeros(batch, patches, dtype=torch.int64).scatter(1, lead, 1)
        rest = (taken * patches + torch.arange(patches)).topk(patches - dominant, dim=1, largest=False).values
        at = list(range(0, patches - dominant, max(1, (patches - dominant) // max(contextual, 1))))[:contextual]
        others = [place for place in range(patches - dominant) if place not in at]
        target, other = rest[:, at], rest[:, others]
        similarity = torch.bmm(rows_of(keys, other), rows_of(keys, target).mT)
        if contextual and others:
            joins = one_hot(similarity.argmax(dim=2), contextual).to(keys.dtype)
            mean = (joins / joins.sum(dim=1, keepdim=True).clamp(min=1)).mT
            into = torch.bmm(mean, one_hot(other, patches).to(keys.dtype))
        else:
            into = torch.zeros(())
        merged = one_hot(target, patches).to(keys.dtype) + into

        indices, raster = torch.cat((lead, target), dim=1).sort(dim=1)
        merge = rows_of(torch.cat((one_hot(lead, patches).to(keys.dtype), merged), dim=1), raster)
        tiers = torch.zeros_like(attended).scatter(1, target, 2.0).scatter(1, lead, 4.0)
        went = merge.max(dim=1)
        falling = attended.gather(1, target).argsort(dim=1, descending=True)
        return Selection(
            indices,
            tiers + attended / eager.attentions[-1].shape[1],
            merge.to(eager.features.dtype),
            picks=torch.cat((lead, target.gather(1, falling)), dim=1),
            origin=torch.where(went.values > 0, went.indices, -1),
            quantities={"similarity": torch.bmm(keys, keys.mT)},
        )


def _place(member: Tensor) -> Tensor:
    """The place of the token that each patch is of: [B, N, K] bool -> [B, N] int64, -1 for none"""
    return torch.where(member.any(dim=-1), member.float().argmax(dim=-1), -1)
