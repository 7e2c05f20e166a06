"""One greedy selector with a constant trip count: pick the patch that gains most, tell the others, K times.

    pick  = argmax of the gain over the patches not chosen yet        at first of `first`, then of gain(state)
    state = update(state, the pick's row of the matrix)

The steps are written out (unrolled), or are one `scan` that exports to one ONNX Scan (looped); both give the same.
Chosen patches are masked, so exactly K distinct ones come out, whatever the data. Everything is float32.

`FORM` is what methods get. It is unrolled: the nodes inside a Scan would keep the stack traces of the exporting
machine, which `edgeprune.export.graph` takes off the outer graph only, and an operator with a graph of its own stops
`edgeprune.export.hoist`. Looped has a body of 11 to 26 nodes whatever K is and exports faster; unrolled has 12 to 25
nodes for each kept patch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from edgeprune.selection import lower_take

__all__ = ["FORM", "Form", "Pick", "cosine", "greedy"]

Form: TypeAlias = Literal["unrolled", "looped"]
FORM: Form = "unrolled"

State: TypeAlias = "tuple[Tensor, ...]"


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
    form: Form | None = None,
) -> tuple[Tensor, Tensor]:
    """Choose `keep` patches, one after the other.

    matrix: [B, N, N] float32, whose rows the updates read; first: [B, N] float32, the gains of the first pick
    gain: state -> [B, N] float32, those of the later ones, finite; every state keeps its shape and is contiguous
    -> indices [B, keep] int64, ascending and distinct; scores [B, N] float32, the gain of each pick, -inf elsewhere

    Of equal gains the lowest index is taken. Looped works only inside torch.export, where it becomes one Scan.

    >>> far = torch.tensor([[[0.0, 1.0, 2.0], [1.0, 0.0, 1.0], [2.0, 1.0, 0.0]]])
    >>> least = lambda state, pick: (torch.minimum(state[0], pick.row),)
    >>> greedy(far, far[:, 0], (far[:, 0] + 9,), lambda state: state[0], least, keep=2)
    (tensor([[0, 2]]), tensor([[2., -inf, 2.]]))
    """
    patches = torch.arange(first.shape[-1])

    def pick(gains: Tensor, scores: Tensor, state: State, step: Tensor) -> tuple[State, Tensor]:
        free = torch.where(scores > -torch.inf, -torch.inf, gains)
        best = free.argmax(dim=-1, keepdim=True)
        here = patches == best
        chosen = Pick(lower_take(matrix, best, 1).squeeze(1), free.amax(dim=-1, keepdim=True), here, step)
        return (torch.where(here, gains, scores), *update(state, chosen)), best.squeeze(-1)

    def again(carry: State, step: Tensor) -> tuple[State, Tensor]:
        scores, *rest = carry
        return pick(gain(tuple(rest)), scores, tuple(rest), step)

    carry, best = pick(first, first * 0 - torch.inf, state, torch.tensor(0))
    picks = [best.unsqueeze(0)]
    if (form or FORM) == "looped" and keep > 1:
        carry, later = _scan(again, carry, torch.arange(1, keep))
        picks.append(later)
    else:
        for step in range(1, keep):
            carry, best = again(carry, torch.tensor(step))
            picks.append(best.unsqueeze(0))
    return torch.cat(picks).transpose(0, 1).sort(dim=-1).values, carry[0]


def _scan(step: Callable[[State, Tensor], tuple[State, Tensor]], carry: State, steps: Tensor) -> tuple[State, Tensor]:
    from torch._higher_order_ops.scan import scan

    found: tuple[State, Tensor] = scan(step, carry, steps)
    return found


def cosine(x: Tensor) -> Tensor:
    """The cosine of every two rows, in float32: [B, N, D] -> [B, N, N]; that of a row with itself is 1, exactly."""
    rows = torch.nn.functional.normalize(x.float(), dim=-1)
    itself = torch.eye(x.shape[1], dtype=torch.bool)
    return torch.where(itself, 1.0, rows @ rows.transpose(-1, -2))
