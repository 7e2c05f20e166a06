"""Pruning methods: one file each; the file's name is the method's name on the command line.

Each file defines `Method`, built with the number of tokens to keep. It holds the method twice: `select`, static, on
taps, is what is traced; `official`, on eager attention maps, is what the official code computes, and is the reference
that parity is checked against and the naive export the ledger compares with. The two share no code.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from edgeprune.errors import MethodError, unknown_name
from edgeprune.taps import Taps

__all__ = ["Eager", "Method", "Selection", "Traits", "get", "names"]


@dataclass(frozen=True)
class Selection:
    """What a method decides.

    indices: [B, K] int64, distinct and ascending
    scores: [B, N] float32, what it ranked by, higher is kept
    merge: [K, N] or [B, K, N], for methods whose tokens are weighted sums of features instead of K of them
    merge_projected: sum projected features, instead of projecting the sums
    """

    indices: Tensor
    scores: Tensor
    merge: Tensor | None = None
    merge_projected: bool = False


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
    query_rows: int | None = 0
    """rows of the last layer's queries that its score needs beside the kept ones, q of the cost formula; None: all"""
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


def names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def get(name: str) -> type[Method]:
    """The method's class, to be called with `keep`. Raises MethodError when there is no such method."""
    if name not in names():
        raise MethodError(unknown_name("method", name, names()))
    found: type[Method] = importlib.import_module(f"{__name__}.{name}").Method
    return found
