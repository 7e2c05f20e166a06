"""The standard error of a mean whose values come in groups: questions about one image are right or wrong together.

error = sqrt(G / (G - 1) * sum over groups (sum in the group of (value - mean))^2) / n        G groups, n values
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from edgeprune.errors import RequestError

__all__ = ["Mean", "clustered", "difference"]


@dataclass(frozen=True)
class Mean:
    value: float
    error: float
    """one standard error, nan for a single group"""
    count: int
    """values"""
    groups: int


def clustered(values: Sequence[float], groups: Sequence[Hashable]) -> Mean:
    """Mean of the values, with its error when values of one group are not independent.

    >>> clustered([1, 1, 0, 0], ["a", "a", "b", "b"])
    Mean(value=0.5, error=0.5, count=4, groups=2)

    Raises RequestError when there is no value, or not one group for each.
    """
    if len(values) != len(groups) or not len(values):
        raise RequestError(f"every value must have a group, got {len(values)} values and {len(groups)} groups")
    numbers = {group: at for at, group in enumerate(dict.fromkeys(groups))}
    given = np.asarray(values, np.float64)
    mean, many = float(given.mean()), len(numbers)
    if many == 1:
        return Mean(mean, math.nan, len(given), many)
    sums = np.bincount([numbers[group] for group in groups], weights=given - mean)
    error = math.sqrt(many / (many - 1) * float((sums**2).sum())) / len(given)
    return Mean(mean, error, len(given), many)


def difference(values: Sequence[float], others: Sequence[float], groups: Sequence[Hashable]) -> Mean:
    """Mean of values - others, question by question: what a method loses has a smaller error than what it reaches.

    Raises RequestError as `clustered`, or when they are not equally many.
    """
    if len(values) != len(others):
        raise RequestError(f"both must answer the same questions, got {len(values)} and {len(others)}")
    return clustered((np.asarray(values, np.float64) - np.asarray(others, np.float64)).tolist(), groups)
