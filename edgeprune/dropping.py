"""Tokens dropped inside an encoder: its layers behind that place run on the kept ones alone.

    h = embeddings(pixels)                     [CLS] | N patches | further tokens
    h = layers[:depth](h)
    rows = choose(patches of h)
    h = [CLS] | take(patches, rows) | further tokens
    h = layers[depth:](h)                      and what is added between them, for the same rows

Nothing of the model is replaced or rewritten: hooks on two of its modules, while the block runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edgeprune.encoders import Tower
from edgeprune.pruners._select import take

__all__ = ["dropping", "kept"]


@contextlib.contextmanager
def dropping(tower: Tower, depth: int, choose: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Inside the block the tower goes on behind `depth` layers with the rows that are chosen.

    depth: 0 drops in front of the first layer, in the output of the embeddings
    choose: [B, N, C], the patches at that place -> [B, K] int64, ascending; called once per run
    """
    chosen: list[Tensor] = []

    def dropped(hidden: Tensor) -> Tensor:
        chosen[:] = [choose(_patches(tower, hidden))]
        return kept(tower, hidden, chosen[0], dim=1)

    def embedded(module: Any, given: Any, hidden: Tensor) -> Tensor:
        return dropped(hidden)

    def entering(module: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return (dropped(given[0]), *given[1:])

    def between(module: Any, given: Any, tables: Tensor) -> _Between:
        return _Between(tower, tables, depth, chosen)

    with contextlib.ExitStack() as stack:
        if depth:
            stack.enter_context(_hooked(tower.blocks[depth].register_forward_pre_hook(entering)))
        else:
            assert tower.embeddings is not None
            stack.enter_context(_hooked(tower.embeddings.register_forward_hook(embedded)))
        if tower.between is not None:
            stack.enter_context(_hooked(tower.between.register_forward_hook(between)))
        yield


@dataclass(frozen=True)
class _Between:
    """What is added between layers, [L - 1, 1, S, C], by layer: for the kept rows behind the place of dropping.

    Asked for one by one, because the model reads them before its first layer, when no rows are chosen.
    """

    tower: Tower
    tables: Tensor
    depth: int
    chosen: list[Tensor]

    def __getitem__(self, layer: int) -> Tensor:
        table = self.tables[layer]
        return table if layer < self.depth else kept(self.tower, table, self.chosen[0], dim=0)


def _patches(tower: Tower, hidden: Tensor) -> Tensor:
    return hidden[:, tower.prefix : hidden.shape[1] - tower.suffix]


def kept(tower: Tower, hidden: Tensor, rows: Tensor, dim: int = 1) -> Tensor:
    """[B, S, C] -> [B, S - N + K, C], as it is where it has K patches; dim=0: a table [1, S, C], the same in every
    image"""
    patches = _patches(tower, hidden)
    if rows.shape[1] == patches.shape[1]:
        return hidden  # ascending, distinct and all of them: nothing to take
    some = take(patches if dim else patches[0], rows, dim)
    ends = (hidden[:, : tower.prefix], hidden[:, hidden.shape[1] - tower.suffix :])
    front, back = (end.expand(rows.shape[0], -1, -1) for end in ends)
    return torch.cat([part for part in (front, some, back) if part.shape[1]], dim=1)


@contextlib.contextmanager
def _hooked(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()
