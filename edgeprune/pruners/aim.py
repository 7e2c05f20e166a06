"""AIM: merge every other token into the one most like it, halving their number in each round. Its first half.

    a, b    = the tokens at even and at odd places                               x: behind the projector
    nearest = argmax over b of cos(x_a, x_b), for each of a
    the r of a with the highest cosine join their b, which becomes the mean of itself and all that join it; what is
    left of a comes first, then b        r = as many as there are in b, in the last round as many as leave K

    score[j] = 2 t + (1 - c_j) / 2        t: rounds that patch j came through as a token that others joined or that
                                          joined none; c: its highest cosine in the first round

A later round compares tokens that are merged already: there a near tie turns everything behind it.

Paper   https://arxiv.org/abs/2412.03248
Source  LaVi-Lab/AIM@edc24e9 llava/model/token_merge.py
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from edgeprune import pruners
from edgeprune.pruners import Eager, Selection, Traits, rows_of
from edgeprune.pruners._select import lower_take
from edgeprune.taps import Taps


def rounds(patches: int, keep: int) -> list[int]:
    """How many tokens each round merges.

    >>> rounds(576, 144), rounds(576, 128), rounds(9, 2)
    ([288, 144], [288, 144, 16], [4, 2, 1])
    """
    merged: list[int] = []
    while patches > keep:
        merged.append(min(patches // 2, patches - keep))
        patches -= merged[-1]
    return merged


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    written_from: ClassVar[str] = "official code at LaVi-Lab/AIM@edc24e9"
    traits: ClassVar[Traits] = Traits(
        reads=("projected features",),
        multiply_adds="902.4 M",
        early=False,
        emits=("origin", "order"),
        deviations=(
            "any K, by a last round that merges fewer; the official code has two rounds of one half",
            "tokens stay in raster order of the patch that others joined; the official code puts those that joined "
            "nothing first, by similarity",
            "cosines are float32 in every precision; the official code has them in the model's dtype",
            "the second half, inside the language model, is left out",
        ),
    )

    def rule(self, patches: int) -> dict[str, Any]:
        return {"name": "match", "form": "rounds", "merged": rounds(patches, self.keep)}

    def select(self, taps: Taps) -> Selection:
        tokens = taps.projected.float()
        batch, patches, _ = tokens.shape
        number = torch.arange(patches)
        similarity = _even_by_odd(tokens)
        highest = torch.cat((similarity.amax(dim=2), similarity.amax(dim=1)), dim=1)
        raster = [at // 2 + at % 2 * ((patches + 1) // 2) for at in range(patches)]  # even and odd in turns again
        scores = ((1 - highest.index_select(1, torch.tensor(raster))) / 2).clamp(0, 1)
        names = number.expand(batch, -1)
        if self.keep == patches:
            return Selection(names, scores, origin=names, order=names)
        origin = joined = names  # the patch that each one is of, and the one that it joined itself
        for turn, count in enumerate(rounds(patches, self.keep)):
            if turn:
                similarity = _even_by_odd(tokens)
            even, odd = similarity.shape[1:]
            best, near = similarity.max(dim=-1)
            joins = near.unsqueeze(1) == torch.arange(odd).unsqueeze(-1)  # [B, odd, even]
            alone = None
            if count < even:
                alone = best.topk(even - count, dim=-1, largest=False).indices
                joins = joins & (alone.unsqueeze(-1) != torch.arange(even)).all(dim=1, keepdim=True)
            weight = joins.float()
            tokens = _merged(tokens, weight, alone)
            others = names[:, 1::2]
            into = (names[:, 0::2, None] == origin.unsqueeze(1)).float()  # [B, even, N]
            moved = joins.float() @ into > 0  # [B, odd, N]
            target = others.gather(1, near).unsqueeze(-1)
            here = (names[:, 0::2, None] == number) & joins.any(dim=1).unsqueeze(-1)
            joined = torch.where(here.any(dim=1), (here * target).sum(dim=1), joined)
            origin = torch.where(moved.any(dim=1), others.gather(1, moved.float().argmax(dim=1)), origin)
            names = others if alone is None else torch.cat((names[:, 0::2].gather(1, alone), others), dim=1)
            scores = scores + 2 * (names.unsqueeze(-1) == number).any(dim=1)
        indices, order = names.sort(dim=1)
        place = (indices.unsqueeze(1) == origin.unsqueeze(-1)).float().argmax(dim=-1)
        return Selection(
            indices, scores, merged=lower_take(tokens, order, 1).to(taps.projected.dtype), origin=place, order=joined
        )

    def official(self, eager: Eager) -> Selection:
        x = eager.projected
        batch, patches = x.shape[:2]
        names = torch.arange(patches).repeat(batch, 1)
        alike = _likeness(x)
        highest = torch.zeros_like(x[:, :, 0]).scatter(1, names[:, ::2], alike.amax(dim=2))
        scores = (1 - highest.scatter(1, names[:, 1::2], alike.amax(dim=1))).clamp(0, 2) / 2
        origin, joined = names.clone(), names.clone()
        while (n := x.shape[1]) > self.keep:
            r = min(n // 2, n - self.keep)
            highest, nearest = _likeness(x).max(dim=2)
            order = highest.argsort(dim=1, descending=True)
            source, lonely = order[:, :r], order[:, r:]
            into = one_hot(nearest.gather(1, source), n // 2).to(x.dtype)
            size = 1 + into.sum(dim=1)[:, :, None]
            joined_by = (x[:, 1::2] + torch.bmm(into.mT, rows_of(x, 2 * source))) / size
            x = torch.cat((rows_of(x, 2 * lonely), joined_by), dim=1)
            gone, target = names.gather(1, 2 * source), names[:, 1::2].gather(1, nearest.gather(1, source))
            renamed = torch.arange(patches).repeat(batch, 1).scatter(1, gone, target)
            origin, joined = renamed.gather(1, origin), joined.scatter(1, gone, target)
            names = torch.cat((names.gather(1, 2 * lonely), names[:, 1::2]), dim=1)
            scores = scores + torch.zeros_like(scores).scatter(1, names, 2.0)
        indices, raster = names.sort(dim=1)
        place = torch.zeros_like(origin).scatter(1, indices, torch.arange(indices.shape[1]).repeat(batch, 1))
        return Selection(
            indices,
            scores,
            merged=rows_of(x, raster),
            origin=place.gather(1, origin),
            order=joined,
            quantities={"products": torch.bmm(eager.projected, eager.projected.mT)},
        )


def _even_by_odd(x: Tensor) -> Tensor:
    """Cosines of the tokens at even places with those at odd ones: [B, n, D] -> [B, n - n // 2, n // 2]"""
    halves = x[:, 0::2], x[:, 1::2]  # which merging takes, too
    even, odd = (half / torch.linalg.vector_norm(half, dim=-1, keepdim=True).clamp_min(1e-12) for half in halves)
    found: Tensor = even @ odd.transpose(1, 2)
    return found


def _merged(x: Tensor, weight: Tensor, alone: Tensor | None) -> Tensor:
    """The rows of the next round: [B, n, C], weight [B, odd, even] of 0 and 1, alone [B, m] -> [B, m + odd, C]"""
    mean = (x[:, 1::2] + weight @ x[:, 0::2]) / (1 + weight.sum(dim=-1, keepdim=True))
    return mean if alone is None else torch.cat((lower_take(x[:, 0::2], alone, 1), mean), dim=1)


def _likeness(x: Tensor) -> Tensor:
    unit = torch.nn.functional.normalize(x, dim=-1)
    return torch.bmm(unit[:, ::2], unit[:, 1::2].mT)
