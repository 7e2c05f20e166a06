"""The main directions of a set of rows, without a singular value decomposition, which is not in ONNX.

    Lanczos   q_0 = fixed;  q_t = X X^T q_(t-1), orthonormal to all before it        Q [N, M], P = X X^T Q
    Ritz      T = Q^T P, [M, M];  r times: u = the first eigenvector of T, by squaring T; T without u
    V         X^T Q [u ...], orthonormalised                                         [D, r]

Each step of Lanczos costs one product with X and one with X^T, and the best of all M together is taken. Of noise
[144, 256], whose singular values lie 1 % apart, 48 steps for four directions leave an error of 4e-7 in what these do
not explain; 24 power iterations of all four, which cost twice as much, leave one of .08.
"""

from __future__ import annotations

import random

import torch
from torch import Tensor

from edgeprune.pruners._loop import State, repeat

__all__ = ["TINY", "first_eigenvector", "main_directions", "multiply_adds", "steps_of"]

STEPS, STEPS_EACH = 48, 12
"""of Lanczos, at least, and for each direction"""
SQUARINGS = 12
"""T^4096: of two eigenvalues .1 % apart the second is left with a 60th of its part"""
TINY = 1e-18
"""what a length of zero is taken for: its square is still a float32"""


def steps_of(count: int, rows: int) -> int:
    """How many steps of Lanczos are taken: never more than there are rows."""
    return min(rows, max(STEPS, STEPS_EACH * count))


def multiply_adds(count: int, rows: int, width: int) -> int:
    """Of the first `count` directions of so many rows, of one image."""
    steps = steps_of(count, rows)
    lanczos = steps * (2 * rows * width + 6 * rows * steps) + rows * steps * steps
    eigenvectors = count * ((SQUARINGS + 2) * steps**3 + 2 * steps * steps)
    return lanczos + eigenvectors + count * rows * (steps + width) + 2 * count * (count - 1) * width


def main_directions(x: Tensor, count: int) -> Tensor:
    """The first right singular vectors of each image's rows: [B, N, D] float32 -> [B, D, count], orthonormal.

    Where there are fewer directions than are asked for, the others are zero, or of rounding.
    """
    steps = steps_of(count, x.shape[1])
    x = x / x.abs().amax(dim=(1, 2), keepdim=True).clamp_min(TINY)  # so that no square leaves float32
    basis, images = _lanczos(x, steps)
    ritz = basis.transpose(1, 2) @ images
    ritz = 0.5 * (ritz + ritz.transpose(1, 2))
    directions: list[Tensor] = []
    itself = torch.eye(steps)
    for _ in range(count):
        directions.append(first_eigenvector(ritz))
        without = itself - directions[-1] @ directions[-1].transpose(1, 2)
        ritz = without @ ritz @ without
    return _orthonormal(x.transpose(1, 2) @ (basis @ torch.cat(directions, dim=-1)))


def _lanczos(x: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Q and X X^T Q, each [B, N, steps]."""
    columns, drawn = torch.arange(steps), random.Random(0)  # the same in every release of Python
    start = torch.tensor([[2 * drawn.random() - 1] for _ in range(x.shape[1])])
    nothing = x[:, :, :1] * 0

    def step(carry: State, at: Tensor | int) -> tuple[State, Tensor]:
        basis, column = carry
        basis = torch.where(columns == at, column, basis)
        image = x @ (x.transpose(1, 2) @ column)
        column = image
        # Thrice, with a length of 1 each time: where nothing is left of it, it is rounding, and orthogonal to no one.
        for _ in range(3):
            column = _unit(column - basis @ (basis.transpose(1, 2) @ column))
        return (basis, column), image.squeeze(-1)

    (basis, _), images = repeat(step, (nothing.expand(-1, -1, steps), _unit(start + nothing)), steps)
    return basis, images.permute(1, 2, 0)


def first_eigenvector(matrix: Tensor) -> Tensor:
    """Of the largest eigenvalue of each: [B, M, M], symmetric, none below zero -> [B, M, 1] of length 1."""
    for _ in range(SQUARINGS):
        matrix = matrix / _diagonal(matrix).amax(dim=(1, 2), keepdim=True).clamp_min(TINY)
        matrix = matrix @ matrix
    column = _diagonal(matrix).argmax(dim=2, keepdim=True)  # every one is along it, this one the most
    return _unit(matrix @ (torch.arange(matrix.shape[-1]) == column).float().transpose(1, 2))


def _diagonal(matrix: Tensor) -> Tensor:
    """[B, M, M] -> [B, 1, M]"""
    return (matrix * torch.eye(matrix.shape[-1])).sum(dim=1, keepdim=True)


def _unit(column: Tensor) -> Tensor:
    """[B, N, 1] -> the same of length 1, or zero."""
    length: Tensor = torch.linalg.vector_norm(column, dim=1, keepdim=True).clamp_min(TINY)
    return column / length


def _orthonormal(columns: Tensor) -> Tensor:
    """Gram-Schmidt, each column twice, so that one that nothing is left of stays upright: [B, D, r] -> [B, D, r]"""
    done: list[Tensor] = []
    for at in range(columns.shape[-1]):
        column = columns[:, :, at : at + 1]
        for _ in range(2):
            if done:
                basis = torch.cat(done, dim=-1)
                column = column - basis @ (basis.transpose(1, 2) @ column)
            column = _unit(column)
        done.append(column)
    return torch.cat(done, dim=-1)
