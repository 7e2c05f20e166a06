"""LRCP: keep the patches that a few main directions explain least, and merge the others into them.

    X       = x - mean of x                                           x: behind the projector
    V       = orth(X^T Z), Z = X V        eight times from a fixed Z; the columns of V near the first right singular
                                          vectors of X
    score_j = ||X_j - V V^T X_j||^2
    kept    = top-k of score
    token   = mean of x_j and of the others that cos(x_i, x_j) puts nearest to it, of all kept ones

Singular vectors are not in ONNX: a fixed number of power iterations takes their place, with orth written out.

Paper   https://arxiv.org/abs/2605.15621
Source  the paper's formula, as a third party's port to vLLM has it; no official code was found
Needs   nothing of the attention; every patch is projected
Reads   projected features
Cost    463.2 M multiply-adds at N = 576, K = 64 on CLIP ViT-L/14
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from edgeprune import pruners
from edgeprune.errors import MethodError
from edgeprune.pruners import Eager, Selection, Traits
from edgeprune.pruners._select import lower_take, ranked_top
from edgeprune.taps import Taps

ITERATIONS = 8
TINY = 1e-18
"""what a length of zero is taken for: its square is still a float32"""
ITSELF = 2.0
"""above every cosine"""


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    rank: int = 4
    """main directions taken out, 1 or more; the source has 8 for Qwen"""
    traits: ClassVar[Traits] = Traits(
        early=False,
        projects_all=True,
        emits=("picks", "origin"),
        deviations=(
            f"{ITERATIONS} power iterations from a fixed start in place of a singular value decomposition",
            "a kept token is divided by 1 + the number of merged ones; the source divides by 2 where there are none, "
            "which halves it",
            "tokens stay in raster order; the source has them by falling score",
        ),
    )

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise MethodError(f"option rank of lrcp must be 1 or more, got {self.rank}")

    def start(self, patches: int) -> list[list[float]]:
        """[N, rank], uniform in -1..1, the same in every release of Python."""
        drawn = random.Random(0)
        return [[2 * drawn.random() - 1 for _ in range(self.rank)] for _ in range(patches)]

    def rule(self, patches: int) -> dict[str, Any]:
        return {"name": "match", "form": "nearest"}

    def select(self, taps: Taps) -> Selection:
        x = taps.projected.float()
        patches = x.shape[1]
        centred = x - x.mean(dim=1, keepdim=True)
        along = torch.tensor(self.start(patches)).expand(x.shape[0], -1, -1)
        for _ in range(ITERATIONS):
            directions = _orthonormal(centred.transpose(1, 2) @ along)
            along = centred @ directions
        rest = centred - along @ directions.transpose(1, 2)
        scores = (rest * rest).sum(dim=-1)
        indices, picks = ranked_top(scores, self.keep)
        if self.keep == patches:
            return Selection(indices, scores, picks=picks, origin=indices)
        here = indices.unsqueeze(-1) == torch.arange(patches)  # [B, K, N]
        unit = x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(TINY)
        near = (lower_take(unit, indices, 1) @ unit.transpose(1, 2)).argmax(dim=1, keepdim=True)
        joins = (near == torch.arange(self.keep).unsqueeze(-1)) & ~here.any(dim=1, keepdim=True)
        member = (here | joins).float()
        merge = member / member.sum(dim=-1, keepdim=True)
        merged = merge.to(taps.projected.dtype) @ taps.projected
        return Selection(indices, scores, merged=merged, picks=picks, origin=member.argmax(dim=1))

    def official(self, eager: Eager) -> Selection:
        x = eager.projected.float()
        batch, patches = x.shape[:2]
        centred = x - x.mean(dim=1, keepdim=True)
        z = torch.tensor(self.start(patches)).repeat(batch, 1, 1)
        for _ in range(ITERATIONS):
            v = _gram_schmidt(_gram_schmidt(torch.bmm(centred.mT, z)))
            z = torch.bmm(centred, v)
        scores = (centred - torch.bmm(z, v.mT)).square().sum(dim=2)
        order = scores.argsort(dim=1, descending=True)
        chosen = order[:, : self.keep].sort(dim=1).values

        unit = torch.nn.functional.normalize(x, dim=2)
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
            quantities={"similarity": alike, "length": x.norm(dim=2)},
        )


def _orthonormal(columns: Tensor) -> Tensor:
    """Gram-Schmidt, each column twice, so that one that nothing is left of stays upright: [B, D, r] -> [B, D, r]"""
    done: list[Tensor] = []
    for at in range(columns.shape[-1]):
        column = columns[:, :, at : at + 1]
        for _ in range(2):
            if done:
                basis = torch.cat(done, dim=-1)
                column = column - basis @ (basis.transpose(1, 2) @ column)
            column = column / torch.linalg.vector_norm(column, dim=1, keepdim=True).clamp_min(TINY)
        done.append(column)
    return torch.cat(done, dim=-1)


def _gram_schmidt(w: Tensor) -> Tensor:
    """The same, once, the other way round: what a column has of the new direction is taken out of all later ones."""
    found = []
    while w.shape[2]:
        q = w[:, :, :1] / w[:, :, :1].norm(dim=1, keepdim=True).clamp_min(TINY)
        found.append(q)
        w = w[:, :, 1:] - q * (q * w[:, :, 1:]).sum(dim=1, keepdim=True)
    return torch.cat(found, dim=2)
