"""Pruning methods: one file each; the file's name is the method's name on the command line.

Each file defines `Method`, built with the number of tokens to keep. It holds the method twice: `select`, static, on
taps, is what is traced; `official`, on eager attention maps, is what the official code computes, and is the reference
that parity is checked against and the naive export the ledger compares with. The two share no code.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from edgeprune.errors import MethodError, unknown_name
from edgeprune.taps import Taps

__all__ = [
    "Doubt",
    "Eager",
    "Host",
    "Method",
    "Selection",
    "Traits",
    "depth_of",
    "deviations",
    "get",
    "greedily",
    "names",
    "options",
    "rows_of",
    "wavering",
]


@dataclass(frozen=True)
class Doubt:
    """Where a rounding may change what a method decides; only `official` says so, and parity reads it.

    A greedy method, whose scores are -inf where nothing was picked:
        order: [B, K] int64, the indices as they were picked
        margins: [B, K] float32, how much more each pick gained than the best other candidate; inf without one
    A method of stages, whose scores are 2 t + s: the stages put a patch into tier t, s in 0..1 is what it is ranked by:
        tie: [B] float32, how near the stages were to another outcome, over the largest of what they compared
        slack: [B, N] float32, how far s of each patch is from turning its own decision, the stages being as they are
    A method that merges:
        blend: [B, K] float32, how near each token was to being made of other features, in cosine; inf: never
    A method that stretches what it measured:
        scale: [B] float32, the largest measured value in units of the scores, instead of the largest score
    A method that drops tokens inside the encoder, so that every output hangs on all that are kept (the reference itself
    finds it out, no method says it):
        sway: [B] float32, how much an output row changes at most, relative to its length, when the kept patch of the
        lowest score gives its place to the next one
    """

    order: Tensor | None = None
    margins: Tensor | None = None
    tie: Tensor | None = None
    slack: Tensor | None = None
    blend: Tensor | None = None
    scale: Tensor | None = None
    sway: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Those that are there, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Selection:
    """What a method decides.

    indices: [B, K] int64, distinct and ascending
    scores: [B, N] float32, what it ranked by, higher is kept
    merge: [K, N] or [B, K, N], for methods whose tokens are weighted sums of features instead of K of them
    merged: [B, K, D], for methods that merge projected features: their tokens themselves
    """

    indices: Tensor
    scores: Tensor
    merge: Tensor | None = None
    merged: Tensor | None = None
    doubt: Doubt = Doubt()


@dataclass(frozen=True)
class Eager:
    """What the official codes read: everything, as `output_attentions=True` gives it.

    attentions: [B, H, S, S] per layer, up to the layer that produces the features. Where a token is made of several
        patches, its column is the mean of theirs: [B, H, S, prefix + N]
    features: [B, N, C], without special tokens; projected: [B, N, D]
    keys: [B, H, prefix + N, d] of the layer that produces the features, likewise
    """

    attentions: Sequence[Tensor]
    features: Tensor
    projected: Tensor
    grid: tuple[int, int]
    prefix: int
    keys: Tensor = field(default_factory=lambda: torch.empty(0))
    projector: nn.Module = field(default_factory=nn.Identity)
    pixels: Tensor = field(default_factory=lambda: torch.empty(0))
    """[B, 3, H, W]; and, for a method that drops tokens inside the encoder, features are the patches there"""


@dataclass(frozen=True)
class Host:
    """What a trained scorer must fit of an encoder, without the encoder."""

    grid: tuple[int, int]
    patch_size: int
    width: int
    layers: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """of the pixels that the encoder takes, in 0..1"""


@dataclass(frozen=True)
class Traits:
    """What a method needs, what it spends, and how it departs from its source."""

    needs_cls: bool = False
    needs_mlp: bool = False
    """whether it reads the weights of a projector of two linear layers and nothing else that has any"""
    query_rows: int | None = 0
    """rows of the last layer's queries that its score needs beside the kept ones, q of the cost formula; None: all"""
    early: bool = True
    """whether it knows its rows before the last layer's queries, so that the selection moves up to them"""
    projects_all: bool = False
    """whether it reads projected features, so that all N are projected"""
    pools_tiles: bool = False
    """whether the tiles of one image are one pool of candidates"""
    needs_scorer: bool = False
    """whether it has trained weights, and is made by `fitted(keep, scorer, host)`"""
    blind: bool = False
    """whether it reads nothing but the grid, so that it can drop tokens in front of everything"""
    deviations: tuple[str, ...] = ()
    """where the static form departs from the official code"""


class Method(Protocol):
    """A frozen dataclass with the field `keep`; further fields are the method's options and have defaults.

    One that computes something of the projector's weights, once and not in every run, also has
    `prepared(projector) -> Method`, which is traced in its place. One that drops tokens inside the encoder has
    `inside`, the number of layers in front of that place; taps and eager features are the patches there. One whose
    options are not its fields has `options()`, and one that departs from its source in one form alone `departs`.
    """

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


def depth_of(method: Method, detects: bool) -> int | None:
    """How many layers of the encoder see every token; None: all, tokens are dropped behind it.

    detects: whether the encoder is a detector, in which every method has to drop inside
    """
    found: int | None = getattr(method, "inside", 0 if detects else None)
    return found


def options(method: Method) -> dict[str, Any]:
    """A method's own options by name, as the manifest has them."""
    if hasattr(method, "options"):
        return dict(method.options())
    return {name: value for name, value in vars(method).items() if name != "keep"}


def deviations(method: Method) -> tuple[str, ...]:
    """Where a method as it is built departs from its source, as the manifest has it."""
    own: tuple[str, ...] = getattr(method, "departs", ())
    return (*method.traits.deviations, *own)


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
    return Selection(order.sort(dim=1).values, scores, doubt=Doubt(order=order, margins=torch.cat(margins, dim=1)))


def rows_of(x: Tensor, rows: Tensor) -> Tensor:
    """The rows that an official form takes of each image: [B, N, C], [B, K] int64 -> [B, K, C]"""
    return x.gather(1, rows[:, :, None].expand(-1, -1, x.shape[2]))


def wavering(similarity: Tensor) -> Tensor:
    """How near each row is to joining or leaving each column, when it joins the one it is most similar to.

    similarity: [..., I, J] -> [..., I, J], what the best has over the others; of the best, over the second; inf where
    there is no second

    >>> wavering(torch.tensor([[0.5, 0.25, -0.5]]))
    tensor([[0.2500, 0.2500, 1.0000]])
    """
    none = torch.full_like(similarity[..., :1], -torch.inf)
    highest = torch.cat((similarity, none), dim=-1).topk(2, dim=-1).values
    best, second = highest[..., :1], highest[..., 1:]
    found: Tensor = best - torch.where(similarity < best, similarity, second)
    return found


def names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def get(name: str) -> type[Method]:
    """The method's class, to be called with `keep`. Raises MethodError when there is no such method."""
    if name not in names():
        raise MethodError(unknown_name("method", name, names()))
    found: type[Method] = importlib.import_module(f"{__name__}.{name}").Method
    return found
