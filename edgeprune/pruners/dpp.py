"""DPP: keep the patches that span the most, by the determinant of their cosines. CDPruner without a text.

    L[i, j] = cos(x_i, x_j)                                 x: behind the projector
    next    = argmax over j of det L[S + j] / det L[S]      S: the chosen
    score[j] = that ratio, for the patches that were picked

The ratio is what is left of x_j outside the span of the chosen ones, squared: 1 for the first pick, whichever it is.

Paper   https://arxiv.org/abs/2506.10967
Source  Theia-4869/CDPruner@9541616 llava/model/llava_arch.py, encode_images, with relevance 1 for every patch
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from edgeprune import pruners
from edgeprune.pruners import Eager, Selection, Traits, greedily
from edgeprune.pruners._greedy import Pick, State, cosine, greedy
from edgeprune.taps import Taps

SMALLEST = 1e-6
"""what a pick must have left to be a direction; what the chosen ones span already has nothing, up to rounding"""


def leave_out(state: State, pick: Pick) -> State:
    """Take the pick's direction out of what is left of every patch: one step of an incremental Cholesky.

    state: what is left [B, N]; and the rows of the factor so far [B, K, N], those of later steps 0
    """
    left, factor = state
    along = (factor * pick.here.unsqueeze(1)).sum(dim=-1, keepdim=True)  # the pick's column, [B, K, 1]
    row = (pick.row - (factor * along).sum(dim=1)) / pick.gain.clamp_min(SMALLEST).sqrt()
    row = torch.where(pick.gain > SMALLEST, row, 0.0)  # a direction of rounding; taken out of others, it would grow
    now = torch.arange(factor.shape[1]).unsqueeze(-1) == pick.step
    return left - row * row, torch.where(now, row.unsqueeze(1), factor)


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    written_from: ClassVar[str] = "official code at Theia-4869/CDPruner@9541616"
    traits: ClassVar[Traits] = Traits(
        reads=("projected features",),
        multiply_adds="1019 M",
        early=False,
        nested=True,
        deviations=(
            "no text: the relevance of every patch is 1",
            "the cosine of a patch with itself is 1, so that the first of equals is picked first; in the official code "
            "rounding decides",
            f"a pick that has {SMALLEST:g} left or less takes nothing from the others; the official code divides by it",
        ),
    )

    def rule(self, patches: int) -> dict[str, Any]:
        return {"name": "greedy", "objective": "determinant", "smallest": SMALLEST}

    def select(self, taps: Taps) -> Selection:
        similarity = cosine(taps.projected)
        left = torch.ones_like(similarity[..., 0])
        factor = torch.zeros_like(similarity[:, : self.keep])
        return greedy(similarity, left, (left, factor), lambda state: state[0], leave_out, self.keep)

    def official(self, eager: Eager) -> Selection:
        x = eager.projected / eager.projected.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        similarity = rest = torch.bmm(x, x.mT)  # becomes the Schur complement of the chosen ones
        rest = rest + torch.diag_embed(1 - rest.diagonal(dim1=1, dim2=2))

        def gain(chosen: Tensor) -> Tensor:
            nonlocal rest
            if chosen.shape[1]:
                row = torch.take_along_dim(rest, chosen[:, -1:, None], dim=1)
                itself = torch.take_along_dim(row, chosen[:, -1:, None], dim=2)
                rest = torch.where(itself > SMALLEST, rest - row.mT * row / itself, rest)
            return rest.diagonal(dim1=1, dim2=2)

        return replace(greedily(gain, x.shape[0], self.keep), quantities={"similarity": similarity})
