"""OTPrune: keep the patches that span the most, by a determinant over the products of their channels.

    F       = x, each channel divided by its length over all patches        x: behind the projector, [N, D]
    G       = F F^T
    L       = I + .01 G G
    next    = argmax over j of det L[S + j] / det L[S]                      S: the chosen
    score[j] = that ratio, less 1, for the patches that were picked; never below 0

Since L is above I, no pick is ever without a direction of its own: of equal patches each counts for itself. The paper
has this for the optimal transport from all tokens to the kept ones, under a normal distribution.

Source  xiwenc1/OTPrune@3414730 LLaVA/llava/model/llava_arch.py, OTPrune, greedy_select
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from edgeprune import pruners
from edgeprune.pruners import Eager, Selection, Traits
from edgeprune.pruners._determinant import by_cholesky, by_elimination
from edgeprune.pruners._greedy import products
from edgeprune.taps import Taps

GAMMA = 0.01
TINY = 1e-12
"""what the length of a channel of zeros is taken for"""


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    written_from: ClassVar[str] = "official code at xiwenc1/OTPrune@3414730"
    traits: ClassVar[Traits] = Traits(
        reads=("projected features",),
        multiply_adds="1163 M",
        early=False,
        pools_tiles=True,
        nested=True,
        masks=True,
        deviations=(
            "tokens stay in raster order; the official code has them in that of a Python set",
            "the kernel and its factor are float32 in every precision; the official code keeps the factor in the "
            "model's dtype",
        ),
        on_tiles=("the tiles are one pool of candidates without newline tokens, and padding is not cut off",),
    )

    def rule(self, patches: int) -> dict[str, Any]:
        return {"name": "greedy", "objective": "volume"}

    def select(self, taps: Taps) -> Selection:
        x = taps.projected.float()
        length = (x * x).sum(dim=1, keepdim=True).sqrt()  # ONNX Runtime has a fast sum over rows, and no such length
        channels = x / length.clamp_min(TINY)
        gram = products(channels)
        shared = GAMMA * products(gram)  # G is symmetric: products of its rows are G G
        return by_cholesky(shared, GAMMA * (gram * gram).sum(dim=-1), self.keep, own=1.0)

    def official(self, eager: Eager) -> Selection:
        x = torch.nn.functional.normalize(eager.projected, dim=1, eps=1e-12)
        gram = torch.bmm(x, x.mT)
        shared = 0.01 * torch.bmm(gram, gram)
        return replace(by_elimination(shared, self.keep, own=1), quantities={"products": shared})
