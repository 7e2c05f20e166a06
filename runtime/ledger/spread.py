"""How much a ratio of two medians is worth, of graphs that took turns.

interval   95 % of the ratios that come out when the rounds are drawn again (bootstrap). What is drawn are runs of
           neighbouring rounds, of all graphs alike: a machine that is busy for a second slows all that ran in it.
spread     p95 over median of one graph. A longer run is hit more often by whatever else the machine does, so that a
           restless machine flatters the shorter graph, which no interval shows.

A ratio is told when its interval is narrow and neither of its graphs is restless.

Source  Kuensch, The jackknife and the bootstrap for general stationary observations, Ann. Statist. 17 (1989); blocks
        around the end: Politis & Romano (1992)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["LEAST_ROUNDS", "NARROW", "RESTLESS", "Ratio", "ratio_of", "settled"]

LEAST_ROUNDS = 6
"""of fewer, not even the smallest and the largest hold a median with 95 % (2 x 0.5^5 = 6 %)"""
NARROW = 0.05
"""width of an interval over its ratio"""
RESTLESS = 1.3
"""p95 over median: at 1.5, .913 was measured for what is .968"""
DRAWS = 1000
CHANCE = 95


@dataclass(frozen=True)
class Ratio:
    """Of the medians of two graphs."""

    value: float
    interval: tuple[float, float] | None
    """in which it lies with 95 %; None of fewer than LEAST_ROUNDS rounds"""
    doubt: str = ""
    """why the value says too little to be told, in words; empty where it may be told"""


def ratio_of(seconds: Sequence[float], other: Sequence[float], names: tuple[str, str] = ("this", "the other")) -> Ratio:
    """median(seconds) / median(other), of runs in turns: [R] each, the n-th of both in the same round.

    >>> ratio_of([1.0, 1.1, 0.9], [2.0, 2.2, 1.8])
    Ratio(value=0.5, interval=None, doubt='3 rounds say too little, at least 6 are needed')
    >>> ratio_of([1.0] * 6, [2.0] * 6)
    Ratio(value=0.5, interval=(0.5, 0.5), doubt='')
    """
    both = np.array([seconds, other])
    value = float(_ratio(both))
    rounds = both.shape[1]
    if rounds < LEAST_ROUNDS:
        return Ratio(value, None, f"{rounds} rounds say too little, at least {LEAST_ROUNDS} are needed")
    length = math.isqrt(rounds - 1) + 1
    generator = np.random.default_rng(0)
    starts = generator.integers(0, rounds, (DRAWS, -(-rounds // length), 1))
    drawn = ((starts + np.arange(length)) % rounds).reshape(DRAWS, -1)[:, :rounds]
    tail = (100 - CHANCE) / 2
    low, high = (float(one) for one in np.percentile(_ratio(both[:, drawn]), (tail, 100 - tail)))
    spreads = np.percentile(both, 95, axis=1) / np.median(both, axis=1)
    worst = int(spreads.argmax())
    doubt = ""
    if not spreads[worst] <= RESTLESS:
        doubt = f"the machine is restless: p95 of {names[worst]} is {spreads[worst]:.2f} times its median"
    elif not high - low <= NARROW * value:
        doubt = f"it lies anywhere in {low:.3f}..{high:.3f}"
    return Ratio(value, (low, high), doubt)


def settled(times: Mapping[str, Sequence[float]], name: str) -> bool:
    """Whether the ratios of one graph to each other one can be told, by what was measured so far."""
    return not any(ratio_of(times[name], seconds).doubt for other, seconds in times.items() if other != name)


def _ratio(both: NDArray[np.float64]) -> NDArray[np.float64]:
    """[2, ..., R] -> [...]"""
    medians: NDArray[np.float64] = np.median(both, axis=-1)
    return np.asarray(medians[0] / medians[1])
