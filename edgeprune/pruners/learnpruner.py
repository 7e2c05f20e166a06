"""LearnPruner: keep what a small trained scorer ranks highest, and of the rest what is least like all that is kept.

    z        = W2 gelu(W1 h + b1) + b2            h: features in front of the projector, C wide; W1: C -> C / 2 -> 2
    s[j]     = z[j, keep] - z[j, drop]            the log of the odds of softmax(z)
    first    = the K - floor(share K) highest of s
    next     = argmin over j of the max over kept i of cos(h_i, h_j), until there are K
    score[j] = s[j] of the first ones, 1 - that cosine of the others

`edgeprune train learnpruner` trains W and b on a frozen model's own answers to questions (`edgeprune.train.straight`),
straight through the choice. What is known of the paper's first stage: an MLP to a softmax of two on features of CLIP,
.53 M parameters, straight-through, the model frozen, a tenth of the budget by the least of the largest cosines. Its
widths follow from the parameters; that the tenth is chosen one by one, the activation and the loss are ours. Its second
stage, inside the language model, is not here.

Source  third-party notes of the paper; neither code nor weights are public. --scorer takes what `edgeprune train` wrote
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from edgeprune import pruners
from edgeprune.errors import MethodError
from edgeprune.pruners import Eager, Selection, Traits, greedily
from edgeprune.pruners._greedy import cosine, greedy
from edgeprune.pruners._learned import Learned, check_width, read_learned
from edgeprune.pruners._select import ranked_top
from edgeprune.taps import Taps

DROP, KEEP = 0, 1
"""places of the two logits"""
BEHIND = -4.0
"""below every distance, which begins at 0"""


class Mlp(Learned):
    """features [B, N, C] -> the log odds of each patch, [B, N] float32"""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sizes = {"width": width}
        self.first, self.second = nn.Linear(width, max(1, width // 2)), nn.Linear(max(1, width // 2), 2)

    def forward(self, features: Tensor) -> Tensor:
        logits = self.second(nn.functional.gelu(self.first(self.as_read(features))))
        odds: Tensor = logits[..., KEEP] - logits[..., DROP]
        return odds


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    scorer: Mlp = field()  # without the default that it has in the base
    share: float = 0.1
    """of the budget, for what is unlike the rest: 0 or more, below 1"""
    written_from: ClassVar[str] = "third-party note"
    learns: ClassVar[str] = "answers"
    traits: ClassVar[Traits] = Traits(
        reads=("features",),
        multiply_adds="557.4 M",
        early=False,
        trained_by="edgeprune train learnpruner",
        deviations=(
            "the first stage alone, in front of the language model; the second one drops tokens inside it",
            "the diverse tokens are picked one by one, each unlike those before it; the notes leave that open",
            "trained on answers with budgets drawn anew for every batch; the notes do not say the loss",
            "scores are float32 in every precision",
        ),
    )

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise MethodError(f"option share of learnpruner must be in [0, 1), got {self.share:g}; 0.1 is the paper's")

    @classmethod
    def untrained(cls, features: int, tokens: int) -> Mlp:
        return Mlp(features)

    @classmethod
    def read(cls, path: Path) -> Mlp:
        return read_learned(path, "learnpruner", Mlp)

    @classmethod
    def fitted(cls, keep: int, scorer: Mlp, host: pruners.Host, **options: Any) -> Method:
        check_width("learnpruner", "features", scorer.sizes["width"], host.features)
        return cls(keep, scorer, **options)

    @property
    def leading(self) -> int:
        """How many are kept by score."""
        return self.keep - int(self.share * self.keep)

    def rule(self, patches: int) -> dict[str, Any]:
        return {"name": "greedy", "objective": "leading", "leading": self.leading}

    def options(self) -> dict[str, Any]:
        return {"share": self.share, "sha256": self.scorer.digest}

    def multiply_adds(self, patches: int) -> int:
        return patches * (self.scorer.first.weight.numel() + self.scorer.second.weight.numel())

    def select(self, taps: Taps) -> Selection:
        odds = self.scorer(taps.features)
        indices, picks = ranked_top(odds, self.leading)
        first = (picks.unsqueeze(-1) == torch.arange(odds.shape[1])).any(dim=1)
        if (others := self.keep - self.leading) == 0:
            return Selection(indices, torch.where(first, odds, -torch.inf), picks=picks)
        distance = 1 - cosine(taps.features)
        nearest = torch.where(first.unsqueeze(-1), distance, torch.inf).amin(dim=1)
        chosen = greedy(
            distance,
            torch.where(first, BEHIND, nearest),
            (nearest.clone(),),
            gain=lambda state: torch.where(first, BEHIND, state[0]),
            update=lambda state, pick: (torch.minimum(state[0], pick.row),),
            keep=others,
        )
        assert chosen.picks is not None
        every = torch.cat((picks, chosen.picks), dim=1)
        return Selection(every.sort(dim=1).values, torch.where(first, odds, chosen.scores), picks=every)

    def official(self, eager: Eager) -> Selection:
        h = eager.features
        hidden = nn.functional.gelu(torch.matmul(h, self.scorer.first.weight.mT) + self.scorer.first.bias)
        drop, kept = (torch.matmul(hidden, self.scorer.second.weight.mT) + self.scorer.second.bias).unbind(dim=-1)
        odds = kept - drop
        rows = h / h.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        similarity = torch.bmm(rows, rows.mT)

        def gain(chosen: Tensor) -> Tensor:
            if chosen.shape[1] < self.leading:
                return odds
            return 1 - torch.take_along_dim(similarity, chosen.unsqueeze(-1), dim=1).amax(dim=1)

        return replace(greedily(gain, len(h), self.keep), quantities={"similarity": similarity, "first": odds})
