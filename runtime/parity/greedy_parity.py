"""The replay of a greedy method: which picks a rounding error may change. numpy only.

    gain of a pick = its score; -inf elsewhere. The picks are walked in the reference's order until the first one that
    the device did not keep, or kept at a gain beyond the bound: up to there both chose the same.

    err       = max |gain - reference gain| over the picks before that one           must stay under the bound
    explained = margin of that pick <= 2 err + eps x the largest |reference gain|    margin: over the best other

Gains are made of cosines, which are not known better than to a few roundings of 1: an error within 4 eps is none, and a
margin of two such roundings is no margin, also where all gains are as small, as when all patches are alike.

One tie decides all that comes after it, so behind an explained pick nothing is compared but tokens both kept; where no
pick differs, all gains are. Gains behind a pick that is not explained are not excused.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.runtime.parity.doubt import Doubt, Verdict

__all__ = ["pattern_defect", "replay", "telling"]

COSINE_NOISE = 16 * float(np.finfo(np.float32).eps)
"""how far two float32 cosines of vectors of 4096 may lie apart: sqrt(4096) / 4 roundings; a gain is 1 - cosine"""


def replay(
    reference: NDArray[np.float32],
    got: NDArray[np.float32],
    flips: NDArray[Any],
    doubt: Doubt,
    bound: float,
    eps: float,
) -> Verdict:
    """One image. reference, got: [N] float32, -inf where nothing was picked; flips: [F] indices in one of the sets."""
    assert doubt.order is not None
    assert doubt.margins is not None
    order, margins = doubt.order, doubt.margins
    wanted = reference[order].astype(np.float64)
    scale = float(np.abs(wanted).max() if doubt.scale is None else doubt.scale)
    errors = np.abs(got[order] - wanted)  # inf where the device did not keep the pick
    noise = max(4 * eps, COSINE_NOISE)
    apart = np.flatnonzero(errors > max(bound * scale, noise))
    same = int(apart[0]) if len(apart) else len(order)
    error = float(errors[:same].max(initial=0))
    explained = same == len(order) or bool(margins[same] <= 2 * error + max(eps * scale, 2 * COSINE_NOISE))
    if not explained and np.isfinite(errors[same]):  # the same pick at another gain: the gains themselves are wrong
        error = float(errors[same])
    relative = 0.0 if error <= noise else error / scale if scale else math.inf
    return Verdict(error, relative, len(flips) if explained else 0)


def telling(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """The gains large enough to show whether they were rounded: 1 - cosine of a small one has few bits by itself."""
    return scores[np.isfinite(scores) & (np.abs(scores) > 0.01)]


def pattern_defect(scores: NDArray[Any], indices: NDArray[Any]) -> str | None:
    """What is wrong with where the scores are finite: they must be at the kept indices, and -inf elsewhere."""
    kept = np.zeros(scores.shape, dtype=bool)
    np.put_along_axis(kept, indices.astype(np.int64), True, axis=1)
    wrong = int((np.isfinite(scores) != kept).sum() + ((scores != -np.inf) & ~np.isfinite(scores) & ~kept).sum())
    return f"scores must be finite at the kept patches and -inf elsewhere; {wrong} are not" if wrong else None
