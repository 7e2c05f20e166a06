"""Parity of a method of stages: first it parts the patches into tiers, then it ranks them inside. numpy only.

    score = 2 t + s        t: the tier, 0, 1, ...; s in 0..1: what the last stage ranks by

    err       = max over N of |s - reference s|                  must stay under bound x the largest reference s
    explained = slack of a patch <= 2 err + eps x the largest    slack: how far s is from turning its own decision
                or tie <= 4 (err / the largest + eps)            tie: how near the stages were to another outcome

What the stages compare does not leave the graph; that it is known as well as s, within a factor of 2, is taken for
granted. Behind a tie every flip is explained, but s is compared whatever the stages did.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.runtime.parity.doubt import Doubt, Verdict

__all__ = ["judge", "ranked_by"]

TIER_ROUNDING = 2.0**-20
"""what s may lose to the 2 t in front of it, in float32, on both sides"""


def judge(
    reference: NDArray[np.float32],
    got: NDArray[np.float32],
    flips: NDArray[Any],
    doubt: Doubt,
    bound: float,
    eps: float,
) -> Verdict:
    """One image. reference, got: [N] float32; flips: [F] indices in just one of the two sets."""
    assert doubt.tie is not None
    assert doubt.slack is not None
    (tiers, wanted), (others, found) = _parted(reference), _parted(got)
    differs = np.abs(found - wanted)
    raised = (tiers > 0) | (others > 0)
    error = float(np.where(raised, np.maximum(differs - TIER_ROUNDING, 0), differs).max())
    scale = float(np.abs(wanted).max() if doubt.scale is None else doubt.scale)
    relative = error / scale if scale else (math.inf if error else 0.0)
    if float(doubt.tie) <= 4 * (relative + eps):
        return Verdict(error, relative, len(flips))
    return Verdict(error, relative, int((doubt.slack[flips] <= 2 * error + eps * scale).sum()))


def ranked_by(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """The scores of tier 0, which have all their bits."""
    return scores[scores < 2]


def _parted(scores: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """score -> tier, s"""
    values = scores.astype(np.float64)
    tiers = np.floor((values + TIER_ROUNDING) / 2)
    return tiers, values - 2 * tiers
