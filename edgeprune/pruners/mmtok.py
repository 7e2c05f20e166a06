"""MMTok: keep the patches that cover the words of a question, and the other patches.

    P[m, i] = softmax over i of cos(t_m, x_i) / .02, over M      t: the words' embeddings; x: behind the projector
    Q[j, i] = alpha softmax over i of cos(h_j, h_i) / .2, over N                            h: in front of it
    next    = argmax over i of sum over rows r of P and Q of max(0, C[r, i] - best over chosen s of C[r, s])
    score[i] = that value, for the patches that were picked

M counts the rows of `text` that `text_mask` says are words; of the others P is 0, and without any word the patches are
covered alone. Words are what the official code leaves of the question without its stopwords, without a [BOS].

Paper   https://arxiv.org/abs/2508.18264
Source  Ironieser/MMTok@d1522cd mmtok/core/semantic_selector.py, mm_coverage_selection; mmtok/core/mmtok_core.py
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from edgeprune import pruners
from edgeprune.errors import MethodError
from edgeprune.ports import TEXT, TEXT_MASK, Port, words_ports
from edgeprune.pruners import Eager, Selection, Traits, greedily
from edgeprune.pruners._greedy import State, cosine, greedy, unit
from edgeprune.taps import Taps

WARM, WARMER = 0.02, 0.2
"""the temperatures of P and of Q"""
TINY = 1e-8
"""what a length of zero is taken for"""


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    texts: int = 16
    """rows of the text, L: as many words as a question may have"""
    alpha: float = 0.5
    """what the patches count beside the words, 0 or more"""
    written_from: ClassVar[str] = "official code at Ironieser/MMTok@d1522cd"
    traits: ClassVar[Traits] = Traits(
        reads=("features", "projected features"),
        multiply_adds="293 M",
        early=False,
        asks=True,
        nested=True,
        masks=True,
        deviations=(
            "a question has option texts words at most; the official code takes any number",
            "without a word the patches are covered alone; the official code always has one",
            "the cosine of a patch with itself is 1; in the official code it is that up to rounding",
        ),
    )

    def __post_init__(self) -> None:
        if self.texts < 1:
            raise MethodError(f"option texts of mmtok must be 1 or more, got {self.texts}")
        if not 0 <= self.alpha < float("inf"):
            raise MethodError(f"option alpha of mmtok must be 0 or more, got {self.alpha}; 0.5 is the published one")

    @property
    def ports(self) -> tuple[Port, ...]:
        return words_ports(self.texts)

    def rule(self, patches: int) -> dict[str, Any]:
        return {"name": "greedy", "objective": "covers", "alpha": self.alpha, "words": WARM, "patches": WARMER}

    def select(self, taps: Taps) -> Selection:
        text, mask, x = taps.given[TEXT], taps.given[TEXT_MASK], taps.projected.float()
        words, patches = unit(text, TINY), unit(x, TINY)
        share = mask / mask.sum(dim=-1, keepdim=True).clamp_min(1.0)
        asked = (words @ patches.transpose(1, 2) / WARM).softmax(dim=-1) * share.unsqueeze(-1)
        beside = (cosine(taps.features) / WARMER).softmax(dim=-1) * (self.alpha / x.shape[1])
        columns = torch.cat((asked, beside), dim=1).transpose(1, 2).contiguous()  # [B, N, L + N], a row for each patch

        def gain(state: State) -> Tensor:
            return (columns - state[0].unsqueeze(1)).relu().sum(dim=-1)

        nothing = columns[:, 0] * 0
        return greedy(
            columns,
            gain((nothing,)),
            (nothing,),
            gain,
            update=lambda state, pick: (torch.maximum(state[0], pick.row),),
            keep=self.keep,
        )

    def official(self, eager: Eager) -> Selection:
        normalised = torch.nn.functional.normalize
        t, x, h = (normalised(one, dim=2, eps=1e-8) for one in (eager.given[TEXT], eager.projected, eager.features))
        likeness, similarity, mask = torch.bmm(t, x.mT), torch.bmm(h, h.mT), eager.given[TEXT_MASK]
        # A row that is no word is covered by all patches alike, and counts for none.
        p = torch.softmax(likeness / 0.02, dim=2) / mask.sum(dim=1).clamp(min=1)[:, None, None]
        p = p.masked_fill(mask[:, :, None] == 0, 0.0)
        itself = similarity + torch.diag_embed(1 - similarity.diagonal(dim1=1, dim2=2))
        q = self.alpha * torch.softmax(itself / 0.2, dim=2) / itself.shape[1]
        combined = torch.cat((p, q), dim=1)

        def gain(chosen: Tensor) -> Tensor:
            best = torch.zeros_like(combined[:, :, 0])
            if chosen.shape[1]:
                best = torch.take_along_dim(combined, chosen[:, None, :], dim=2).amax(dim=2)
            return torch.clamp(combined - best[:, :, None], min=0).sum(dim=1)

        quantities = {"similarity": similarity, "asked": likeness, "mask": mask}
        return replace(greedily(gain, x.shape[0], self.keep), quantities=quantities)
