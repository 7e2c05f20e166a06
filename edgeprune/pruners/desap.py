"""Desap: keep what is salient, or like a word of a question, and merge each other patch into the nearest.

    a[j]     = mean over heads of A[cls, j]              A: attention of the layer that produces the features
    c[j]     = max over words m of cos(v_j, t_m)         v: what that attention added to patch j, in CLIP's joint space
    score[j] = (a[j] / max a + exp((c[j] - max c) / .1)) / 2
    kept     = top-k of the scores; token = mean of h over the patch and those not kept that cos(h_i, h_j) puts nearest

t: text_projection of the last hidden states of CLIP's text tower, token by token; `text_mask` says which rows are any.
Without words the scores are those of [CLS]. Of DeSAP an abstract alone is known: the similarity of a text is taken with
the branch of the attention in place of the residual stream, and joined with [CLS] attention; dropped tokens are merged
into the nearest. Which layer, how words and both scores are joined is ours; the exponential, and the share of the
largest, are what float16 decides.

Source  ours, after the abstract of https://arxiv.org/abs/2604.11240
        Theia-4869/CDPruner@9541616, of the joint space
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from edgeprune import pruners
from edgeprune.errors import MethodError
from edgeprune.ports import ALIGNED, TEXT, TEXT_MASK, Port, words_ports
from edgeprune.pruners import Eager, Selection, Traits
from edgeprune.pruners._greedy import unit
from edgeprune.pruners._select import lower_take, ranked_top
from edgeprune.taps import Taps

WARM = 0.1
"""what a cosine has to fall by for a patch to count 1 / e"""
NO_COSINE = -2.0
"""below all of them"""
TINY = 1e-12
"""what an attention of nothing is taken for"""


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    texts: int = 77
    """rows of the text, L: as many tokens as a question may have"""
    written_from: ClassVar[str] = "ours"
    traits: ClassVar[Traits] = Traits(
        reads=("[CLS] attention", "branch of the attention", "features"),
        multiply_adds="110 M",
        query_rows=None,
        early=False,
        asks=True,
        emits=("picks", "origin"),
    )

    def __post_init__(self) -> None:
        if self.texts < 1:
            raise MethodError(f"option texts of desap must be 1 or more, got {self.texts}")

    @property
    def ports(self) -> tuple[Port, ...]:
        return words_ports(self.texts, ALIGNED)

    def layers(self, depth: int) -> tuple[int, ...]:
        return (depth - 1,)

    def rule(self, patches: int) -> dict[str, Any]:
        return {"name": "match", "form": "windows"}

    def select(self, taps: Taps) -> Selection:
        attended, h = taps.cls_attention().mean(dim=1), unit(taps.features.float())
        text, mask = taps.given[TEXT], taps.given[TEXT_MASK]
        words = unit(taps.aligned_branch().float()) @ unit(text).transpose(1, 2)  # [B, N, L]
        likeness = torch.where(mask.unsqueeze(1) > 0, words, NO_COSINE).amax(dim=-1)
        asked = ((likeness - likeness.amax(dim=-1, keepdim=True)) / WARM).exp()
        scores = (attended / attended.amax(dim=-1, keepdim=True).clamp_min(TINY) + asked) / 2
        indices, picks = ranked_top(scores, self.keep)
        here = indices.unsqueeze(-1) == torch.arange(h.shape[1])  # [B, K, N]
        near = (lower_take(h, indices, 1) @ h.transpose(1, 2)).argmax(dim=1)
        origin = torch.where(here.any(dim=1), here.float().argmax(dim=1), near)
        member = (origin.unsqueeze(1) == torch.arange(self.keep).unsqueeze(-1)).float()
        merge = member / member.sum(dim=-1, keepdim=True)
        return Selection(indices, scores, merge.to(taps.features.dtype), picks=picks, origin=origin)

    def official(self, eager: Eager) -> Selection:
        saliency = eager.attentions[-1][:, :, 0, eager.prefix :].sum(dim=1)
        v, t, h = (
            torch.nn.functional.normalize(one.float(), dim=2)
            for one in (eager.aligned_branch, eager.given[TEXT], eager.features)
        )
        c = torch.bmm(t, v.mT).masked_fill(eager.given[TEXT_MASK][:, :, None] <= 0, -2.0).max(dim=1).values
        relevance = torch.exp(10 * c) / torch.exp(10 * c).max(dim=1, keepdim=True).values
        score = torch.lerp(saliency / saliency.max(dim=1, keepdim=True).values.clamp(min=1e-12), relevance, 0.5)
        chosen = score.topk(self.keep, dim=1).indices
        indices, similarity = chosen.sort(dim=1).values, torch.bmm(h, h.mT)
        taken = torch.zeros_like(score).scatter(1, indices, 1.0)
        target = similarity.masked_fill(taken[:, None] == 0, -torch.inf).argmax(dim=2)
        target = torch.where(taken > 0, torch.arange(score.shape[1]), target)
        origin = (indices[:, None, :] < target[:, :, None]).sum(dim=2)
        into = torch.nn.functional.one_hot(origin, self.keep).mT.to(eager.features.dtype)
        nothing = torch.zeros_like(score)
        quantities = {"first": nothing, "window": nothing, "similarity": similarity}
        merge = into / into.sum(dim=2, keepdim=True)
        return Selection(indices, score, merge, picks=chosen, origin=origin, quantities=quantities)
