"""Reducers: how the sequence shortens inside an encoder, one file each; the file's name is what `--inside` takes.

Each file defines `Reducer`, a frozen dataclass whose fields are its options. It holds the rule twice: `select`, static,
on taps, is what is traced; `official`, on eager attention maps, is the reference. The two share no code. What the rows
at a step are, and what a `Reduction` says of them, is in `edgeprune.schedule`.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from edgeprune.errors import MethodError, RequestError, unknown_name
from edgeprune.pruners import Eager
from edgeprune.schedule import Reduction, Step
from edgeprune.taps import Taps
from edgeprune.traits import OURS

__all__ = ["Eager", "Reducer", "Reduction", "Step", "get", "names"]


class Reducer:
    """What a reducer is derived from."""

    bias: bool = True
    """whether later layers attend to a row in proportion to its size"""
    merges: ClassVar[bool] = True
    """whether rows become one; else they are dropped"""
    by_patch: ClassVar[bool] = False
    """whether each token must be one patch"""
    hidden: ClassVar[int] = 0
    """rows that it leaves behind those that may leave the encoder"""
    depths: ClassVar[tuple[float, ...]] = (0.4, 0.2)
    """where its steps do least harm, as shares of the layers, a single one first; --encoder-cost takes these"""
    few: ClassVar[bool] = True
    """whether as few of them as reach a cost do less harm than all"""
    gentle: ClassVar[float] = 0.6
    """the share of the rows that one step should be rid of at most, where it is chosen"""
    even: ClassVar[bool] = False
    """whether its own schedule takes the same number of rows at each step, instead of the same share"""
    most: ClassVar[float] = 1.0
    """the share of the rows that one step can be rid of"""
    every: ClassVar[int] = 0
    """its paper's own schedule, a step behind every so many layers; 0: it has none, or one that is trained"""
    frozen: ClassVar[bool] = False
    """whether its paper's counts hang on the image; `edgeprune.frozen` takes them of some images once"""
    gated: ClassVar[bool] = False
    """whether its paper trains thresholds of the score; `edgeprune.train.thresholds` freezes what they leave"""
    written_from: ClassVar[str] = OURS
    """one of WRITTEN_FROM; official code with its commit"""
    deviations: ClassVar[tuple[str, ...]] = ()
    """where the static form departs from its source"""

    @property
    def early(self) -> bool:
        """Whether it knows its rows before the queries of the layer in front of a step, and drops the others, so that
        they are taken there."""
        return not self.merges

    @property
    def reads_maps(self) -> bool:
        """Whether it reads whole attention maps, so that every query of the layer in front of a step is needed."""
        return False

    @property
    def needs_cls(self) -> bool:
        """Whether it reads the [CLS] row of the attention."""
        return False

    def prepared(self, has_cls: bool, depth: int) -> Reducer:
        """The reducer with what hangs on the encoder: whether it has [CLS], its layers in front of the features."""
        return self

    def own_steps(self, depth: int, patches: int, keep: int) -> tuple[Step, ...]:
        """The schedule of its paper from all patches down to `keep`, behind all of the `depth` layers but the last.

        Raises RequestError where it has none.
        """
        if not self.every or depth <= self.every:
            raise RequestError(
                f"--schedule official needs a reducer whose paper has a fixed one, and {self.every + 1} layers or "
                f"more; got {type(self).__module__.rpartition('.')[2]} and {depth}; give layers:tokens"
            )
        layers, steps, rows = range(self.every, depth, self.every), [], patches
        for at, layer in enumerate(layers, 1):
            share = at / len(layers)
            left = patches + (keep - patches) * share if self.even else patches * (keep / patches) ** share
            if round(left) < rows:
                rows = round(left)
                steps.append(Step(layer, rows))
        return tuple(steps)

    def layers(self, step: Step) -> tuple[int, ...]:
        """Layers whose attention it reads at a step, from 0; all of them in front of it and behind the step before."""
        return (step.layer - 1,)

    def state(self, step: Step, rows: int, width: int) -> Mapping[str, tuple[int, ...]]:
        """What a step keeps for the next frame, name -> shape of one image; 0 in front of the first one.

        rows: in front of the step; width: of a head
        """
        return {}

    def select(self, step: Step, taps: Taps, carried: Mapping[str, Tensor]) -> Reduction:
        """The static form. No shape may depend on the data.

        taps: features are the rows in front of the step, [B, n, C]; `state` what the frame before left it
        carried: what the step before carried of them, name -> [B, n]; empty at the first
        """
        raise MethodError(f"{type(self).__module__} has no static form")

    def official(
        self, step: Step, eager: Eager, carried: Mapping[str, Tensor], rows: Tensor | None = None
    ) -> Reduction:
        """The form of the source. It shares neither code nor an approximation with `select`.

        rows: [B, K] int64, those that a device chose; None: its own choice
        """
        raise MethodError(f"{type(self).__module__} has no official form")

    def rule(self, step: Step) -> dict[str, Any]:
        """How parity judges the decisions of a step: the name of a rule, and its parameters."""
        return {"name": "topk"}

    def multiply_adds(self, step: Step, rows: int, width: int, heads: int) -> int:
        """Of one step itself, for one image: rows in front of it, hidden ones among them; width and heads of the
        tower."""
        return 0

    def options(self) -> dict[str, Any]:
        """Its own, by name, as the manifest has them."""
        return {spec.name: getattr(self, spec.name) for spec in dataclasses.fields(self)}  # type: ignore[arg-type]


def names() -> list[str]:
    modules = pkgutil.iter_modules(__path__)
    return sorted(one.name for one in modules if not one.name.startswith("_"))


def get(name: str) -> type[Reducer]:
    """The reducer's class, to be called with its options. Raises MethodError when there is no such reducer."""
    if name not in names():
        raise MethodError(unknown_name("reducer", name, names()))
    reducer: type[Reducer] = importlib.import_module(f"{__name__}.{name}").Reducer
    return reducer
