"""Eigenvalues of many small symmetric matrices at once, by Jacobi's rotations in a fixed order: ONNX has none.

    pairs (i, i + h), h = n / 2: each is rotated so that what stands off the diagonal there is 0
    then rows and columns move on as players do in a round-robin, so that all pairs meet in n - 1 rounds: one sweep

Every round is a few elementwise operations on all matrices. Convergence is quadratic: of random matrices of 16 rows six
sweeps leave off-diagonals below float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgeprune.pruners._loop import State, repeat

__all__ = ["eigenvalues"]

SWEEPS = 6
TINY = 1e-30
"""what a sum of nothing but zeros is taken for"""


def eigenvalues(matrices: Tensor) -> Tensor:
    """[..., n, n] float32, symmetric -> [..., n], in no order

    >>> eigenvalues(torch.tensor([[2.0, 1.0], [1.0, 2.0]])).sort().values.round(decimals=3)
    tensor([1., 3.])
    """
    size = matrices.shape[-1]
    if size == 1:
        return matrices.squeeze(-1)
    if size % 2:  # one who sits out: a row of zeros never turns, and its eigenvalue is the last
        matrices = torch.nn.functional.pad(matrices, (0, 1, 0, 1))
    half = matrices.shape[-1] // 2
    moves = torch.tensor([0, half, *range(1, half - 1), *range(half + 1, 2 * half), half - 1][: 2 * half])
    every = torch.tensor([0, 1]) if half == 1 else moves

    def turn(carry: State, _: Tensor | int) -> tuple[State, Tensor]:
        (now,) = carry
        first, last, off = (
            _diagonal(part) for part in (now[..., :half, :half], now[..., half:, half:], now[..., :half, half:])
        )
        apart = last - first
        tangent = (
            torch.where(apart < 0, -2.0, 2.0)
            * off
            / (apart.abs() + (apart * apart + 4 * off * off).sqrt()).clamp_min(TINY)
        )
        cosine = (1 + tangent * tangent).rsqrt()
        sine = tangent * cosine
        now = _turned(now, cosine.unsqueeze(-1), sine.unsqueeze(-1), half, -2).index_select(-2, every)
        now = _turned(now, cosine.unsqueeze(-2), sine.unsqueeze(-2), half, -1).index_select(-1, every)
        return (now,), cosine[..., :0]

    (turned,), _ = repeat(turn, (matrices,), SWEEPS * (2 * half - 1))
    # Who sat out moved on with the others, and came round to its place with every sweep.
    return _diagonal(turned)[..., :size]


def _diagonal(matrices: Tensor) -> Tensor:
    """[..., n, n] -> [..., n]"""
    return (matrices * torch.eye(matrices.shape[-1])).sum(dim=-1)


def _turned(x: Tensor, cosine: Tensor, sine: Tensor, half: int, dim: int) -> Tensor:
    """The rows, or the columns, of each pair turned."""
    first, last = x.narrow(dim, 0, half), x.narrow(dim, half, half)
    return torch.cat((cosine * first - sine * last, sine * first + cosine * last), dim=dim)
