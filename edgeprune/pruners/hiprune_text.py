"""HiPrune_text: HiPrune's set of a part of the budget, and of the other patches those most like a question.

    first    = what `hiprune` keeps of K - E                                     E = round(share K), 1 at least
    asked    = of the others the E with the highest cos(v_j, t)    v: features in CLIP's joint space; t: the text
    score[j] = what `hiprune` ranks by, plus 2, of its own; (1 + cos(v_j, t)) / 2 of the others

The paper calls it HiPrune++ and says how many are added in two ways that contradict each other; no code is published.
E is that of a third party's port, a tenth of the budget, and is part of it here, so that K tokens leave.

Source  ours, after https://arxiv.org/abs/2508.00553, section 4.4
        Danielement321/HiPrune@6e83a12, of what `hiprune` keeps
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from edgeprune import pruners
from edgeprune.errors import MethodError
from edgeprune.ports import ALIGNED, TEXT, Port, text_port
from edgeprune.pruners import Eager, Selection, Traits
from edgeprune.pruners._greedy import unit
from edgeprune.taps import Taps

TIER = 2.0
"""what those of `hiprune` are above the others; half of 1 + a cosine is at most 1"""


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    share: float = 0.1
    """how much of the budget the question takes, 0..1"""
    alpha: float = 0.1
    object_layer: int = 0
    neighbours: str = "flat"
    """these three as of hiprune"""
    written_from: ClassVar[str] = "ours"
    traits: ClassVar[Traits] = Traits(
        whole_grid=True,
        reads=("attention maps of two layers", "features"),
        multiply_adds="682 M",
        query_rows=None,
        early=False,
        asks=True,
        deviations=(
            "those that the question adds are part of the budget; the paper adds them to it",
            "patches meet the question in CLIP's space alone; the paper takes the language model's where a tower has "
            "no text encoder of its own",
        ),
    )

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise MethodError(
                f"option share of hiprune_text must be in (0, 1], got {self.share:g}; without it: hiprune"
            )
        assert self._first.keep >= 0  # and its options are checked there

    @property
    def _asked(self) -> int:
        return max(1, round(self.share * self.keep))

    @property
    def _first(self) -> pruners.Method:
        make: Any = pruners.get("hiprune")
        hiprune: pruners.Method = make(self.keep - self._asked, self.alpha, self.object_layer, self.neighbours)
        return hiprune

    @property
    def ports(self) -> tuple[Port, ...]:
        return (text_port(ALIGNED, blank=None),)

    def layers(self, depth: int) -> tuple[int, ...]:
        return self._first.layers(depth)

    def rule(self, patches: int) -> dict[str, Any]:
        return {"name": "stages", "anchors": self._first.rule(patches)["anchors"], "asked": self._asked}

    def select(self, taps: Taps) -> Selection:
        first, v, text = self._first.select(taps), taps.aligned().float(), taps.given[TEXT]
        cosine = (unit(v) @ unit(text).unsqueeze(-1)).squeeze(-1)
        own = (first.indices.unsqueeze(-1) == torch.arange(v.shape[1])).any(dim=1)
        scores = torch.where(own, first.scores + TIER, (1 + cosine) / 2)
        asked = torch.where(own, -1.0, scores).topk(self._asked, dim=1).indices
        assert first.picks is not None
        picks = torch.cat((first.picks, asked), dim=1)
        return Selection(picks.sort(dim=1).values, scores, picks=picks)

    def official(self, eager: Eager) -> Selection:
        first = self._first.official(eager)
        cosine = torch.nn.functional.cosine_similarity(eager.aligned, eager.given[TEXT][:, None], dim=2, eps=1e-24)
        relevance, free = (cosine + 1) / 2, torch.ones_like(cosine).scatter(1, first.indices, 0.0)
        asked = (relevance + free).argsort(dim=1, descending=True)[:, : self._asked]
        scores = torch.lerp(2 + first.scores, relevance, free)
        assert first.picks is not None
        picks = torch.cat((first.picks, asked), dim=1)
        deep = eager.attentions[-1].mean(dim=1).mean(dim=1)[:, eager.prefix :]
        quantities = {**first.quantities, "deep": deep, "relevance": relevance}
        return replace(first, indices=picks.sort(dim=1).values, scores=scores, picks=picks, quantities=quantities)
