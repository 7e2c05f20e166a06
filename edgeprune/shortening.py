"""A sequence that shortens inside an encoder: the layers behind a step run on the rows that go on.

    h = embeddings(pixels)                       special | n patches | h hidden rows | special
    h = layers[:step.layer](h)
    reduction = choose(step, rows of h)
    h = special | take(rows) or W rows | special
    h = layers[step.layer:](h)                   and what is added between them, for the same rows
                                                 attention logits + log(size), where rows stand for several patches

A row is a patch, or the `unit` patches side by side that are merged to one token behind the tower. Rotary positions are
those of the patches that rows go under; rows that are attended to only are not turned.
Nothing of the model is replaced or rewritten: hooks on its modules, while the block runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from edgeprune.encoders import Tower
from edgeprune.encoders._attention import Recorded
from edgeprune.pruners._select import lower_take, place_in, take
from edgeprune.schedule import Reduction, Step

__all__ = ["Choose", "Rows", "dropping", "shortening", "trail_of"]

Choose = Callable[[Step, Tensor, "Rows"], Reduction]
"""(step, [B, n, C] the rows of patches there, what became of them so far) -> what becomes of them now"""
UNSEEN = -1000.0
"""added to the logits of a hidden row that stands for no patch"""


@dataclass
class Rows:
    """What became of the patches of one run, so far."""

    tower: Tower
    bias: bool = False
    unit: int = 1
    """patches of a row, one after the other in the tower's order"""
    taken: list[tuple[Step, Reduction]] = field(default_factory=list)
    names: Tensor | None = None
    """[B, n] int64, ascending: the patch that each row goes under; None: every one is there"""
    size: Tensor | None = None
    """[B, n + hidden] float32; None: of one patch each"""
    origin: Tensor | None = None
    """[B, N] int64: the row that each patch is part of, -1 for none"""
    hidden: int = 0
    carried: Mapping[str, Tensor] = field(default_factory=dict)

    def patches(self, hidden: Tensor) -> Tensor:
        """[B, S, C] -> [B, n * unit, C], without special tokens and hidden rows."""
        return hidden[:, self.tower.prefix : hidden.shape[1] - self.tower.suffix - self.hidden * self.unit]

    def rows(self, hidden: Tensor) -> Tensor:
        """[B, S, C] -> [B, n, unit * C], the same, row by row."""
        return _side_by_side(self.patches(hidden), self.unit)

    def turned(self, table: Tensor, still: float) -> Tensor:
        """A table of rotary positions [P, d] for the rows that there are: [n * unit, d], or [B, 1, n * unit, d].

        still: of a row that is not turned
        """
        assert self.names is not None
        patches = _patches_of(self.names, self.unit)
        some = lower_take(table, patches, 0)
        if self.hidden:
            rest = table.new_full((1, self.hidden * self.unit, table.shape[1]), still)
            some = torch.cat((some, rest.expand(some.shape[0], -1, -1)), dim=1)
        return some[0] if isinstance(some.shape[0], int) and some.shape[0] == 1 else some.unsqueeze(1)

    def shortened(self, hidden: Tensor, step: Step, reduction: Reduction) -> Tensor:
        """[B, S, C] behind the step, which is remembered."""
        shorter = reduced(self.tower, hidden, reduction, self.size, self.unit)
        into = trail_of(reduction)
        self.size = _size(reduction, self.size)
        earlier = self.names
        self.names = reduction.rows if earlier is None else earlier.gather(1, reduction.rows)
        self.origin = into if self.origin is None else _followed(self.origin, into)
        self.carried = {name: value.gather(1, reduction.rows) for name, value in reduction.carried.items()}
        self.hidden = reduction.hidden
        self.taken.append((step, reduction))
        return shorter

    def mask(self, like: Tensor) -> Tensor | None:
        """[B, 1, 1, S], what is added to attention's logits: log(size) of each row, 0 of special tokens."""
        if self.size is None or not self.bias:
            return None
        ends = (self.size.new_zeros(self.size.shape[0], count) for count in (self.tower.prefix, self.tower.suffix))
        front, back = ends
        logs = self.size.log()
        if self.hidden:  # one may stand for nothing: no logarithm of it, and exp(UNSEEN) is 0 in every precision
            logs = torch.where(self.size > 0.5, self.size.clamp_min(1).log(), UNSEEN)
        if self.unit > 1:
            logs = logs.repeat_interleave(self.unit, dim=1)
        logs = torch.cat([part for part in (front, logs, back) if part.shape[1]], dim=1)
        return logs.to(like.dtype)[:, None, None]

    def fit(self, hidden: Tensor) -> Tensor:
        """Hidden states of an earlier layer for the rows that there are at the end: [B, S, C] -> [B, S', C]"""
        size: Tensor | None = None
        for _, reduction in self.taken:
            count = (hidden.shape[1] - self.tower.prefix - self.tower.suffix) // self.unit
            if count == reduction.count:
                hidden = reduced(self.tower, hidden, reduction, size, self.unit)
            size = _size(reduction, size)
        return hidden


def reduced(tower: Tower, hidden: Tensor, reduction: Reduction, size: Tensor | None, unit: int = 1) -> Tensor:
    """[B, S, C] -> the same behind a step; size: [B, n + h] of the rows in front of it, None for one patch each."""
    patches = hidden[:, tower.prefix : hidden.shape[1] - tower.suffix]
    if reduction.into is None and reduction.weights is None:
        if reduction.rows.shape[1] * unit == patches.shape[1]:
            return hidden  # ascending, distinct and all of them: nothing to take
        some = take(patches, _patches_of(reduction.rows, unit))  # one by one, so that it moves up through the layer
    else:
        some = _weights(reduction, size).to(patches.dtype) @ _side_by_side(patches, unit)
        some = some.reshape(some.shape[0], some.shape[1] * unit, patches.shape[2]) if unit > 1 else some
    return _between_ends(tower, hidden, some)


def _between_ends(tower: Tower, hidden: Tensor, some: Tensor) -> Tensor:
    """The special tokens of [1 or B, S, C] with [B, R, C] between them."""
    ends = (hidden[:, : tower.prefix], hidden[:, hidden.shape[1] - tower.suffix :])
    front, back = (end.expand(some.shape[0], -1, -1) for end in ends)
    return torch.cat([part for part in (front, some, back) if part.shape[1]], dim=1)


def _side_by_side(patches: Tensor, unit: int) -> Tensor:
    """[B, n * unit, C] -> [B, n, unit * C]"""
    batch, count, width = patches.shape
    return patches if unit == 1 else patches.reshape(batch, count // unit, unit * width)


def _patches_of(rows: Tensor, unit: int) -> Tensor:
    """[B, K] -> [B, K * unit], the patches of each row."""
    return rows if unit == 1 else (rows.unsqueeze(-1) * unit + torch.arange(unit)).flatten(1)


def trail_of(reduction: Reduction) -> Tensor:
    """[B, n + h] int64: the row that each one went to, -1 for none."""
    if reduction.into is not None:
        return reduction.into
    return place_in(reduction.rows, torch.arange(reduction.count))


def _members(reduction: Reduction) -> Tensor:
    """[B, K + hidden, n + h] bool: which rows become one."""
    assert reduction.into is not None
    return reduction.into.unsqueeze(1) == torch.arange(reduction.rows.shape[1] + reduction.hidden).unsqueeze(-1)


def _weights(reduction: Reduction, size: Tensor | None) -> Tensor:
    if reduction.weights is not None:
        return reduction.weights
    weights = _members(reduction).float()
    if size is not None:
        weights = weights * size.unsqueeze(1)
    total = weights.sum(dim=-1, keepdim=True)
    return weights / (total.clamp_min(1) if reduction.hidden else total)  # a hidden row of nothing is 0


def _size(reduction: Reduction, size: Tensor | None) -> Tensor | None:
    """[B, K + hidden] behind the step, of [B, n + h] in front of it; None: of one patch each."""
    if reduction.size is not None:
        return reduction.size
    if reduction.into is None:
        return None if size is None else size.gather(1, reduction.rows)
    members = _members(reduction).float()
    return members.sum(dim=-1) if size is None else (members * size.unsqueeze(1)).sum(dim=-1)


def _followed(origin: Tensor, into: Tensor) -> Tensor:
    """[B, N] rows in front of a step, [B, n + h] where they went -> [B, N] rows behind it."""
    return torch.where(origin < 0, -1, into.gather(1, origin.clamp(min=0)))


@contextlib.contextmanager
def shortening(
    tower: Tower, steps: Sequence[Step], choose: Choose, seen: Recorded, bias: bool = False, unit: int = 1
) -> Iterator[Rows]:
    """Inside the block the tower goes on behind each step with what `choose` makes of its rows.

    steps: of rising layers; layer 0 stands in front of the first, in the output of the embeddings
    seen: what is recorded of its attention, which later layers get the sizes by
    bias: whether they attend to a row in proportion to its size
    unit: patches of a row
    """
    rows = Rows(tower, bias, unit)

    def short(step: Step, hidden: Tensor) -> Tensor:
        shorter = rows.shortened(hidden, step, choose(step, rows.rows(hidden), rows))
        seen.bias = rows.mask(shorter)
        return shorter

    with contextlib.ExitStack() as stack:
        for step in steps:
            if step.layer:

                def entering(module: Any, given: tuple[Any, ...], step: Step = step) -> tuple[Any, ...]:
                    return (short(step, given[0]), *given[1:])

                stack.enter_context(_hooked(tower.blocks[step.layer].register_forward_pre_hook(entering)))
            else:

                def embedded(module: Any, given: Any, hidden: Tensor, step: Step = step) -> Tensor:
                    return short(step, hidden)

                assert tower.embeddings is not None
                stack.enter_context(_hooked(tower.embeddings.register_forward_hook(embedded)))
        for block in tower.blocks[steps[0].layer :] if steps and tower.rotary else ():
            stack.enter_context(_hooked(block.register_forward_pre_hook(_turning(rows), with_kwargs=True)))
        if steps and tower.between is not None:

            def between(module: Any, given: Any, tables: Tensor) -> _Between:
                return _Between(tower, tables, rows)

            stack.enter_context(_hooked(tower.between.register_forward_hook(between)))
        yield rows


def _turning(rows: Rows) -> Callable[..., tuple[Any, Any]]:
    """Gives a block the rotary positions of the rows that there are."""

    def turning(module: Any, given: Any, named: dict[str, Any]) -> tuple[Any, Any]:
        cos, sin = named["position_embeddings"]
        return given, {**named, "position_embeddings": (rows.turned(cos, 1), rows.turned(sin, 0))}

    return turning


@contextlib.contextmanager
def dropping(tower: Tower, depth: int, choose: Callable[[Tensor], Tensor]) -> Iterator[Rows]:
    """Inside the block the tower goes on behind `depth` layers with some of its patches.

    choose: [B, N, C], the patches at that place -> [B, K] int64, ascending; called once per run
    """

    def reduction(step: Step, patches: Tensor, rows: Rows) -> Reduction:
        return Reduction(choose(patches), patches[..., 0].float())

    with shortening(tower, (Step(depth, 0),), reduction, Recorded({}, {})) as rows:
        yield rows


@dataclass(frozen=True)
class _Between:
    """What is added between layers, [L - 1, 1, S, C], by layer: for the rows that are there.

    Asked for one by one, because the model reads them before its first layer, when no rows are chosen.
    """

    tower: Tower
    tables: Tensor
    rows: Rows

    def __getitem__(self, layer: int) -> Tensor:
        """[B, S', C], behind a layer: what stands in front of a step there is still whole."""
        table, tower = self.tables[layer], self.tower
        for step, reduction in self.rows.taken:
            if step.layer > layer:
                break
            patches = table[:, tower.prefix : table.shape[1] - tower.suffix]
            if reduction.rows.shape[1] == patches.shape[1]:
                continue
            shared = table.shape[0] == 1
            some = take(patches[0], reduction.rows, 0) if shared else take(patches, reduction.rows)
            table = _between_ends(tower, table, some)
        return table


@contextlib.contextmanager
def _hooked(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()
