"""IDPruner: keep important patches that are unlike each other (maximal marginal relevance).

    importance = (m - min m) / (max m - min m + 1e-6)        m: attention that each patch receives, mean over heads and
                                                                queries; with option importance=cls, the [CLS] row
    next       = argmax over j of balance importance[j] - (1 - balance) max over chosen s of cos(x_s, x_j)
    score[j]   = that value, for the patches that were picked        x: behind the projector; max over none = 0

Paper   https://arxiv.org/abs/2602.13315
Source  Tencent/AngelSlim@67394ce angelslim/compressor/token_compressor/algorithm/idpruner.py
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from edgeprune import pruners
from edgeprune.errors import MethodError, unknown_name
from edgeprune.pruners import Eager, Selection, Traits, greedily
from edgeprune.pruners._greedy import cosine, greedy
from edgeprune.taps import Taps

UNLIKE = -2.0
"""below every cosine"""
SMALLEST = 1e-6
"""added to the range that importance is divided by, as in the official code"""


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    balance: float = 0.5
    """of importance against diversity, the official lambda: above 0, at most 1"""
    importance: str = "column_mean"
    """where importance is read: column_mean or cls"""
    written_from: ClassVar[str] = "official code at Tencent/AngelSlim@67394ce"
    traits: ClassVar[Traits] = Traits(
        reads=("attention map", "projected features"),
        multiply_adds="1360 M",
        query_rows=None,
        early=False,
        nested=True,
        masks=True,
        deviations=("importance is attention; the official one is a trained scorer",),
    )

    def __post_init__(self) -> None:
        if not 0 < self.balance <= 1:
            raise MethodError(
                f"option balance of idpruner must be above 0 and at most 1, got {self.balance:g}; for diversity alone "
                "use divprune"
            )
        if self.importance not in ("column_mean", "cls"):
            raise MethodError(unknown_name("importance", self.importance, ("column_mean", "cls")))

    def layers(self, depth: int) -> tuple[int, ...]:
        return (depth - 1,)

    @property
    def by_cls(self) -> bool:
        return self.importance == "cls"

    def rule(self, patches: int) -> dict[str, Any]:
        return {"name": "greedy", "objective": "relevance", "balance": self.balance, "smallest": SMALLEST}

    def select(self, taps: Taps) -> Selection:
        """Raises MethodError for importance=cls on an encoder without special tokens."""
        self._check(taps.prefix)
        measured = taps.cls_attention().mean(dim=1) if self.importance == "cls" else taps.column_mean()
        low, high = measured.amin(dim=-1, keepdim=True), measured.amax(dim=-1, keepdim=True)
        wanted = self.balance * (measured - low) / (high - low + SMALLEST)
        return greedy(
            cosine(taps.projected),
            wanted,
            (wanted * 0 + UNLIKE,),
            gain=lambda state: wanted - (1 - self.balance) * state[0],
            update=lambda state, pick: (torch.maximum(state[0], pick.row),),
            keep=self.keep,
        )

    def official(self, eager: Eager) -> Selection:
        """Raises MethodError for importance=cls on an encoder without special tokens."""
        self._check(eager.prefix)
        attention = eager.attentions[-1].mean(dim=1)[:, :, eager.prefix :]
        scorer = attention[:, 0] if self.importance == "cls" else attention.mean(dim=1)
        least, most = scorer.min(dim=1, keepdim=True).values, scorer.max(dim=1, keepdim=True).values
        importance = (scorer - least) / (most - least + 1e-6)
        x = eager.projected / eager.projected.norm(dim=-1, keepdim=True).clamp_min(1e-12)

        def gain(chosen: Tensor) -> Tensor:
            relevance = self.balance * importance
            if chosen.shape[1] == 0:
                return relevance
            likeness = torch.bmm(torch.take_along_dim(x, chosen.unsqueeze(-1), dim=1), x.mT)
            return relevance - (1 - self.balance) * likeness.amax(dim=1)

        quantities = {"similarity": torch.bmm(x, x.mT), "attention": scorer}
        return replace(greedily(gain, x.shape[0], self.keep), quantities=quantities)

    def _check(self, prefix: int) -> None:
        if self.importance == "cls" and not prefix:
            raise MethodError(
                "option importance=cls of idpruner must be used on an encoder with a [CLS] token, this one has none; "
                "use importance=column_mean"
            )
