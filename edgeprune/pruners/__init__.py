"""Pruning methods: one file each; the file's name is the method's name on the command line.

Each file defines `Method`, built with the number of tokens to keep. It holds the method twice: `select`, static, on
taps, is what is traced; `official`, on eager attention maps, is what the official code computes, and is the reference
that parity is checked against and the naive export the ledger compares with. The two share no code.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from edgeprune.errors import MethodError, unknown_name
from edgeprune.taps import Taps

__all__ = ["Eager", "Method", "Selection", "Traits", "get", "greedily", "names"]


@dataclass(frozen=True)
class Selection:
    """What a method decides.

    indices: [B, K] int64, distinct and ascending
    scores: [B, N] float32, what it ranked by, higher is kept
    merge: [K, N] or [B, K, N], for methods whose tokens are weighted sums of features instead of K of them
    order: [B, K] int64, the indices as a greedy method picked them; only its `official` says so
    margins: [B, K] float32, how much more each pick gained than the best other candidate of its step; inf without one
    """

    indices: Tensor
    scores: Tensor
    merge: Tensor | None = None
    order: Tensor | None = None
    margins: Tensor | None = None


@dataclass(frozen=True)
class Eager:
    """What the official codes read: everything, as `output_attentions=True` gives it.

    attentions: [B, H, S, S] per layer, up to the layer that produces the features
    features: [B, N, C], without special tokens; projected: [B, N, D]
    """

    attentions: Sequence[Tensor]
    features: Tensor
    projected: Tensor
    grid: tuple[int, int]
    prefix: int


@dataclass(frozen=True)
class Traits:
    """What a method needs, what it spends, and how it departs from its source."""

    needs_cls: bool = False
    query_rows: int = 0
    """rows of the last layer's queries that its score needs beside the kept ones, q of the cost formula"""
    early: bool = True
    """whether it knows its rows before the last layer's queries, so that the selection moves up to them"""
    projects_all: bool = False
    """whether it reads projected features, so that all N are projected"""
    deviations: tuple[str, ...] = ()
    """where the static form departs from the official code"""


class Method(Protocol):
    """A frozen dataclass with the field `keep`; further fields are the method's options and have defaults."""

    traits: ClassVar[Traits]

    @property
    def keep(self) -> int: ...

    def layers(self, depth: int) -> tuple[int, ...]:
        """Layers whose attention it reads, from 0, of the `depth` layers in front of the features.

        Raises MethodError when an option names one that is not there.
        """
        ...

    def select(self, taps: Taps) -> Selection:
        """The static form. No shape may depend on the data."""
        ...

    def official(self, eager: Eager) -> Selection:
        """The official code's form."""
        ...


def greedily(gain: Callable[[Tensor], Tensor], batch: int, keep: int) -> Selection:
    """The plain greedy loop of the official forms, with what parity needs to replay it.

    gain: [B, t] int64, the picks so far in their order -> [B, N], what each patch would add; asked once per t
    """
    order, gained, margins = torch.empty(batch, 0, dtype=torch.int64), [], []
    for step in range(keep):
        gains = gain(order)
        if step:
            gains = gains.scatter(1, order, -torch.inf)
        best, pick = gains.max(dim=1, keepdim=True)
        order = torch.cat((order, pick), dim=1)
        gained.append(best)
        margins.append(best - gains.scatter(1, pick, -torch.inf).amax(dim=1, keepdim=True))
    scores = torch.full_like(gains, -torch.inf).scatter(1, order, torch.cat(gained, dim=1))
    return Selection(order.sort(dim=1).values, scores, order=order, margins=torch.cat(margins, dim=1))


def names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def get(name: str) -> type[Method]:
    """The method's class, to be called with `keep`. Raises MethodError when there is no such method."""
    if name not in names():
        raise MethodError(unknown_name("method", name, names()))
    found: type[Method] = importlib.import_module(f"{__name__}.{name}").Method
    return found
