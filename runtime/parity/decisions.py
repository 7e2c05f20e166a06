"""What a rule makes of the decisions of one image, and the cut of a top-k, which most rules are made of. numpy only.

regret     value of the best alternative - value of what was chosen, both by the reference's numbers, >= 0
tolerance  2 err + eps x the largest quantity at that decision       err: the largest difference found near it
margin     how far the chosen value is from the best alternative

wrong      regret > tolerance          within rounding   0 < regret <= tolerance          equal   regret = 0
decided    equal, and margin > tolerance: a mistake there would be seen
sets       what all choices of one kind together lost (`worth`): a quantised graph is judged by it alone
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.runtime.parity.worth import Worth, worth_of_cut

__all__ = [
    "COSINE_NOISE",
    "NEAR",
    "NOTHING",
    "Case",
    "Chain",
    "Floats",
    "cut",
    "joined",
    "largest",
    "mask",
    "out_of_order",
]

Floats = NDArray[np.float64]

COSINE_NOISE = 16 * float(np.finfo(np.float32).eps)
"""how far two float32 cosines of vectors of 4096 may lie apart: sqrt(4096) / 4 roundings"""
NEAR = 16
"""scores on either side of a cut that its error is taken of, at most: all of them would excuse nearly everything"""


@dataclass(frozen=True)
class Case:
    """One image: what the reference and the device hand out, and what the bundle keeps for the replay."""

    reference: Mapping[str, NDArray[Any]]
    got: Mapping[str, NDArray[Any]]
    """outputs by name, without the leading dimension"""
    quantities: Mapping[str, NDArray[Any]]
    """what the method's rule reads, by name, without the leading dimension; `similarity` is [N, N]"""
    rule: Mapping[str, Any]
    """the rule and its parameters, as the manifest has them"""
    bound: float
    """of a quantity's error, over the largest"""
    eps: float
    unseen: float
    """the largest relative error of a token, at most the bound: taken for that of what does not leave the graph"""

    @property
    def keep(self) -> int:
        return len(self.reference["indices"])

    @property
    def cosine_error(self) -> float:
        """What two cosines of the rows that the tokens are made of may lie apart: these rows are as exact as tokens.

        Measured on greedy methods, K = 16 to 64: .1 to .6 of twice the error of the tokens, in both precisions.
        """
        return max(3 * self.unseen, 2 * self.eps, COSINE_NOISE)

    @property
    def picks(self) -> NDArray[np.int64]:
        return np.asarray(self.got["picks"], np.int64)


@dataclass(frozen=True)
class Chain:
    """The decisions of one image, in their order; arrays of one length."""

    regret: Floats
    tolerance: Floats
    margin: Floats
    error: float = 0.0
    """largest difference of what the device ranked by from what the reference computes for the same decisions"""
    relative: float = 0.0
    """the same over the largest of these quantities; parity fails where it is beyond the bound"""
    defects: Sequence[str] = field(default=())
    """what cannot be a chain of decisions of this rule at all"""
    sets: Sequence[Worth] = field(default=())
    """what the choices are worth, one for each quantity that they are made by"""

    @property
    def lost(self) -> float:
        """The largest share of the best choices that these lack, of all sets."""
        return largest(*(one.of(one.lost) for one in self.sets))

    @property
    def blind(self) -> float:
        """The largest share that a choice by chance lacks."""
        return largest(*(one.of(one.blind) for one in self.sets))

    @property
    def wrong(self) -> int:
        return int((~(self.regret <= self.tolerance)).sum())

    @property
    def within(self) -> int:
        return int(((self.regret > 0) & (self.regret <= self.tolerance)).sum())

    @property
    def decided(self) -> int:
        return int(((self.margin > self.tolerance) & (self.regret <= 0)).sum())

    @property
    def worst(self) -> float:
        """The largest regret over its tolerance; inf where there is no tolerance at all."""
        regretted = self.regret > 0
        if not regretted.any():
            return 0.0
        with np.errstate(divide="ignore"):
            return float((self.regret[regretted] / self.tolerance[regretted]).max())


NOTHING = Chain(np.zeros(0), np.zeros(0), np.zeros(0))
"""no decision at all"""


def largest(*values: float | NDArray[Any]) -> float:
    """0 of none. NaN where there is one: Python's `max` passes it by, and what was not a number would not count."""
    return float(np.max([np.max(one, initial=0.0) for one in values], initial=0.0))


def mask(patches: int, among: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    """[N] bool, true at the patches that are named."""
    inside = np.zeros(patches, bool)
    inside[among] = True
    return inside


def cut(
    values: NDArray[Any], chosen: NDArray[np.int64], among: NDArray[np.bool_], error: float | NDArray[Any], eps: float
) -> Chain:
    """Were the `chosen` those of the highest values among the candidates? One decision for each of them.

    values: [N], by the reference; among: [N] bool, the candidates, of which all chosen are
    error: of the values; or [N], of each of them, of which the largest near the cut is taken
    """
    values = values.astype(np.float64)
    left, sets = among & ~mask(len(values), chosen), [worth_of_cut(values, chosen, among)]
    if not len(chosen) or not left.any():
        none = np.zeros(len(chosen))
        return Chain(none, none, none + np.inf, sets=sets)
    if isinstance(error, np.ndarray):
        ranked = np.flatnonzero(among)[np.argsort(-values[among], kind="stable")]
        width = max(1, min(NEAR, len(chosen) // 2))
        error = float(error[ranked[max(0, len(chosen) - width) : len(chosen) + width]].max())
    tolerance = 2 * error + eps * float(np.abs(values[among]).max())
    over = float(values[left].max()) - values[chosen]
    return Chain(np.maximum(over, 0), np.full(len(chosen), tolerance), np.abs(over), sets=sets)


def out_of_order(case: Case, first: int = 0, end: int | None = None) -> list[str]:
    """The defect of picks that do not fall by the device's own scores, from the pick `first` on, up to `end`; whoever
    takes fewer tokens takes the first of them. A bundle of schema 1.x has none."""
    if "picks" not in case.got:
        return []
    falling = case.got["scores"].astype(np.float64)[case.picks[first:end]]
    risen = np.diff(falling) > case.eps * np.abs(falling[1:])
    return ["picks must run from the highest score down"] if risen.any() else []


def joined(chains: Sequence[Chain], error: float = 0.0, relative: float = 0.0, defects: Sequence[str] = ()) -> Chain:
    """Stages one after the other; the errors are the largest."""
    regret, tolerance, margin = (
        np.concatenate([getattr(one, name) for one in chains]) for name in ("regret", "tolerance", "margin")
    )
    return Chain(
        regret,
        tolerance,
        margin,
        largest(error, *(one.error for one in chains)),
        largest(relative, *(one.relative for one in chains)),
        [*defects, *(defect for one in chains for defect in one.defects)],
        [one for chain in chains for one in chain.sets],
    )
