"""Pruning methods: one file each; the file's name is the method's name on the command line.

Each file defines `Method`, built with the number of tokens to keep; its `traits` say what it needs and spends, which
`edgeprune.catalog` and every table read. It holds the method twice: `select`, static, on
taps, is what is traced; `official`, on eager attention maps, is what the official code computes, and is the reference
that parity is checked against and the export `official` that `bench` compares with. The two share no code.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from edgeprune.errors import MethodError, unknown_name
from edgeprune.ports import Port
from edgeprune.taps import Taps
from edgeprune.traits import OURS, Traits, source_said

__all__ = [
    "Eager",
    "Host",
    "Method",
    "Selection",
    "Traits",
    "depth_of",
    "deviations",
    "get",
    "greedily",
    "greedily_behind",
    "names",
    "one_pool",
    "rows_of",
]


@dataclass(frozen=True)
class Selection:
    """What a method decides.

    indices: [B, K] int64, distinct and ascending
    scores: [B, N] float32, what it ranked by, higher is kept
    merge: [K, N] or [B, K, N], for methods whose tokens are weighted sums of features instead of K of them
    merged: [B, K, D], for methods that merge projected features: their tokens themselves
    picks: [B, K] int64, the same patches in the order in which they were chosen, most wanted first
    origin: [B, N] int64, for methods that merge: the place in `indices` of the token that each patch went to, -1: none
    order: [B, L] int64, what else the device must say so that its decisions can be judged one by one: of a method that
        thins out, every order that decided what was compared next; of one that merges in rounds, L = N, the patch that
        each one joined; of one that makes groups, the group of each; of one that makes trees, L = 2 N, the root of each
        one's, and how many others it is like
    worth: [B, L] float32, what the patches of `order` were sorted by, or what made them what they are
    quantities: what parity replays the decisions by, by name, [B, ...] float32; only `official` gives it, and it is
        stored, not exported
    """

    indices: Tensor
    scores: Tensor
    merge: Tensor | None = None
    merged: Tensor | None = None
    picks: Tensor | None = None
    origin: Tensor | None = None
    order: Tensor | None = None
    worth: Tensor | None = None
    quantities: Mapping[str, Tensor] = field(default_factory=dict)

    def emitted(self, names: Sequence[str]) -> list[Tensor]:
        """Those of picks, origin, order and worth that are named, as the graph hands them out: int32, or float32."""
        given: list[Tensor] = [getattr(self, name) for name in names]
        return [one if one.is_floating_point() else one.to(torch.int32) for one in given]


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
    values: Sequence[Tensor] = ()
    """[B, H, prefix + n, d] per layer; at a step inside the encoder, and behind one, n rows stand for the N tokens, and
    rows that are attended to only have neither columns, keys nor values"""
    names: Tensor = field(default_factory=lambda: torch.empty(0))
    """[B, n] int64, the places of the grid that these rows go under"""
    size: Tensor = field(default_factory=lambda: torch.empty(0))
    """[B, n] float32, how many patches each of them stands for"""
    hidden: int = 0
    """rows behind them that are attended to only"""
    state: Mapping[str, Tensor] = field(default_factory=dict)
    """name -> [B, ...] float32, what a step inside the encoder kept of the frame before"""
    areas: Tensor | None = None
    """[N, P] float32, the share that each of the tower's P patches has in each token; None where they are the same"""
    given: Mapping[str, Tensor] = field(default_factory=dict)
    """what the graph takes beside the pixels, by name, [B, ...] float32 (`Method.ports`)"""
    aligned: Tensor = field(default_factory=lambda: torch.empty(0))
    """[B, N, P], the features in CLIP's joint space of images and texts, for a method that compares them with a text"""
    aligned_branch: Tensor = field(default_factory=lambda: torch.empty(0))
    """[B, N, P], the same of what the attention of the layer that produces the features added to them"""
    language_keys: Tensor = field(default_factory=lambda: torch.empty(0))
    """[B, N, G, d], the keys of projected features in the first layer of the language model, in front of rotary
    positions, for a method that reads them"""


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
    features: int = 0
    """width of the features in front of the projector"""
    tokens: int = 0
    """and behind it"""


class Method:
    """What a method is derived from: a frozen dataclass with the field `keep`; its fields with a default are its
    options, those without one are what it is fitted with."""

    keep: int
    written_from: ClassVar[str] = OURS
    """one of WRITTEN_FROM; official code with its commit"""
    traits: ClassVar[Traits] = Traits()
    scorer: Any = None
    """the trained module of a method that has one"""

    learns: ClassVar[str] = ""
    """of one that `edgeprune train` trains, from what: one of `edgeprune.train.learn.TASKS`"""

    @classmethod
    def untrained(cls, features: int, tokens: int) -> Any:
        """Its trained module with weights by chance, of features and tokens so wide."""
        raise MethodError(f"{cls.__module__.rpartition('.')[2]} is not trained by `edgeprune train`")

    @classmethod
    def read(cls, path: Path) -> Any:
        """Its trained module from a file, or from the folder that a training wrote. Raises ModelError when it is
        none."""
        raise MethodError(f"{cls.__module__.rpartition('.')[2]} has no trained weights")

    @classmethod
    def fitted(cls, keep: int, scorer: Any, host: Host, **options: Any) -> Method:
        """A method with trained weights and its options, for an encoder. Raises MethodError when they are for another
        one."""
        raise MethodError(f"{cls.__module__.rpartition('.')[2]} has no trained weights")

    def prepared(self, projector: nn.Module) -> Method:
        """The method with what it computes of the projector's weights once, and not in every run."""
        return self

    def steps(self, depth: int) -> tuple[int, ...]:
        """Behind how many of the encoder's layers tokens are dropped *inside* it; none: all behind the last."""
        return ()

    def layers(self, depth: int) -> tuple[int, ...]:
        """Layers whose attention it reads, from 0, of the `depth` layers in front of the features.

        Raises MethodError when an option names one that is not there.
        """
        return ()

    def select(self, taps: Taps) -> Selection:
        """The static form. No shape may depend on the data."""
        raise MethodError(f"{type(self).__module__} has no static form")

    def official(self, eager: Eager) -> Selection:
        """The official code's form. It shares neither code nor an approximation with `select`."""
        raise MethodError(f"{type(self).__module__} has no official form")

    @property
    def by_cls(self) -> bool:
        """Of one that ranks by attention: whether it does by the [CLS] row, or by column means."""
        return self.traits.needs_cls

    @property
    def ports(self) -> tuple[Port, ...]:
        """What it is given beside the image."""
        return ()

    @property
    def space(self) -> str:
        """Of the text that it is given, one of `edgeprune.ports.SPACES`; empty where there is none."""
        return next((port.space for port in self.ports if port.space), "")

    @classmethod
    def pooling(cls, options: Mapping[str, Any]) -> bool:
        """Whether the tiles of one image are one pool of candidates, with these options."""
        return cls.traits.pools_tiles

    @property
    def pools(self) -> bool:
        """The same, with the options that it has."""
        return self.pooling(self.options())

    @property
    def nests(self) -> bool:
        """Whether a smaller budget keeps the first of `picks`, with the options that it has."""
        return self.traits.nested

    def rule(self, patches: int) -> dict[str, Any]:
        """How parity judges its decisions: the name of a rule in `edgeprune.runtime.parity`, and its parameters."""
        return {"name": "topk"}

    def options(self) -> dict[str, Any]:
        """Its own options by name, as the manifest has them."""
        return {spec.name: getattr(self, spec.name) for spec in dataclasses.fields(self) if spec.name != "keep"}  # type: ignore[arg-type]

    @property
    def departs(self) -> tuple[str, ...]:
        """Where it departs from its source as it is built, beside `traits.deviations`."""
        return ()

    def warnings(self, depth: int) -> tuple[str, ...]:
        """What the user should know of its options on an encoder of so many layers, each in one line."""
        return ()

    def multiply_adds(self, patches: int) -> int:
        """Of its own weights, for one image of N patches."""
        return 0

    def ranking(self, rows: int, width: int) -> int:
        """Multiply-adds of its score alone, where a reducer ranks so many rows by it (`Traits.ranks`)."""
        return 0


class Placed(Protocol):
    """What the place of a method hangs on, of an encoder."""

    @property
    def layer(self) -> int:
        """Layers in front of the features."""
        ...

    @property
    def headed(self) -> bool:
        """Whether a head reads the last of them, so that every method has to drop inside."""
        ...

    @property
    def inside(self) -> object | None:
        """The steps that shorten the sequence on the way; the method chooses behind them then."""
        ...

    @property
    def pools(self) -> bool:
        """Whether the images of a run are tiles that may be one pool of candidates."""
        ...

    @property
    def framed(self) -> bool:
        """Whether they are frames of one video."""
        ...


def depth_of(method: Method, encoder: Placed) -> int | None:
    """How many layers of the encoder see every token in front of where the method drops some; None: it chooses behind
    all of them."""
    if encoder.inside is not None:
        return None
    steps = method.steps(encoder.layer)
    return steps[0] if steps else 0 if encoder.headed else None


def one_pool(method: type[Method], options: Mapping[str, Any], encoder: Placed) -> bool:
    """Whether the images of a run, which are tiles or frames, are one pool of candidates for a method with these
    options."""
    return method.pooling(options) and (encoder.pools or (encoder.framed and method.traits.pools_frames))


def deviations(method: Method, tiled: bool) -> tuple[str, ...]:
    """What a method was written from, and where it departs from that as it is built, as the manifest has it.

    tiled: whether the images of a run are tiles of one
    """
    name = type(method).__module__.rpartition(".")[2]
    said = () if method.traits.keeps_all else (source_said(name, method.written_from),)
    return (*said, *method.traits.deviations, *(method.traits.on_tiles if tiled else ()), *method.departs)


_BEHIND: ContextVar[Tensor | None] = ContextVar("behind", default=None)


@contextmanager
def greedily_behind(behind: Tensor) -> Iterator[None]:
    """For a block, the patches that `greedily` takes where no other one is left. behind: [B, N] bool"""
    token = _BEHIND.set(behind)
    try:
        yield
    finally:
        _BEHIND.reset(token)


def greedily(gain: Callable[[Tensor], Tensor], batch: int, keep: int) -> Selection:
    """The plain greedy loop of the official forms.

    gain: [B, t] int64, the picks so far in their order -> [B, N], what each patch would add; asked once per t
    """
    order, gained = torch.empty(batch, 0, dtype=torch.int64), []
    behind = _BEHIND.get()
    for step in range(keep):
        gains = gain(order)
        if step:
            gains = gains.scatter(1, order, -torch.inf)
        among = gains
        if behind is not None:
            first = gains.masked_fill(behind, -torch.inf)
            among = first.where(first.max(dim=1, keepdim=True).values.isfinite(), gains)
        best, pick = among.max(dim=1, keepdim=True)
        order = torch.cat((order, pick), dim=1)
        gained.append(best)
    scores = torch.full_like(gains, -torch.inf).scatter(1, order, torch.cat(gained, dim=1))
    return Selection(order.sort(dim=1).values, scores, picks=order)


def rows_of(x: Tensor, rows: Tensor) -> Tensor:
    """The rows that an official form takes of each image: [B, N, C], [B, K] int64 -> [B, K, C]"""
    return x.gather(1, rows[:, :, None].expand(-1, -1, x.shape[2]))


def names() -> list[str]:
    modules = pkgutil.iter_modules(__path__)
    return sorted(one.name for one in modules if not one.ispkg and not one.name.startswith("_"))


def get(name: str) -> type[Method]:
    """The method's class, to be called with `keep`. Raises MethodError when there is no such method."""
    if name not in names():
        raise MethodError(unknown_name("method", name, names()))
    method: type[Method] = importlib.import_module(f"{__name__}.{name}").Method
    return method
