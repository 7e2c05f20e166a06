"""Bipartite merging in rounds: every other row joins the one most like it, which halves their number each time.

a, b    = the rows at even and at odd places
nearest = argmax over b of cos(x_a, x_b), for each of a
the r of a with the highest cosine join their b, which becomes a mean; what is left of a comes first, then b
r = as many as there are in b, in the last round as many as leave K

mean    of itself and all that join it, each of them once; `by_size`: each as often as it stands for rows

score[j] = 2 t + (1 - c_j) / 2        t: rounds that row j came through as one that others joined or that joined
                                      none; c: its highest cosine in the first round
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from edgeprune.pruners import Selection, rows_of
from edgeprune.pruners._greedy import unit
from edgeprune.pruners._select import lower_take, place_in
from edgeprune.pruners.inside._merges import in_turns

__all__ = ["in_rounds", "means_of", "officially_in_rounds", "rounds"]


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


def in_rounds(x: Tensor, keep: int, by_size: bool = False) -> Selection:
    """The static form: [B, N, C] float32 -> indices [B, keep], scores, origin and order [B, N], and what the rows
    became, `merged` [B, keep, C]; None where nothing merges."""
    batch, patches, _ = x.shape
    number = torch.arange(patches)
    similarity = _even_by_odd(x)
    highest = in_turns(similarity.amax(dim=2), similarity.amax(dim=1))
    scores = ((1 - highest) / 2).clamp(0, 1)
    names = number.expand(batch, -1)
    if keep == patches:
        return Selection(names, scores, origin=names, order=names)
    size = torch.ones_like(x[:, :, :1]) if by_size else None
    origin = joined = names  # the patch that each one is of, and the one that it joined itself
    for turn, count in enumerate(rounds(patches, keep)):
        if turn:
            similarity = _even_by_odd(x)
        even, odd = similarity.shape[1:]
        best, near = similarity.max(dim=-1)
        joins = near.unsqueeze(1) == torch.arange(odd).unsqueeze(-1)  # [B, odd, even]
        alone = None
        if count < even:
            alone = best.topk(even - count, dim=-1, largest=False).indices
            joins = joins & (alone.unsqueeze(-1) != torch.arange(even)).all(dim=1, keepdim=True)
        weight = joins.float()
        x, size = _merged(x, weight, alone, size)
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
    place = place_in(indices, origin)
    return Selection(indices, scores, merged=lower_take(x, order, 1), origin=place, order=joined)


def officially_in_rounds(x: Tensor, keep: int, by_size: bool = False) -> Selection:
    """The same as the official codes have it, with the inner products of the rows as `quantities`."""
    products = torch.bmm(x, x.mT)
    batch, patches = x.shape[:2]
    names = torch.arange(patches).repeat(batch, 1)
    alike = _likeness(x)
    highest = torch.zeros_like(x[:, :, 0]).scatter(1, names[:, ::2], alike.amax(dim=2))
    scores = (1 - highest.scatter(1, names[:, 1::2], alike.amax(dim=1))).clamp(0, 2) / 2
    origin, joined, many = names.clone(), names.clone(), torch.ones(batch, patches, 1)
    while (n := x.shape[1]) > keep:
        r = min(n // 2, n - keep)
        highest, nearest = _likeness(x).max(dim=2)
        order = highest.argsort(dim=1, descending=True)
        source, lonely = order[:, :r], order[:, r:]
        into = one_hot(nearest.gather(1, source), n // 2).to(x.dtype)
        share = many if by_size else torch.ones_like(many)
        total = share[:, 1::2] + torch.bmm(into.mT, rows_of(share, 2 * source))
        summed = (share * x)[:, 1::2] + torch.bmm(into.mT, rows_of(share * x, 2 * source))
        many = torch.cat((rows_of(many, 2 * lonely), many[:, 1::2] + torch.bmm(into.mT, rows_of(many, 2 * source))), 1)
        x = torch.cat((rows_of(x, 2 * lonely), summed / total), dim=1)
        gone, target = names.gather(1, 2 * source), names[:, 1::2].gather(1, nearest.gather(1, source))
        renamed = torch.arange(patches).repeat(batch, 1).scatter(1, gone, target)
        origin, joined = renamed.gather(1, origin), joined.scatter(1, gone, target)
        names = torch.cat((names.gather(1, 2 * lonely), names[:, 1::2]), dim=1)
        scores = scores + torch.zeros_like(scores).scatter(1, names, 2.0)
    indices, raster = names.sort(dim=1)
    place = torch.zeros_like(origin).scatter(1, indices, torch.arange(indices.shape[1]).repeat(batch, 1))
    chosen = Selection(indices, scores, origin=place.gather(1, origin), order=joined)
    return replace(chosen, merged=rows_of(x, raster), quantities={"products": products})


def means_of(origin: Tensor, keep: int) -> Tensor:
    """The merge of a static form whose tokens are means of the patches that went into them.

    origin: [B, N] int64, the place of the token that each patch went to -> [B, keep, N] float32
    """
    member = (origin.unsqueeze(1) == torch.arange(keep).unsqueeze(-1)).float()
    return member / member.sum(dim=-1, keepdim=True)


def _even_by_odd(x: Tensor) -> Tensor:
    """Cosines of the tokens at even places with those at odd ones: [B, n, D] -> [B, n - n // 2, n // 2]"""
    halves = x[:, 0::2], x[:, 1::2]  # which merging takes, too
    even, odd = map(unit, halves)
    products: Tensor = even @ odd.transpose(1, 2)
    return products


def _merged(x: Tensor, weight: Tensor, alone: Tensor | None, size: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The rows of the next round, and how many each stands for.

    x: [B, n, C], weight [B, odd, even] of 0 and 1, alone [B, m], size [B, n, 1] -> [B, m + odd, C], [B, m + odd, 1]
    """
    if size is None:
        mean = (x[:, 1::2] + weight @ x[:, 0::2]) / (1 + weight.sum(dim=-1, keepdim=True))
        return (mean if alone is None else torch.cat((lower_take(x[:, 0::2], alone, 1), mean), dim=1)), None
    total = size[:, 1::2] + weight @ size[:, 0::2]
    mean = (size[:, 1::2] * x[:, 1::2] + weight @ (size[:, 0::2] * x[:, 0::2])) / total
    if alone is None:
        return mean, total
    left = (lower_take(rows[:, 0::2], alone, 1) for rows in (x, size))
    x, size = (torch.cat(both, dim=1) for both in zip(left, (mean, total), strict=True))
    return x, size


def _likeness(x: Tensor) -> Tensor:
    rows = torch.nn.functional.normalize(x, dim=-1)
    return torch.bmm(rows[:, ::2], rows[:, 1::2].mT)
