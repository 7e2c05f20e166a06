"""Scores of tiers: score = 2 t + s. What a method chose in stages stands in t, what it ranked by inside, 0..1, in s."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeprune.runtime.parity.decisions import Case, Floats, largest
from edgeprune.runtime.parity.topk import measured, of_shares

__all__ = ["TIER_ROUNDING", "compared", "parted", "tiers_of"]

TIER_ROUNDING = 2.0**-20
"""what s may lose to the 2 t in front of it, in float32, on both sides"""


def tiers_of(scores: NDArray[np.float32]) -> Floats:
    """-> t"""
    return np.asarray(np.floor((scores.astype(np.float64) + TIER_ROUNDING) / 2))


def parted(scores: NDArray[np.float32]) -> Floats:
    """-> s"""
    return np.asarray(scores.astype(np.float64) - 2 * tiers_of(scores))


def compared(case: Case) -> tuple[Floats, float, float, Floats]:
    """The reference's s [N], shares of attention; the largest difference of the device's, itself and relative (to the
    largest s, or as `of_shares` says); all of them [N]."""
    reference = parted(case.reference["scores"])
    error, relative, errors = measured(parted(case.got["scores"]), reference)
    if error <= TIER_ROUNDING:  # what s lost to the tier in front of it
        relative = min(relative, case.bound)
    relative = largest(relative, of_shares((errors - TIER_ROUNDING).clip(0), reference))
    return reference, error, relative, errors
