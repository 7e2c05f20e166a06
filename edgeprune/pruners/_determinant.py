"""Greedy by a determinant: pick the patch of which most is left outside the span of the chosen ones, by their kernel.

    det(L[S + j]) / det(L[S]) = L[j, j] - L[j, S] L[S, S]^-1 L[S, j]        L = own I + kernel, [N, N]; S: the chosen

Scores are without `own`, what no other patch can take of one: near the end it would be nearly all. `by_cholesky` is the
static form, `by_elimination` the official one. They share nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgeprune.pruners import Selection, greedily
from edgeprune.pruners._greedy import Pick, State, greedy

__all__ = ["SMALLEST", "by_cholesky", "by_elimination"]

SMALLEST = 1e-6
"""what a pick must have left to be a direction; what the chosen ones span already has nothing, up to rounding"""


def by_cholesky(kernel: Tensor, diagonal: Tensor, keep: int, own: float = 0.0) -> Selection:
    """kernel: [B, N, N] float32; diagonal: its own, [B, N]"""

    def leave_out(state: State, pick: Pick) -> State:
        """Take the pick's direction out of what is left of every patch: one step of an incremental Cholesky.

        state: what is left [B, N]; and the rows of the factor so far [B, K, N], those of later steps 0
        """
        left, factor = state
        itself = pick.gain + own
        along = (factor * pick.here.unsqueeze(1)).sum(dim=-1, keepdim=True)  # the pick's column, [B, K, 1]
        row = (pick.row - (factor * along).sum(dim=1)) / itself.clamp_min(SMALLEST).sqrt()
        row = torch.where(itself > SMALLEST, row, 0.0)  # a direction of rounding; taken out of others, it would grow
        now = torch.arange(factor.shape[1]).unsqueeze(-1) == pick.step
        return left - row * row, torch.where(now, row.unsqueeze(1), factor)

    factor = torch.zeros_like(kernel[:, :keep])
    return greedy(kernel, diagonal, (diagonal, factor), lambda state: state[0], leave_out, keep)


def by_elimination(kernel: Tensor, keep: int, own: float = 0.0) -> Selection:
    """The same by what Gaussian elimination leaves of the whole kernel: [B, N, N]"""
    rest = kernel  # becomes the Schur complement of the chosen ones

    def gain(chosen: Tensor) -> Tensor:
        nonlocal rest
        if chosen.shape[1]:
            row = torch.take_along_dim(rest, chosen[:, -1:, None], dim=1)
            itself = torch.take_along_dim(row, chosen[:, -1:, None], dim=2) + own
            rest = torch.where(itself > SMALLEST, rest - row.mT * row / itself, rest)
        return rest.diagonal(dim1=1, dim2=2)

    return greedily(gain, kernel.shape[0], keep)
