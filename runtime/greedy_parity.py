"""The replay of a greedy method: which picks a rounding error may change. numpy only.

    gain of a pick = its score; -inf elsewhere. The picks are walked in the reference's order until the first one that
    the device did not keep, or kept at a gain beyond the bound: up to there both chose the same.

    err       = max |gain - reference gain| over the picks before that one           must stay under the bound
    explained = margin of that pick <= 2 err + eps x the largest |reference gain|    margin: over the best other

Gains are made of cosines, which are not known better than to a few roundings of 1: an error within 4 eps is none, also
where all gains are as small, as when all patches are alike.

One tie decides all that comes after it, so behind an explained pick nothing is compared but tokens both kept; where no
pick differs, all gains are. Gains behind a pick that is not explained are not excused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Replay", "Verdict", "pattern_defect", "replay", "replay_defect", "telling"]


COSINE_NOISE = 16 * float(np.finfo(np.float32).eps)
"""how far two float32 cosines of vectors of 4096 may lie apart: sqrt(4096) / 4 roundings; a gain is 1 - cosine"""


class Replay(NamedTuple):
    """How the reference picked.

    order: [B, K] int32, its indices as they were picked
    margins: [B, K] float32, the gain of each pick over that of the best other candidate; inf without one
    """

    order: NDArray[np.int32]
    margins: NDArray[np.float32]


@dataclass(frozen=True)
class Verdict:
    error: float
    """max |gain - reference gain| before the first pick that differs"""
    relative: float
    """the same over the largest |reference gain|; 0 within a few roundings of 1"""
    explained: bool
    """whether what differs is"""


def replay(
    reference: NDArray[np.float32],
    got: NDArray[np.float32],
    order: NDArray[np.int32],
    margins: NDArray[np.float32],
    bound: float,
    eps: float,
) -> Verdict:
    """One image. reference, got: [N] float32, -inf where nothing was picked; order: [K] int32; margins: [K] float32."""
    wanted = reference[order].astype(np.float64)
    scale = float(np.abs(wanted).max())
    errors = np.abs(got[order] - wanted)  # inf where the device did not keep the pick
    noise = max(4 * eps, COSINE_NOISE)
    apart = np.flatnonzero(errors > max(bound * scale, noise))
    same = int(apart[0]) if len(apart) else len(order)
    error = float(errors[:same].max(initial=0))
    explained = same == len(order) or bool(margins[same] <= 2 * error + eps * scale)
    if not explained and np.isfinite(errors[same]):  # the same pick at another gain: the gains themselves are wrong
        error = float(errors[same])
    relative = 0.0 if error <= noise else error / scale if scale else math.inf
    return Verdict(error, relative, explained)


def telling(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """The gains large enough to show whether they were rounded: 1 - cosine of a small one has few bits by itself."""
    return scores[np.isfinite(scores) & (np.abs(scores) > 0.01)]


def pattern_defect(scores: NDArray[Any], indices: NDArray[Any]) -> str | None:
    """What is wrong with where the scores are finite: they must be at the kept indices, and -inf elsewhere."""
    kept = np.zeros(scores.shape, dtype=bool)
    np.put_along_axis(kept, indices.astype(np.int64), True, axis=1)
    wrong = int((np.isfinite(scores) != kept).sum() + ((scores != -np.inf) & ~np.isfinite(scores) & ~kept).sum())
    return f"scores must be finite at the kept patches and -inf elsewhere; {wrong} are not" if wrong else None


def replay_defect(picks: Replay, indices: NDArray[Any]) -> str | None:
    order, margins = picks
    if order.shape != indices.shape or margins.shape != indices.shape or np.isnan(margins).any() or (margins < 0).any():
        return f"order and margins must be {list(indices.shape)}, and no margin below 0"
    return None if np.array_equal(np.sort(order, axis=1), indices) else "order must hold the kept patches"
