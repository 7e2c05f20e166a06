"""ApET: keep the patches that a few far-apart ones explain least, and merge the others into them. Its encoder half.

    basis   = 10 patches, each furthest from those before it, by |h_i - h_j|        h: in front of the projector
    e_i     = |h_i - B^T (B B^T + 1e-5 I)^-1 B h_i|^2                               B: the basis' rows
    kept    = top-k of e, in falling order; body: all but the last 10 of them
    token   = mean of h_j of the body and of the dropped ones that cos(h_i, h_j) puts nearest to it, of the body
    the last 10, in raster order, hand out the basis' features in place of their own
    score[j] = e_j / max |h|^2, at most 1

A K of 10 or less has a basis of K - 1. What the paper calls 64 tokens are 96 of these, and a second stage behind layer
16 of the language model that leaves 32 of them (192: 288 and 96; 128: 192 and 64): it is not this budget.

The inverse is not in ONNX: rows of the basis, each with sqrt(1e-5) in a column of its own, are made orthonormal one by
one; their first columns, Q, give the same, h - Q^T Q h.

Source  MaQianKun0/ApET@70cc01b llava/model/llava_arch.py, encode_images, token_merging; llava/model/utils.py, fps
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from edgeprune import pruners
from edgeprune.errors import MethodError
from edgeprune.pruners import Eager, Selection, Traits
from edgeprune.pruners._greedy import unit
from edgeprune.pruners._loop import State, repeat
from edgeprune.pruners._select import lower_take, ranked_top
from edgeprune.taps import Taps

RIDGE = 1e-5
TINY = 1e-18
"""what a length of zero is taken for"""
NO_COSINE = -2.0
"""below all of them"""
FAR = 1e30
"""above every squared distance"""


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    basis: int = 10
    """patches that the others are explained by, 1 or more"""
    written_from: ClassVar[str] = "official code at MaQianKun0/ApET@70cc01b"
    traits: ClassVar[Traits] = Traits(
        reads=("features",),
        multiply_adds="93.7 M",
        early=False,
        official_in_onnx=False,
        emits=("picks", "origin", "order"),
        deviations=(
            "the basis begins with the first patch; the official code draws one",
            "distances, errors and cosines are float32 in every precision; of the official code the errors alone",
            "a K of the basis' size or less has a basis of K - 1; the official code has no token to merge into then",
            "the second stage, inside the language model, is left out: published 64 tokens are 96 of these",
        ),
    )

    def __post_init__(self) -> None:
        if self.basis < 1:
            raise MethodError(f"option basis of apet must be 1 or more, got {self.basis}")

    @property
    def _count(self) -> int:
        return min(self.basis, self.keep - 1)

    def rule(self, patches: int) -> dict[str, Any]:
        return {"name": "match", "form": "basis", "basis": self._count, "ridge": RIDGE}

    def select(self, taps: Taps) -> Selection:
        x, count = taps.features.float(), self._count
        number = torch.arange(x.shape[1])
        basis, rest = _explained(x, count) if count else (None, x)
        longest = (x * x).sum(dim=-1).amax(dim=-1, keepdim=True).clamp_min(TINY)
        scores = (rest * rest).sum(dim=-1) / longest
        indices, picks = ranked_top(scores, self.keep)
        here = indices.unsqueeze(-1) == number  # [B, K, N]
        kept, stands = here.any(dim=1), indices
        last = (indices.unsqueeze(-1) == picks[:, self.keep - count :].unsqueeze(1)).any(dim=-1)
        if basis is not None:
            turn = (last.int().cumsum(dim=1) - 1).clamp_min(0)
            stands = torch.where(last, basis.gather(1, turn.to(torch.int64)), indices)
        rows = unit(x, TINY)
        similarity = lower_take(rows, indices, 1) @ rows.transpose(1, 2)
        near = torch.where(last.unsqueeze(-1), NO_COSINE, similarity).argmax(dim=1)
        joins = (near.unsqueeze(1) == torch.arange(self.keep).unsqueeze(-1)) & ~kept.unsqueeze(1)
        merge = (stands.unsqueeze(-1) == number).float() + joins.float()
        merge = merge / (1 + joins.sum(dim=-1, keepdim=True))
        return Selection(
            indices,
            scores,
            merge.to(taps.features.dtype),
            picks=picks,
            origin=torch.where(kept, here.float().argmax(dim=1), near),
            order=torch.where(kept, (here * stands.unsqueeze(-1)).sum(dim=1), number),
        )

    def official(self, eager: Eager) -> Selection:
        h, count, body = eager.features.double(), self._count, self.keep - self._count
        batch, patches, _ = h.shape
        basis = torch.zeros(batch, count, dtype=torch.int64)
        for turn in range(1, count):
            seeds = torch.take_along_dim(h, basis[:, :turn, None], dim=1)
            basis[:, turn] = torch.cdist(h, seeds).square().amin(dim=2).argmax(dim=1)
        seeds = torch.take_along_dim(h, basis[:, :, None], dim=1)
        gram = torch.bmm(seeds, seeds.mT) + 1e-5 * torch.eye(count)
        error = (h - torch.linalg.solve(gram, torch.bmm(seeds, h.mT)).mT @ seeds).square().sum(dim=2)
        order = error.argsort(dim=1, descending=True)[:, : self.keep]
        raster = order.sort(dim=1)
        origin, stands = torch.full((batch, patches), -1), torch.arange(patches).repeat(batch, 1)
        origin.scatter_(1, raster.values, torch.arange(self.keep).repeat(batch, 1))
        merge = torch.zeros(batch, self.keep, patches, dtype=h.dtype)
        products = torch.bmm(h, h.mT)
        for image in range(batch):
            place, last = origin[image].clone(), order[image, body:].sort().values
            stands[image, last] = basis[image]
            merge[image, place[last], basis[image]] = 1
            merge[image, place[order[image, :body]], order[image, :body]] = 1
            gone = (place < 0).nonzero().flatten()
            cosine = torch.nn.functional.cosine_similarity(h[image, gone, None], h[image, order[image, :body]], dim=-1)
            if len(gone):
                origin[image, gone] = place[order[image, cosine.argmax(dim=1)]]
                merge[image, origin[image, gone], gone] = 1
        merge = merge / merge.sum(dim=2, keepdim=True)
        return Selection(
            raster.values,
            (error / h.square().sum(dim=2).amax(dim=1, keepdim=True).clamp(min=1e-18)).float(),
            merge.to(eager.features.dtype),
            picks=order,
            origin=origin,
            order=stands,
            quantities={"products": products.float()},
        )


def _explained(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """[B, N, C] float32 -> the basis in the order in which it was chosen [B, count]; what it leaves of x."""
    patches = x.shape[1]
    places, turns = torch.arange(patches, dtype=torch.float32), torch.arange(count)
    nothing = x[:, :, 0] * 0
    rows = torch.cat((x, x[:, :, :1].expand(-1, -1, count) * 0), dim=-1)
    own = RIDGE**0.5 * torch.cat((torch.zeros(count, x.shape[2]), torch.eye(count)), dim=-1)

    def step(carry: State, at: Tensor | int) -> tuple[State, Tensor]:
        nearest, here, upright = carry
        now = (turns == at).unsqueeze(-1)
        row = here.unsqueeze(1) @ rows
        nearest = torch.minimum(nearest, ((rows - row) ** 2).sum(dim=-1))
        left = row + (own * now).sum(dim=0)
        for _ in range(2):  # the second time of what the first left, which rounding may have turned
            left = left - (left @ upright.transpose(1, 2)) @ upright
            left = left / torch.linalg.vector_norm(left, dim=-1, keepdim=True).clamp_min(TINY)
        place = torch.where(here > 0, places, 0.0).sum(dim=-1)
        further = torch.where(nearest == nearest.amax(dim=-1, keepdim=True), places, patches - 1.0)
        after = (places == further.amin(dim=-1, keepdim=True)).float()
        return (nearest, after, torch.where(now, left, upright)), place.to(torch.int64)

    first = nothing + (places == 0)
    (_, _, upright), chosen = repeat(step, (nothing + FAR, first, rows[:, :count] * 0), count)
    directions = upright[:, :, : x.shape[2]]
    return chosen.transpose(0, 1), x - (x @ directions.transpose(1, 2)) @ directions
