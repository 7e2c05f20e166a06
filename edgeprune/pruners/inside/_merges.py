"""Tensor helpers of the reducers that merge: rows of 0 and 1, and unit vectors. Only static forms use them."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["in_turns", "own_or", "place_of", "unit"]


def unit(x: Tensor) -> Tensor:
    """Rows of length 1: [B, n, d] float32 -> the same."""
    found: Tensor = x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(1e-12)
    return found


def place_of(target: Tensor, rows: Tensor) -> Tensor:
    """Where each target stands among the rows: [B, n] int64, [B, K] int64 that hold all of them -> [B, n] int64"""
    return (target.unsqueeze(-1) == rows.unsqueeze(1)).float().argmax(dim=-1)


def own_or(rows: Tensor, others: Tensor) -> Tensor:
    """`into` of rows that go on as they are, while each of the others goes where `others` says.

    rows: [B, K] int64, others: [B, n] int64 -> [B, n] int64
    """
    same = rows.unsqueeze(-1) == torch.arange(others.shape[1])
    return torch.where(same.any(dim=1), same.float().argmax(dim=1), others)


def in_turns(even: Tensor, odd: Tensor) -> Tensor:
    """Values at even and at odd places -> all of them, [B, n]."""
    count = even.shape[1] + odd.shape[1]
    order = [at // 2 + at % 2 * even.shape[1] for at in range(count)]
    return torch.cat((even, odd), dim=1).index_select(1, torch.tensor(order))
