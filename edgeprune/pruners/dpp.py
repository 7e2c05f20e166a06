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

from edgeprune import pruners
from edgeprune.pruners import Eager, Selection, Traits
from edgeprune.pruners._determinant import SMALLEST, by_cholesky, by_elimination
from edgeprune.pruners._greedy import cosine
from edgeprune.taps import Taps


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    written_from: ClassVar[str] = "official code at Theia-4869/CDPruner@9541616"
    traits: ClassVar[Traits] = Traits(
        reads=("projected features",),
        multiply_adds="1019 M",
        early=False,
        nested=True,
        masks=True,
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
        return by_cholesky(similarity, torch.ones_like(similarity[..., 0]), self.keep)

    def official(self, eager: Eager) -> Selection:
        x = eager.projected / eager.projected.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        similarity = torch.bmm(x, x.mT)
        itself = similarity + torch.diag_embed(1 - similarity.diagonal(dim1=1, dim2=2))
        return replace(by_elimination(itself, self.keep), quantities={"similarity": similarity})
