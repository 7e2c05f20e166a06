"""How the sequence shortens inside an encoder: steps as data, and what is decided at one.

    Step(8, 288)      behind 8 layers 288 rows go on, each a patch or what was merged into one

The method says which K tokens leave; a reducer (`edgeprune.pruners.inside`) says which rows go on at each step, and
where the others went. Everything is static but the choice itself. `edgeprune.shortening` carries a reduction out in the
trace, `edgeprune.reference` by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

__all__ = ["NEXT", "STATE", "Inside", "Reduces", "Reduction", "Step"]

STATE, NEXT = "state.", "next."
"""how the names begin of what a step is given of the frame before, `state.<layer>.<name>`, and of what it hands out for
the next one, `next.<layer>.<name>`; of the first frame all of it is 0"""


@dataclass(frozen=True)
class Step:
    layer: int
    """how many layers stand in front of it"""
    keep: int
    """rows that go on behind it and may leave the encoder, special tokens and hidden rows not counted"""


@dataclass(frozen=True)
class Reduction:
    """What becomes of the n + h rows in front of a step: n of patches, and behind them h that are attended to only.

    rows: [B, K] int64, ascending: those that go on, each under its own place of the grid
    scores: [B, n] float32, what the rows were ranked by: of those that became one, the one of the highest score went on
    into: [B, n + h] int64, the row behind the step that each one is part of, K and above for hidden ones, -1 for none;
        None: all but `rows` are gone
    weights: [B, K + hidden, n + h] float, what each row is a sum of; None: of `into`, the mean by size
    size: [B, K + hidden] float32, how many patches each row stands for; None: of `into`, the sum of its own
    hidden: rows behind the K that later layers attend to, and that neither are ranked nor leave the encoder
    carried: name -> [B, n], what the reducer wants to know at its next step of the rows that go on
    state: name -> [B, ...] float32, what it wants to know at this step of the next frame (`Reducer.state`)
    quantities: what parity replays the decisions by, by name, [B, ...] float32; only `official` gives it
    """

    rows: Tensor
    scores: Tensor
    into: Tensor | None = None
    weights: Tensor | None = None
    size: Tensor | None = None
    hidden: int = 0
    carried: Mapping[str, Tensor] = field(default_factory=dict)
    state: Mapping[str, Tensor] = field(default_factory=dict)
    quantities: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """n + h, the rows in front of the step; without `into` none of them is hidden."""
        return self.scores.shape[1] if self.into is None else self.into.shape[1]


class Reduces(Protocol):
    """What the executors ask of a reducer; `edgeprune.pruners.inside.Reducer` says it in full."""

    @property
    def bias(self) -> bool:
        """Whether later layers attend to a row in proportion to its size."""
        ...

    @property
    def merges(self) -> bool:
        """Whether rows become one; else they are dropped."""
        ...

    @property
    def early(self) -> bool:
        """Whether it knows its rows before the queries of the layer in front of a step, and drops the others, so that
        they are taken there."""
        ...

    @property
    def reads_maps(self) -> bool:
        """Whether it reads whole attention maps, so that every query is needed."""
        ...

    @property
    def frozen(self) -> bool:
        """Whether its paper's counts hang on the image, and are taken of some images once."""
        ...

    @property
    def hidden(self) -> int:
        """Rows that it leaves behind those that may leave the encoder."""
        ...

    @property
    def written_from(self) -> str: ...

    @property
    def deviations(self) -> tuple[str, ...]: ...

    def options(self) -> dict[str, Any]: ...

    def layers(self, step: Step) -> tuple[int, ...]: ...

    def state(self, step: Step, rows: int, width: int) -> Mapping[str, tuple[int, ...]]: ...

    def select(self, step: Step, taps: Any, carried: Mapping[str, Tensor]) -> Reduction: ...

    def official(
        self, step: Step, eager: Any, carried: Mapping[str, Tensor], rows: Tensor | None = None
    ) -> Reduction: ...

    def rule(self, step: Step) -> dict[str, Any]: ...

    def multiply_adds(self, step: Step, rows: int, width: int, heads: int) -> int: ...


@dataclass(frozen=True)
class Inside:
    """A reducer and where it works."""

    name: str
    reducer: Reduces
    steps: tuple[Step, ...]
    origin: bool = False
    """whether the graph hands out where each patch went"""

    @property
    def layers(self) -> set[int]:
        """Whose attention it reads, from 0."""
        return {layer for step in self.steps for layer in self.reducer.layers(step)}

    def state(self, patches: int, width: int) -> dict[str, tuple[int, ...]]:
        """What its steps keep from frame to frame: `<layer>.<name>` -> shape of one image.

        patches: in front of the first step; width: of a head
        """
        shapes, rows = dict[str, tuple[int, ...]](), patches
        for step in self.steps:
            kept = self.reducer.state(step, rows, width)
            shapes |= {f"{step.layer}.{name}": shape for name, shape in kept.items()}
            rows = step.keep
        return shapes

    @property
    def rows(self) -> int:
        """Rows behind the last step."""
        return self.steps[-1].keep
