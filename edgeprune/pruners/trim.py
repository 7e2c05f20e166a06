"""TRIM: keep the patches that are least like the question, and the mean of all others as one more.

    score[j] = -v_j . t       v: features in CLIP's joint space, not made unit; t: the text, of any length
    kept     = top-k of the scores, K - 1 of them; of the others the mean of their features, in front of the projector

The mean stands in the place of the best of the others, so that K places have K tokens. The softmax that the official
code takes of the scores changes neither their order nor what is kept.

Paper   https://arxiv.org/abs/2409.10994
Source  FreedomIntelligence/TRIM@f5a232d llava/model/multimodal_encoder/clip_encoder.py, token_reduction
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from edgeprune import pruners
from edgeprune.ports import ALIGNED, TEXT, Port, text_port
from edgeprune.pruners import Eager, Selection, Traits
from edgeprune.pruners._select import ranked_top
from edgeprune.taps import Taps


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    written_from: ClassVar[str] = "official code at FreedomIntelligence/TRIM@f5a232d"
    traits: ClassVar[Traits] = Traits(
        official_in_onnx=False,
        reads=("features",),
        multiply_adds="38.2 M",
        early=False,
        asks=True,
        emits=("picks", "origin"),
        deviations=(
            "K counts the mean of the others; the official code adds it to them",
            "the mean stands in the raster, in the place of the best of the others; the official code puts it last",
            "scores are in front of the softmax, and float32 in every precision, as there",
            "K is a budget; the official code's own count, by outliers of the scores, hangs on the image",
            "where K is every patch, each is kept as it is; the official code adds a token of zeros",
        ),
    )

    @property
    def ports(self) -> tuple[Port, ...]:
        return (text_port(ALIGNED, blank=None, truncated=True, unit=False),)

    def rule(self, patches: int) -> dict[str, Any]:
        return {"name": "match", "form": "rest"}

    def select(self, taps: Taps) -> Selection:
        v, text = taps.aligned().float(), taps.given[TEXT]
        scores = -(v @ text.unsqueeze(-1)).squeeze(-1)
        indices, picks = ranked_top(scores, self.keep)
        number = torch.arange(scores.shape[1])
        here = indices.unsqueeze(-1) == number  # [B, K, N]
        stands = indices == picks[:, -1:]
        left = ~(picks[:, :-1].unsqueeze(-1) == number).any(dim=1)  # the others, and the best of them
        member = here | (stands.unsqueeze(-1) & left.unsqueeze(1))
        merge = member.float() / member.sum(dim=-1, keepdim=True)
        origin = member.float().argmax(dim=1)
        return Selection(indices, scores, merge.to(taps.features.dtype), picks=picks, origin=origin)

    def official(self, eager: Eager) -> Selection:
        scores = -torch.einsum("bnc,bc->bn", eager.aligned.float(), eager.given[TEXT])
        batch, patches = scores.shape
        order = scores.argsort(dim=1, descending=True, stable=True)
        indices = order[:, : self.keep].sort(dim=1).values
        merge, origin = torch.zeros(batch, self.keep, patches), torch.zeros(batch, patches, dtype=torch.int64)
        for image in range(batch):
            kept, others = order[image, : self.keep - 1], order[image, self.keep - 1 :]
            place = {patch: at for at, patch in enumerate(indices[image].tolist())}
            for patch in kept.tolist():
                merge[image, place[patch], patch], origin[image, patch] = 1.0, place[patch]
            last = place[int(others[0])]
            merge[image, last, others], origin[image, others] = 1 / len(others), last
        return Selection(indices, scores, merge.to(eager.features.dtype), picks=order[:, : self.keep], origin=origin)
