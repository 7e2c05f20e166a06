"""What a device knows of each patch beside the image, into what a method ranks by: `--prior mask|mul|fuse:W`.

    mask      score[j], of a patch with prior 0 less than that of every other one:
              score[j] - 2 (max - min) - max |score| / 10
    mul       score[j] prior[j]
    fuse:W    (1 - W) unit(score)[j] + W unit(prior)[j]        unit(x) = (x - min) / max(max - min, max |x| / 10)

The budget stays K: where fewer than K patches have a prior, the best of the others fill it up. A prior of ones changes
nothing but, under fuse, the scale. It is of patches that stay in their places, and of methods whose score of a patch
hangs on no choice (`Traits.ranks`).

Source  intcomp/attention-bias@e75ebe7 patches: the mask, whose count falls with it; mul and fuse are ours
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgeprune.ports import Port, prior_port

__all__ = ["Prior"]

FLAT = 0.1
"""the share of the largest that a spread is taken for at least"""
TINY = 1e-30


@dataclass(frozen=True)
class Prior:
    use: str
    """mask, mul or fuse"""
    weight: float = 0.0
    """of the prior, of fuse"""

    def __str__(self) -> str:
        return f"{self.use}:{self.weight:g}" if self.use == "fuse" else self.use

    @property
    def port(self) -> Port:
        what = {"mask": "0: this patch is kept last", "mul": "what its score is taken times"}
        return prior_port(what.get(self.use, "what is wanted, in any unit"))

    def ranked(self, scores: Tensor, prior: Tensor) -> Tensor:
        """The static form: what the patches are ranked by, [B, N] float32. prior: [B, N] float32"""
        if self.use == "mul":
            return scores * prior
        if self.use == "fuse":
            return (1 - self.weight) * _unit(scores) + self.weight * _unit(prior)
        low, high = scores.amin(dim=-1, keepdim=True), scores.amax(dim=-1, keepdim=True)
        below = 2 * (high - low) + FLAT * scores.abs().amax(dim=-1, keepdim=True) + TINY
        return torch.where(prior > 0, scores, scores - below)

    def official(self, scores: Tensor, prior: Tensor) -> Tensor:
        """The same as the reference has it."""
        if self.use == "mul":
            return torch.mul(prior, scores)
        least, most = scores.min(dim=1, keepdim=True).values, scores.max(dim=1, keepdim=True).values
        largest = torch.maximum(most, -least)
        if self.use == "mask":
            fallen = scores - 2 * (most - least) - FLAT * largest - TINY
            return fallen.where(prior <= 0, scores)
        first, last = prior.min(dim=1, keepdim=True).values, prior.max(dim=1, keepdim=True).values
        spread, spread_of_prior = (
            (high - low).max(FLAT * high.max(-low)).clamp(min=TINY) for low, high in ((least, most), (first, last))
        )
        return torch.lerp((scores - least) / spread, (prior - first) / spread_of_prior, self.weight)


def _unit(x: Tensor) -> Tensor:
    low, high = x.amin(dim=-1, keepdim=True), x.amax(dim=-1, keepdim=True)
    floor = (FLAT * x.abs().amax(dim=-1, keepdim=True)).clamp_min(TINY)
    return (x - low) / torch.maximum(high - low, floor)
