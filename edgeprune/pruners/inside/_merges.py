"""Tensor helpers of the reducers that merge: rows of 0 and 1. Only static forms use them; what TAKES is, the references
must know as well."""

from __future__ import annotations

import torch
from torch import Tensor

from edgeprune.pruners._select import place_in

__all__ = ["TAKES", "by_energy", "energy_of", "halves", "in_turns", "own_or"]

TAKES = 4.0
"""what sets the scores of PiToMe's rows that others may join apart: above every energy"""


def own_or(rows: Tensor, others: Tensor) -> Tensor:
    """`into` of rows that go on as they are, while each of the others goes where `others` says.

    rows: [B, K] int64, others: [B, n] int64 -> [B, n] int64
    """
    place = place_in(rows, torch.arange(others.shape[1]))
    return torch.where(place < 0, others, place)


def in_turns(even: Tensor, odd: Tensor) -> Tensor:
    """Values at even and at odd places -> all of them, [B, n]."""
    count = even.shape[1] + odd.shape[1]
    order = [at // 2 + at % 2 * even.shape[1] for at in range(count)]
    return torch.cat((even, odd), dim=1).index_select(1, torch.tensor(order))


def energy_of(alike: Tensor, alpha: float, margin: float = 0.0) -> Tensor:
    """PiToMe's energy: [B, n, n] float32 cosines -> [B, n], the mean of f(x) = x where x >= margin, else
    alpha (exp(x - margin) - 1)."""
    beyond = alike - margin if margin else alike
    return torch.where(alike >= margin, alike, alpha * (beyond.exp() - 1)).mean(dim=-1)


def halves(energy: Tensor, joins: int) -> tuple[Tensor, Tensor]:
    """[B, n] -> the rows that join others and those that they may join, [B, joins] int64 each, by falling energy."""
    order = energy.topk(2 * joins, dim=-1).indices
    return order[:, 0::2], order[:, 1::2]


def by_energy(energy: Tensor, taking: Tensor) -> Tensor:
    """[B, n], [B, joins, n] bool -> [B, n], the lower the energy the higher; rows that others may join above all."""
    return torch.where(taking.any(dim=1), TAKES - energy, -energy)
