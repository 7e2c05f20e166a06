"""One greedy selector with a constant trip count: pick the patch that gains most, tell the others, K times.

    pick  = argmax of the gain over the patches not chosen yet        at first of `first`, then of gain(state)
    state = update(state, the pick's row of the matrix)

Chosen patches are masked, so exactly K distinct ones come out, whatever the data. Everything is float32.

The steps are a loop of `_loop`: looped, a body of 14 to 30 nodes that exports in 1 to 2 s for K = 64 of 576; unrolled,
13 to 23 nodes for each kept patch in 5 to 12 s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor

from edgeprune.pruners import Selection
from edgeprune.pruners._loop import State, repeat

__all__ = ["Pick", "State", "barring", "cosine", "greedy", "products", "unit"]

_BARRED: ContextVar[Tensor | None] = ContextVar("barred", default=None)
"""[B, N] bool, patches that are picked behind all others"""


@contextmanager
def barring(barred: Tensor) -> Iterator[None]:
    """For a block, the patches that `greedy` picks where no other one is left. barred: [B, N] bool"""
    token = _BARRED.set(barred)
    try:
        yield
    finally:
        _BARRED.reset(token)


class Pick(NamedTuple):
    """What a step tells the others.

    row: [B, N], the pick's row of the matrix; gain: [B, 1], what it was picked at
    here: [B, N] bool, true at the pick; step: [] int64, 0..K-1
    """

    row: Tensor
    gain: Tensor
    here: Tensor
    step: Tensor


def greedy(
    matrix: Tensor,
    first: Tensor,
    state: State,
    gain: Callable[[State], Tensor],
    update: Callable[[State, Pick], State],
    keep: int,
) -> Selection:
    """Choose `keep` patches, one after the other.

    matrix: [B, N, N] float32, whose rows the updates read; first: [B, N] float32, the gains of the first pick
    gain: state -> [B, N] float32, those of the later ones, finite; every state keeps its shape and dtype
    -> indices [B, keep] int64, ascending and distinct; picks, the same in their order; scores [B, N] float32, the gain
        of each pick, -inf elsewhere

    Of equal gains the lowest index is taken. What `gain` and `update` read besides their arguments, a loop captures: no
    two tensors of it may share memory (clone one), and neither may make one with `torch.tensor` (take the number).

    >>> far = torch.tensor([[[0.0, 1.0, 2.0], [1.0, 0.0, 1.0], [2.0, 1.0, 0.0]]])
    >>> least = lambda state, pick: (torch.minimum(state[0], pick.row),)
    >>> chosen = greedy(far, far[:, 0], (far[:, 0] + 9,), lambda state: state[0], least, keep=2)
    >>> chosen.picks, chosen.scores
    (tensor([[2, 0]]), tensor([[2., -inf, 2.]]))
    """
    images, size = first.shape
    patches = torch.arange(size, dtype=torch.float32)
    # One table of the rows of all images, laid out once: a loop captures it, and each step gathers B rows of it. It is
    # cloned because `gain` may read the matrix too, and a scan must not capture a tensor twice; ONNX keeps no clone.
    rows, offsets = matrix.flatten(0, 1).clone(), torch.arange(images) * size
    one_image = isinstance(images, int) and images == 1
    barred = _BARRED.get()

    def pick(gains: Tensor, scores: Tensor, state: State, step: Tensor) -> tuple[State, Tensor]:
        free = torch.where(scores > -torch.inf, -torch.inf, gains)
        if barred is not None:
            others = torch.where(barred, -torch.inf, free)
            free = torch.where(others.amax(dim=-1, keepdim=True) > -torch.inf, others, free)
        gained = free.amax(dim=-1, keepdim=True)
        # The first of the highest, as argmax has it, but by reductions alone: TensorRT-RTX fuses these with all around
        # them, and gives argmax a kernel of its own. In floats, which every release reduces; they count to 2^24.
        place = torch.where(free == gained, patches, size - 1.0).amin(dim=-1, keepdim=True)
        best = place.squeeze(-1).to(torch.int64)
        row = torch.nn.functional.embedding(best if one_image else best + offsets, rows)
        here = patches == place
        chosen = Pick(row, gained, here, step)
        return (torch.where(here, gains, scores), *update(state, chosen)), best

    # The first pick too, though it ranks by something else: K steps, of which a builder that writes out eight at a time
    # leaves fewer over than of K - 1.
    def step(carry: State, at: Tensor | int) -> tuple[State, Tensor]:
        scores, *rest = carry
        if isinstance(at, int):
            return pick(gain(tuple(rest)) if at else first, scores, tuple(rest), torch.tensor(at))
        return pick(torch.where(at == 0, first, gain(tuple(rest))), scores, tuple(rest), at)

    carry, picks = repeat(step, (first * 0 - torch.inf, *state), keep)
    picks = picks.transpose(0, 1)
    return Selection(picks.sort(dim=-1).values, carry[0], picks=picks)


def cosine(x: Tensor) -> Tensor:
    """The cosine of every two rows, in float32: [B, N, D] -> [B, N, N]; that of a row with itself is 1, exactly."""
    x = x.float()
    return torch.where(torch.eye(x.shape[1], dtype=torch.bool), 1.0, products(unit(x)))


def unit(x: Tensor, least: float = 1e-12) -> Tensor:
    """Rows of length 1: [..., n, d] float32 -> the same. least: what a length is taken for at least"""
    rows: Tensor = x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(least)  # F.normalize expands lengths
    return rows


def products(rows: Tensor) -> Tensor:
    """The inner product of every two rows: [B, N, D] -> [B, N, N]

    A quarter of them is left out: what stands below the first half of the rows mirrors what is beside it.
    """
    half = rows.shape[1] // 2
    if not half:
        return rows @ rows.transpose(-1, -2)
    behind = rows[:, half:]
    first, last = rows[:, :half] @ rows.transpose(-1, -2), behind @ behind.transpose(-1, -2)
    return torch.cat((first, torch.cat((first[:, :, half:].transpose(-1, -2), last), dim=-1)), dim=1)
