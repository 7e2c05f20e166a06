"""HoloV: share the budget among 16 chunks of the image, and keep what [CLS] attends to in each.

    a[j]     = mean over heads of A[cls, j]        A: attention of the layer that produces the features
    chunks   = 16 runs of patches in raster order, of all tiles of an image together; what does not divide makes the
               first ones longer by one
    weight   = mean over the chunk of 1000 a + 0.09 v mean(1000 a) / (mean(v) + 1e-6)
    v[i]     = variance of cos(x_i, x_j) over the chunk, with 0 for j = i        x: projected features
    share    = floor(K weight / (sum of weights + 1e-6)), and 1 more for the heaviest chunks until the sum is K
    score[j] = a[j] + 2 where j is among the `share` highest a of its chunk; the K highest are kept

Since a and v are not negative, weight = mean(1000 a) (1 + 0.09 m / (m + 1e-6)), m = mean(v): unless the tokens of a
chunk are all alike, the variance raises every chunk by the same 9 % and decides nothing.

Source  obananas/HoloV@1d2e65e llava/model/utils.py
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from edgeprune import pruners
from edgeprune.pruners import Eager, Selection, Traits
from edgeprune.pruners._select import ranked_top
from edgeprune.taps import Taps

CHUNKS = 16
BETA = 0.09
EPSILON = 1e-6
FIRST = 2.0
"""what the first tier is above the other; attention is at most 1"""


def sizes(patches: int) -> list[int]:
    """Patches in each chunk.

    >>> sizes(36)
    [3, 3, 3, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]
    """
    chunks = min(CHUNKS, patches)
    return [patches // chunks + (chunk < patches % chunks) for chunk in range(chunks)]


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    written_from: ClassVar[str] = "official code at obananas/HoloV@1d2e65e"
    traits: ClassVar[Traits] = Traits(
        whole_grid=True,
        reads=("[CLS] attention", "projected features"),
        multiply_adds="85.5 M",
        early=False,
        pools_tiles=True,
        deviations=(
            "scores are float32 in every precision; the official code computes in the model's dtype",
            "tokens stay in raster order; the official code orders them by attention within a chunk",
            "a chunk with a larger share than patches leaves the rest to the highest attention of the others; the "
            "official code fills up with zero vectors",
        ),
        on_tiles=(
            "the tiles are one pool, one tile behind the other; where the official code lays them out as the image, "
            "chunks are runs of its rows, and padding is cut off",
        ),
    )

    def layers(self, depth: int) -> tuple[int, ...]:
        return (depth - 1,)

    def rule(self, patches: int) -> dict[str, Any]:
        return {"name": "chunks", "sizes": sizes(patches), "epsilon": EPSILON}

    def select(self, taps: Taps) -> Selection:
        attention = taps.cls_attention().mean(dim=1)
        if attention.shape[1] < taps.projected.shape[1]:  # the tiles are one pool
            attention = attention.flatten(0, 1).unsqueeze(0)
        size = sizes(attention.shape[1])
        starts = [sum(size[:chunk]) for chunk in range(len(size))]
        # Chunks as rows of equal length; the place that a shorter one has too many shows its last patch and is masked.
        slots = [
            [start + min(at, count - 1) for at in range(size[0])] for start, count in zip(starts, size, strict=True)
        ]
        at = torch.tensor(slots).flatten()
        there = torch.arange(size[0]) < torch.tensor(size).unsqueeze(-1)  # [chunks, slots]

        inside = attention.index_select(1, at).reshape(-1, *there.shape)
        share = self._shares(inside * there.float(), taps.projected.float().index_select(1, at), there, size)
        rank = (_above(inside) & there.unsqueeze(-2)).sum(dim=-1)
        within = (rank < share.unsqueeze(-1)).flatten(1)
        back = [chunk * size[0] + place for chunk, count in enumerate(size) for place in range(count)]
        scores = attention + FIRST * within.index_select(1, torch.tensor(back)).float()
        indices, picks = ranked_top(scores, self.keep)
        return Selection(indices, scores, picks=picks)

    def _shares(self, attention: Tensor, tokens: Tensor, there: Tensor, size: list[int]) -> Tensor:
        """attention: [B, chunks, slots], tokens: [B, chunks * slots, D] -> [B, chunks], how many each chunk keeps"""
        unit = tokens / (tokens.norm(dim=-1, keepdim=True) + EPSILON)
        unit = unit.reshape(-1, *there.shape, unit.shape[-1])
        pair = (there.unsqueeze(-1) & there.unsqueeze(-2)).float()
        other = pair * (1 - torch.eye(size[0]))
        cosine = (unit @ unit.transpose(-1, -2)) * other
        count = torch.tensor(size, dtype=torch.float32)
        others = (count - 1).clamp(min=1)
        mean = cosine.sum(dim=-1) / others.unsqueeze(-1)
        variance = (((cosine - mean.unsqueeze(-1)) ** 2 * pair).sum(dim=-1) / others.unsqueeze(-1)).sum(dim=-1) / count
        weight = 1e3 * attention.sum(dim=-1) / count * (1 + BETA * variance / (variance + EPSILON))
        weight = torch.where(count > 1, weight, attention.sum(dim=-1))  # official: a chunk of one is not scaled
        share = (self.keep * (weight / (weight.sum(dim=-1, keepdim=True) + EPSILON))).floor()
        left = self.keep - share.sum(dim=-1, keepdim=True)
        return share + (_above(weight).sum(dim=-1) < left).float()

    def official(self, eager: Eager) -> Selection:
        cls_attention = eager.attentions[-1][:, :, 0, eager.prefix :].mean(dim=1)
        tokens, patches = eager.projected, eager.projected.shape[1]
        cls_attention = cls_attention.reshape(tokens.shape[0], patches)  # of all tiles, where they are one pool
        each, extra = patches // CHUNKS, patches % CHUNKS
        lengths = [length for chunk in range(CHUNKS) if (length := each + int(chunk < extra))]
        weights = []
        for x, attention in zip(torch.split(tokens, lengths, 1), torch.split(cls_attention, lengths, 1), strict=True):
            n = x.shape[1]
            if n == 1:
                weights.append(attention.mean(dim=1))
                continue
            normal = x / (x.norm(dim=2, keepdim=True) + 1e-6)
            similar = torch.bmm(normal, normal.mT) * (1 - torch.eye(n))
            mean = similar.sum(dim=2) / (n - 1)
            variance = ((similar - mean[:, :, None]) ** 2).sum(dim=2) / (n - 1)
            scaled = attention * 1e3
            factor = scaled.abs().mean(dim=1, keepdim=True) / (variance.abs().mean(dim=1, keepdim=True) + 1e-6)
            weights.append((scaled + 0.09 * (variance * factor)).mean(dim=1))
        weight = torch.stack(weights, dim=1)
        part = weight / (weight.sum(dim=1, keepdim=True) + 1e-6) * self.keep
        share = part.floor()
        left = self.keep - share.sum(dim=1, keepdim=True)
        falling = weight.sort(dim=1, descending=True)
        place = torch.argsort(falling.indices, dim=1)
        share = share + (place < left).to(share.dtype)
        within = []
        for chunk, attention in enumerate(torch.split(cls_attention, lengths, 1)):
            order = torch.argsort(attention, dim=1, descending=True)
            allowed = torch.arange(lengths[chunk]) < share[:, chunk : chunk + 1]
            within.append(torch.zeros_like(attention).scatter(1, order, allowed.to(attention.dtype)))
        scores = cls_attention + 2 * torch.cat(within, dim=1)
        picks = scores.topk(self.keep, dim=1).indices
        return Selection(picks.sort(dim=1).values, scores, picks=picks, quantities={"weight": weight})


def _above(values: Tensor) -> Tensor:
    """Whether place j stands before place i when the values fall; of equal ones the first: [..., n] -> [..., i, j]."""
    one, other = values.unsqueeze(-1), values.unsqueeze(-2)
    place = torch.arange(values.shape[-1])
    return (other > one) | ((other == one) & (place < place.unsqueeze(-1)))
