"""Where the reference itself is in doubt, as the bundle keeps it beside the outputs. numpy only.

The fields are those of `edgeprune.pruners.Doubt`, which says what they mean; each is stored as `<probe>/<field>`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["DOUBTS", "NOTHING", "Doubt", "Verdict", "doubt_of"]


class Verdict(NamedTuple):
    """What is made of the scores of one image."""

    error: float
    """max |score - reference score| over what can be compared"""
    relative: float
    """the same over the largest reference score"""
    explained: int
    """how many of the indices in just one of the two sets the error explains"""


@dataclass(frozen=True)
class Doubt:
    order: NDArray[np.int32] | None = None
    """[B, K]"""
    margins: NDArray[np.float32] | None = None
    """[B, K]"""
    tie: NDArray[np.float32] | None = None
    """[B]"""
    slack: NDArray[np.float32] | None = None
    """[B, N]"""
    blend: NDArray[np.float32] | None = None
    """[B, K]"""
    scale: NDArray[np.float32] | None = None
    """[B]"""
    sway: NDArray[np.float32] | None = None
    """[B]"""

    def image(self, at: int) -> Doubt:
        """That of one image, without the leading dimension."""
        return Doubt(**{name: value[at] for name, value in self.tensors().items()})

    def tensors(self) -> dict[str, NDArray[Any]]:
        return {name: value for name, value in vars(self).items() if value is not None}

    def defect(self, indices: NDArray[Any], scores: NDArray[Any]) -> str | None:
        """What is wrong with it beside the reference's indices [B, K] and scores [B, N]; None when nothing is."""
        (batch, keep), patches = indices.shape, scores.shape[1]
        kept = (batch, keep)
        shapes: dict[str, tuple[int, ...]] = {"order": kept, "margins": kept, "blend": kept, "slack": (batch, patches)}
        shapes |= dict.fromkeys(("tie", "scale", "sway"), (batch,))
        for name, value in self.tensors().items():
            if value.shape != shapes[name]:
                return f"{name} must be {list(shapes[name])}, got {list(value.shape)}"
            if name != "order" and not (value >= 0).all():
                return f"{name} must not be below 0"
        if (self.order is None) != (self.margins is None) or (self.tie is None) != (self.slack is None):
            return "order and margins, tie and slack belong together; one of them is missing"
        if self.order is not None and not np.array_equal(np.sort(self.order, axis=1), indices):
            return "order must hold the kept patches"
        return None


NOTHING = Doubt()


DOUBTS = frozenset(field.name for field in fields(Doubt))


def doubt_of(names: Iterable[str], read: Callable[[str], NDArray[Any]]) -> Doubt:
    """Made of the named fields; `read` gives one."""
    return Doubt(**{name: read(name) for name in names})
