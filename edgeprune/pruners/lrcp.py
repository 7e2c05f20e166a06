"""LRCP: keep the patches that a few main directions explain least, and merge the others into them.

    X       = x - mean of x                                           x: behind the projector
    V       = the first right singular vectors of X
    score_j = ||X_j - V V^T X_j||^2
    kept    = top-k of score
    token   = mean of x_j and of the others that cos(x_i, x_j) puts nearest to it, of all kept ones

Singular vectors are not in ONNX: a fixed number of Lanczos steps takes their place (`_directions`).

Paper   https://arxiv.org/abs/2605.15621
Source  the paper's formula, as a third party's port to vLLM has it; no official code was found
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from edgeprune import pruners
from edgeprune.errors import MethodError
from edgeprune.pruners import Eager, Selection, Traits
from edgeprune.pruners._directions import main_directions, multiply_adds
from edgeprune.pruners._greedy import unit
from edgeprune.pruners._select import lower_take, ranked_top
from edgeprune.taps import Taps

TINY = 1e-12
"""what a length of zero is taken for"""
ITSELF = 2.0
"""above every cosine"""


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    rank: int = 4
    """main directions taken out, 1 or more; the source has 8 for Qwen"""
    written_from: ClassVar[str] = "third-party note"
    traits: ClassVar[Traits] = Traits(
        reads=("projected features",),
        multiply_adds="572.3 M",
        early=False,
        ranks=True,
        official_in_onnx=False,
        emits=("picks", "origin"),
        deviations=(
            "a fixed number of Lanczos steps from a fixed start in place of a singular value decomposition",
            "a kept token is divided by 1 + the number of merged ones; the source divides by 2 where there are none, "
            "which halves it",
            "tokens stay in raster order; the source has them by falling score",
        ),
    )

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise MethodError(f"option rank of lrcp must be 1 or more, got {self.rank}")

    def rule(self, patches: int) -> dict[str, Any]:
        return {"name": "match", "form": "nearest"}

    def ranking(self, rows: int, width: int) -> int:
        return multiply_adds(self.rank, rows, width) + 2 * self.rank * rows * width

    def select(self, taps: Taps) -> Selection:
        x = taps.projected.float()
        patches = x.shape[1]
        centred = x - x.mean(dim=1, keepdim=True)
        directions = main_directions(centred, self.rank)
        rest = centred - (centred @ directions) @ directions.transpose(1, 2)
        scores = (rest * rest).sum(dim=-1)
        indices, picks = ranked_top(scores, self.keep)
        if self.keep == patches:
            return Selection(indices, scores, picks=picks, origin=indices)
        here = indices.unsqueeze(-1) == torch.arange(patches)  # [B, K, N]
        rows = unit(x)
        near = (lower_take(rows, indices, 1) @ rows.transpose(1, 2)).argmax(dim=1, keepdim=True)
        joins = (near == torch.arange(self.keep).unsqueeze(-1)) & ~here.any(dim=1, keepdim=True)
        member = (here | joins).float()
        merge = member / member.sum(dim=-1, keepdim=True)
        merged = merge.to(taps.projected.dtype) @ taps.projected
        return Selection(indices, scores, merged=merged, picks=picks, origin=member.argmax(dim=1))

    def official(self, eager: Eager) -> Selection:
        x = eager.projected.float()
        patches = x.shape[1]
        centred = x.double() - x.double().mean(dim=1, keepdim=True)
        _, strength, directions = torch.linalg.svd(centred, full_matrices=False)
        v = directions[:, : self.rank].mT
        scores = (centred - centred @ v @ v.mT).square().sum(dim=2).float()
        order = scores.argsort(dim=1, descending=True)
        chosen = order[:, : self.keep].sort(dim=1).values

        unit, length = torch.nn.functional.normalize(x, dim=2), x.norm(dim=2)
        alike = torch.bmm(unit, unit.mT)
        own = one_hot(chosen, patches).mT  # [B, N, K]
        near = torch.where(own > 0, ITSELF, alike.gather(2, chosen[:, None, :].expand(-1, patches, -1)))
        merge = one_hot(near.argmax(dim=2), self.keep).mT.to(x.dtype)
        merge = merge / merge.sum(dim=2, keepdim=True)
        return Selection(
            chosen,
            scores,
            merged=torch.bmm(merge, x).to(eager.projected.dtype),
            picks=order[:, : self.keep],
            origin=near.argmax(dim=2),
            quantities={
                "similarity": alike,
                "length": length,
                "turn": _turn(strength, length.amax(dim=1, keepdim=True), self.rank),
            },
        )


def _turn(strength: Tensor, longest: Tensor, rank: int) -> Tensor:
    """By how much the first `rank` directions turn for a relative error of the rows, as perturbation theory has it.

    strength: [B, r] singular values s; longest: [B, 1] length of a row
    -> [B, 1], s_1 x longest / (s_rank^2 - the next one's square), at most 1e6
    """
    squares = torch.nn.functional.pad(strength.square(), (0, 1))
    last = min(rank, strength.shape[1])
    gap = squares[:, last - 1 : last] - squares[:, last : last + 1]
    return (strength[:, :1] * longest / gap.clamp_min(1e-30)).clamp_max(1e6).float()
