"""Is it the same output? Kept sets are compared, and a disagreement counts only where the scores decide it. numpy only.

    err       = max over N of |score - reference score|           must stay under bound x the largest |reference score|
    explained = |reference score[i] - K-th reference score| <= 2 err + eps |K-th|    for each i in just one of the sets
    token     = ||a - b|| / ||b|| at each index that both kept    must stay under bound

A backend that rounds differently may swap patches whose scores are closer than its own error; nothing else is excused,
and the error itself is bounded, so that wrong scores cannot excuse the flips they cause. A greedy method's picks depend
on each other and are replayed instead (`edgeprune.runtime.greedy_parity`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeprune.runtime.greedy_parity import Replay, Verdict, pattern_defect, replay, replay_defect, telling

__all__ = ["FLOAT16_BOUND", "FLOAT32_BOUND", "Report", "compare", "worst"]

FLOAT32_BOUND = 1e-4
"""Two float32 executors that sum in another order differ by some 1e-6 after a dozen layers; a wrong formula by 1e-2."""
FLOAT16_BOUND = 1e-2
"""float16 keeps 11 bits, 5e-4 per rounding, and adds up over the layers."""

_BOUND = {"float32": FLOAT32_BOUND, "float16": FLOAT16_BOUND}


class Outputs(Protocol):
    """What is compared: `edgeprune.runtime.Output`, or anything with its fields."""

    @property
    def tokens(self) -> NDArray[Any]: ...
    @property
    def indices(self) -> NDArray[np.int32]: ...
    @property
    def scores(self) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class Report:
    """One comparison, or the worst of several. Counts add up; errors are those of the worst image.

    When the outputs are malformed nothing can be measured: the errors are inf and `reasons` says why.
    """

    images: int
    exact: int
    """images whose kept set is the reference's"""
    explained: int
    """indices in just one of the two sets, within the score error of the K-th; or behind a tie of a greedy method"""
    unexplained: int
    """indices in just one of the two sets that the score error does not excuse"""
    jaccard: float
    """shared indices / all indices of both sets"""
    score_error: float
    """max |score - reference score|; of a greedy method, over the picks before the first that differs"""
    score_error_relative: float
    """the same over the largest |reference score|"""
    token_error_median: float
    """||a - b|| / ||b|| over the tokens at shared indices; 0 when none is shared"""
    token_error_max: float
    reasons: tuple[str, ...] = ()
    """why it failed, each in one line; empty when it passed"""

    @property
    def passed(self) -> bool:
        return not self.reasons

    def to_json(self) -> dict[str, Any]:
        """The fields and `passed`; an error that is not finite becomes null."""
        fields = {name: _finite_or_none(value) for name, value in dataclasses.asdict(self).items()}
        return {"passed": self.passed, **fields, "reasons": list(self.reasons)}


def compare(reference: Outputs, got: Outputs, dtype: str, picks: Replay | None = None) -> Report:
    """Compare one run with the reference, image by image.

    reference: tokens [B, K, D] float32, indices [B, K] int32, scores [B, N] float32
    got:       the same shapes; tokens in `dtype`, "float32" or "float16", which also sets the bounds
    picks:     of a greedy method, whose scores are -inf where nothing is kept: how the reference picked

    Raises ValueError for another dtype. Malformed outputs are a failed Report, not an exception.
    """
    if dtype not in _BOUND:
        raise ValueError(f"dtype must be one of {', '.join(_BOUND)}, got {dtype}")
    images = len(reference.indices)
    if defects := [
        *_defects("the reference's ", reference, reference, "float32", picks),
        *_defects("", got, reference, dtype, picks),
        *([f"the reference's {wrong}"] if picks and (wrong := replay_defect(picks, reference.indices)) else []),
    ]:
        return Report(images, 0, 0, 0, 0.0, math.inf, math.inf, math.inf, math.inf, tuple(defects))
    reports = []
    for image in range(images):
        name = f"image {image}: " if images > 1 else ""
        parts = _image(reference, image), _image(got, image)
        verdict = None
        if picks:
            eps = float(np.finfo(dtype).eps)
            scores = parts[0].scores, parts[1].scores
            verdict = replay(*scores, picks.order[image], picks.margins[image], _BOUND[dtype], eps)
        reports.append(_compare_image(name, *parts, dtype, verdict))
    return worst(reports)


def worst(reports: Iterable[Report]) -> Report:
    """All of them as one: counts added, errors the largest, Jaccard the smallest, reasons in order."""
    parts = list(reports)

    def largest(field: str) -> float:
        return max((getattr(part, field) for part in parts), default=0.0)

    return Report(
        images=sum(part.images for part in parts),
        exact=sum(part.exact for part in parts),
        explained=sum(part.explained for part in parts),
        unexplained=sum(part.unexplained for part in parts),
        jaccard=min((part.jaccard for part in parts), default=1.0),
        score_error=largest("score_error"),
        score_error_relative=largest("score_error_relative"),
        token_error_median=largest("token_error_median"),
        token_error_max=largest("token_error_max"),
        reasons=tuple(reason for part in parts for reason in part.reasons),
    )


@dataclass(frozen=True)
class _Image:
    tokens: NDArray[np.float64]
    indices: NDArray[np.int32]
    scores: NDArray[np.float32]


def _image(outputs: Outputs, image: int) -> _Image:
    return _Image(outputs.tokens[image].astype(np.float64), outputs.indices[image], outputs.scores[image])


def _compare_image(name: str, reference: _Image, got: _Image, dtype: str, verdict: Verdict | None) -> Report:
    bound = _BOUND[dtype]
    flips = np.setxor1d(reference.indices, got.indices)
    if verdict is None:
        error, relative = _score_error(reference.scores, got.scores)
        explained = int(_explained(reference.scores, len(reference.indices), flips, error, dtype).sum())
    else:
        error, relative = verdict.error, verdict.relative
        explained = len(flips) if verdict.explained else 0
    shared, at_reference, at_got = np.intersect1d(reference.indices, got.indices, return_indices=True)
    errors = _token_errors(reference.tokens[at_reference], got.tokens[at_got])
    median, largest = (float(np.median(errors)), float(errors.max())) if len(errors) else (0.0, 0.0)

    reasons = []
    if relative > bound:
        reasons.append(
            f"{name}scores differ by {relative:.2g} of the largest reference score, {dtype} allows {bound:g}"
        )
    scores = [part.scores if verdict is None else telling(part.scores) for part in (got, reference)]
    if dtype == "float32" and _through_float16(scores[0]) and not _through_float16(scores[1]):
        reasons.append(f"{name}every score is a float16 number, so they were rounded; they must be computed in float32")
    if unexplained := len(flips) - explained:
        reasons.append(
            f"{name}{unexplained} patches are kept by one side only, and the score error does not explain it"
        )
    if largest > bound:
        reasons.append(f"{name}tokens differ by up to {largest:.2g} of their length, {dtype} allows {bound:g}")
    return Report(
        images=1,
        exact=int(not len(flips)),
        explained=explained,
        unexplained=unexplained,
        jaccard=len(shared) / (len(shared) + len(flips)),
        score_error=error,
        score_error_relative=relative,
        token_error_median=median,
        token_error_max=largest,
        reasons=tuple(reasons),
    )


def _score_error(reference: NDArray[np.float32], got: NDArray[np.float32]) -> tuple[float, float]:
    """[N], [N] float32 -> the largest difference, and the same over the largest |reference score|."""
    error = float(np.abs(got.astype(np.float64) - reference).max())
    scale = float(np.abs(reference).max())
    return error, error / scale if scale else (math.inf if error else 0.0)


def _explained(
    scores: NDArray[np.float32], keep: int, flips: NDArray[np.int32], error: float, dtype: str
) -> NDArray[np.bool_]:
    """The score rule: which flips a ranking may show when each score is off by up to `error`.

    scores: [N] float32 of the reference; flips: [F] indices in just one of the two sets -> [F] bool
    """
    kth = np.sort(scores.astype(np.float64))[-keep]
    tolerance = 2 * error + float(np.finfo(dtype).eps) * abs(kth)
    return np.asarray(np.abs(scores[flips] - kth) <= tolerance)


def _token_errors(reference: NDArray[np.float64], got: NDArray[np.float64]) -> NDArray[np.float64]:
    """[F, D], [F, D] -> [F], ||got - reference|| / ||reference||; for a reference of zeros, 0 or inf."""
    difference = np.linalg.norm(got - reference, axis=-1)
    length = np.linalg.norm(reference, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(difference == 0, 0.0, difference / length))


def _through_float16(scores: NDArray[np.float32]) -> bool:
    with np.errstate(over="ignore"):
        return bool(np.array_equal(scores.astype(np.float16).astype(np.float32), scores))


def _defects(whose: str, outputs: Outputs, like: Outputs, dtype: str, picks: Replay | None) -> list[str]:
    """What is wrong with the outputs themselves, whatever they are compared with."""
    wanted = {
        "tokens": (like.tokens.shape, dtype),
        "indices": (like.indices.shape, "int32"),
        "scores": (like.scores.shape, "float32"),
    }
    found = []
    for name, (shape, kind) in wanted.items():
        array = getattr(outputs, name)
        if array.shape != shape or array.dtype != kind:
            found.append(f"{whose}{name} must be {kind} {list(shape)}, got {array.dtype} {list(array.shape)}")
        elif not np.isfinite(array).all() and not (picks and name == "scores"):
            found.append(f"{whose}{name} hold {int((~np.isfinite(array)).sum())} values that are not finite")
    if found:
        return found
    if outputs.indices.size and (outputs.indices.min() < 0 or outputs.indices.max() >= like.scores.shape[1]):
        patches = like.scores.shape[1]
        found.append(
            f"{whose}indices must lie in 0..{patches - 1}, got {outputs.indices.min()}..{outputs.indices.max()}"
        )
    if (np.diff(outputs.indices, axis=1) <= 0).any():
        found.append(f"{whose}indices must ascend strictly; they repeat or run backwards")
    if picks and not found and (wrong := pattern_defect(outputs.scores, outputs.indices)):
        found.append(f"{whose}{wrong}")
    return found


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
