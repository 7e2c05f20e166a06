"""What a quantised graph is judged by: what its choices lost by the reference's numbers, and how far its tokens are.

    lost     of a set of choices: (sum of the best values - sum of the chosen ones) / sum of the best, in absolute value
             a cut       the K highest of the candidates
             a chain     the best at each pick, given the device's own before it
    blind    the same of a choice by chance: where that is within the bound, too, a kept bound proves nothing
    median, each   ||a - b|| / ||b|| of tokens of the same patches

Two executors of one int8 graph differ by more than most margins, so that no single decision can be held against one of
them: what counts is what its choices are worth. Several sets of one image are of several quantities (shares of
attention, cosines), and the one that lost most counts. numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["FLAT", "Worth", "beyond", "median", "of_probe", "together", "worth", "worth_of_cut"]

FLAT = ("flat", "black", "white")
"""probes that prove shapes, not choices: all their patches are alike, and a choice is worth what rounding makes it"""


@dataclass(frozen=True)
class Worth:
    """Of a set of choices of one kind, by the reference's numbers."""

    lost: float
    """sum of the best values - sum of the chosen ones, >= 0"""
    blind: float
    """what a choice by chance loses"""
    size: float
    """sum of the best values, each without its sign"""

    def of(self, part: float) -> float:
        """A part as a share of the best; inf where the best is nothing."""
        return part / self.size if self.size else (math.inf if part else 0.0)


def worth(best: NDArray[np.float64], chosen: NDArray[np.float64], mean: NDArray[np.float64] | float) -> Worth:
    """Of a chain of choices: the best value at each, the chosen one, and the mean of what there was to choose of."""
    return Worth(float((best - chosen).sum()), float((best - mean).sum()), float(np.abs(best).sum()))


def worth_of_cut(values: NDArray[np.float64], chosen: NDArray[np.int64], among: NDArray[np.bool_]) -> Worth:
    """Of a cut: the highest of the candidates should have been chosen.

    values: [N]; among: [N], the candidates, of which all chosen are
    """
    if not len(chosen):
        return Worth(0.0, 0.0, 0.0)
    candidates = values[among]
    best = np.sort(candidates)[len(candidates) - len(chosen) :]
    return worth(best, np.sort(values[chosen]), candidates.mean())


def of_probe(bounds: Mapping[str, Any] | None, name: str) -> Mapping[str, Any] | None:
    """The bounds that hold for a probe: of a flat one those of its tokens alone."""
    return {**bounds, "regret": math.inf} if bounds is not None and name in FLAT else bounds


def together(sets: Iterable[Worth]) -> Worth:
    """Sets of one quantity as one."""
    lost = blind = size = 0.0
    for one in sets:
        lost, blind, size = lost + one.lost, blind + one.blind, size + one.size
    return Worth(lost, blind, size)


def median(errors: NDArray[np.float64]) -> float:
    """0 of none."""
    return float(np.median(errors)) if len(errors) else 0.0


def beyond(bounds: Mapping[str, Any], lost: float, errors: NDArray[np.float64], what: str) -> Iterator[str]:
    """Why one image fails by the bounds of its manifest, each in one line.

    errors: of each token, or of each row of a head; what: how they are called
    """
    if not lost <= bounds["regret"]:
        yield f"the choice is worth {lost:.2%} less than the best one, {bounds['regret']:.2%} are allowed"
    middle, most = median(errors), float(errors.max(initial=0.0))
    if not middle <= bounds["token_median"]:
        yield f"{what} differ by {middle:.2g} of their length in the median, {bounds['token_median']:g} is allowed"
    if not most <= bounds["token_each"]:
        yield f"{what} differ by up to {most:.2g} of their length, {bounds['token_each']:g} is allowed"
