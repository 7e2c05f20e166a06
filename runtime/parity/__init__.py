"""Is it the same output? Kept sets are compared, and a disagreement counts only where the scores decide it. numpy only.

    err       = max over N of |score - reference score|           must stay under bound x the largest |reference score|
    explained = |reference score[i] - K-th reference score| <= 2 err + eps |K-th|    for each i in just one of the sets
    token     = ||a - b|| / ||b|| at each index that both kept    must stay under bound

A backend that rounds differently may swap patches whose scores are closer than its own error; nothing else is excused,
and the error itself is bounded, so that wrong scores cannot excuse the flips they cause. A greedy method's picks depend
on each other and are replayed instead (`greedy_parity`), and one of stages has its own rule
(`staged_parity`). A merged token that was near to being made of other features is not compared.
Where tokens are dropped inside the encoder, everything that comes out hangs on all that are kept: with F flips that the
scores explain, outputs may differ by F times what one exchange moves in the reference (`Doubt.sway`), too. The rows of
a detector, which are its detection tokens, are compared one by one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeprune.runtime.parity import greedy_parity, staged_parity
from edgeprune.runtime.parity.doubt import NOTHING, Doubt, Verdict

__all__ = ["FLOAT16_BOUND", "FLOAT32_BOUND", "Report", "compare", "worst"]

FLOAT32_BOUND = 1e-4
"""Two float32 executors that sum in another order differ by some 1e-6 after a dozen layers; a wrong formula by 1e-2."""
FLOAT16_BOUND = 1e-2
"""float16 keeps 11 bits, 5e-4 per rounding, and adds up over the layers."""

ROUNDING = 1e-5
"""far more than a float32 score of another executor differs by, and far less than most differ from a float16 number"""

TELLING = 4

_BOUND = {"float32": FLOAT32_BOUND, "float16": FLOAT16_BOUND}


class Outputs(Protocol):
    """What is compared: `edgeprune.runtime.Output`, or anything with its fields. A detector has no tokens."""

    @property
    def tokens(self) -> NDArray[Any] | None: ...
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
    """||a - b|| / ||b|| over the tokens at shared indices; 0 when none is compared"""
    token_error_max: float
    compared: int = 0
    """tokens at shared indices, without merged ones that were near to being made of others"""
    reasons: tuple[str, ...] = ()
    """why it failed, each in one line; empty when it passed"""

    @property
    def passed(self) -> bool:
        return not self.reasons

    def to_json(self) -> dict[str, Any]:
        """The fields and `passed`; an error that is not finite becomes null."""
        fields = {name: _finite_or_none(value) for name, value in dataclasses.asdict(self).items()}
        return {"passed": self.passed, **fields, "reasons": list(self.reasons)}


Rows = Mapping[str, NDArray[Any]]


def compare(
    reference: Outputs,
    got: Outputs,
    dtype: str,
    doubt: Doubt = NOTHING,
    extras: tuple[Rows, Rows] = ({}, {}),
) -> Report:
    """Compare one run with the reference, image by image.

    reference: tokens [B, K, D] float32, indices [B, K] int32, scores [B, N] float32
    got:       the same shapes; tokens in `dtype`, "float32" or "float16", which also sets the bounds
    doubt:     where the reference is in doubt; says how the method's scores are to be read
    extras:    further outputs of both sides by name: [B, K, D], compared like tokens, or integers [3, K]; without
               tokens, [B, T, D], compared row by row

    Raises ValueError for another dtype. Malformed outputs are a failed Report, not an exception.
    """
    if dtype not in _BOUND:
        raise ValueError(f"dtype must be one of {', '.join(_BOUND)}, got {dtype}")
    images = len(reference.indices)
    if defects := [
        *_defects("the reference's ", reference, reference, "float32", doubt),
        *_defects("", got, reference, dtype, doubt),
        *([f"the reference's {wrong}"] if (wrong := doubt.defect(reference.indices, reference.scores)) else []),
        *(
            f"{name} must be {list(rows.shape)}"
            for name, rows in extras[0].items()
            if extras[1][name].shape != rows.shape
        ),
        *(
            f"{name} must be finite; it is not"
            for name, rows in extras[1].items()
            if rows.dtype.kind == "f" and not np.isfinite(rows).all()
        ),
    ]:
        return Report(images, 0, 0, 0, 0.0, math.inf, math.inf, math.inf, math.inf, reasons=tuple(defects))
    reports = []
    for image in range(images):
        name = f"image {image}: " if images > 1 else ""
        reports.append(
            _compare_image(
                name, _image(reference, extras[0], image), _image(got, extras[1], image), dtype, doubt.image(image)
            )
        )
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
        compared=sum(part.compared for part in parts),
        reasons=tuple(reason for part in parts for reason in part.reasons),
    )


@dataclass(frozen=True)
class _Image:
    tokens: NDArray[np.float64] | None
    indices: NDArray[np.int32]
    scores: NDArray[np.float32]
    extras: Rows
    """each [K, D], or integers [K, 3]"""


def _image(outputs: Outputs, extras: Rows, image: int) -> _Image:
    rows = {name: value.T if value.dtype.kind == "i" else value[image] for name, value in extras.items()}
    tokens = None if outputs.tokens is None else outputs.tokens[image].astype(np.float64)
    return _Image(tokens, outputs.indices[image], outputs.scores[image], rows)


def _compare_image(name: str, reference: _Image, got: _Image, dtype: str, doubt: Doubt) -> Report:
    bound, eps = _BOUND[dtype], float(np.finfo(dtype).eps)
    flips = np.setxor1d(reference.indices, got.indices)
    judge, told = _judge(doubt, keep=len(reference.indices))
    error, relative, explained = judge(reference.scores, got.scores, flips, doubt, bound, eps)
    shared, at_reference, at_got = np.intersect1d(reference.indices, got.indices, return_indices=True)
    if reference.tokens is None or got.tokens is None:
        errors = np.concatenate([_token_errors(rows, got.extras[name]) for name, rows in reference.extras.items()])
    else:
        errors = _token_errors(reference.tokens[at_reference], got.tokens[at_got])
    allowed = bound if doubt.sway is None else bound + len(flips) * float(doubt.sway)
    if doubt.blend is not None:
        errors = errors[doubt.blend[at_reference] > max(4 * (relative + eps), 2 * greedy_parity.COSINE_NOISE)]
    median, largest = (float(np.median(errors)), float(errors.max())) if len(errors) else (0.0, 0.0)

    reasons = []
    if relative > bound:
        reasons.append(
            f"{name}scores differ by {relative:.2g} of the largest reference score, {dtype} allows {bound:g}"
        )
    scores = [told(part.scores) for part in (got, reference)]
    if dtype == "float32" and _through_float16(scores[0], 0) and not _through_float16(scores[1], ROUNDING):
        reasons.append(f"{name}every score is a float16 number, so they were rounded; they must be computed in float32")
    if unexplained := len(flips) - explained:
        reasons.append(
            f"{name}{unexplained} patches are kept by one side only, and the score error does not explain it"
        )
    if largest > allowed:
        what = "tokens differ" if reference.tokens is not None else f"{' or '.join(reference.extras)} differ"
        reasons.append(f"{name}{what} by up to {largest:.2g} of their length, {dtype} allows {allowed:.2g}")
    for extra, rows in reference.extras.items() if reference.tokens is not None else ():
        pair = rows[at_reference], got.extras[extra][at_got]
        if rows.dtype.kind == "i" and not np.array_equal(*pair):
            reasons.append(f"{name}{extra} must be equal at the patches that both kept; they are not")
        elif rows.dtype.kind == "f" and (worst_row := _token_errors(*pair).max(initial=0)) > bound:
            reasons.append(f"{name}{extra} differs by up to {worst_row:.2g} of its length, {dtype} allows {bound:g}")
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
        compared=len(errors),
        reasons=tuple(reasons),
    )


def _judge(
    doubt: Doubt, keep: int
) -> tuple[Callable[..., Verdict], Callable[[NDArray[np.float32]], NDArray[np.float32]]]:
    """The rule for this kind of method, and which of its scores show whether they were rounded."""
    if doubt.order is not None:
        return greedy_parity.replay, greedy_parity.telling
    if doubt.tie is not None:
        return staged_parity.judge, staged_parity.ranked_by
    return partial(_ranked, keep), lambda scores: scores


def _ranked(
    keep: int,
    reference: NDArray[np.float32],
    got: NDArray[np.float32],
    flips: NDArray[Any],
    doubt: Doubt,
    bound: float,
    eps: float,
) -> Verdict:
    """The score rule of the head of this file. reference, got: [N] float32; flips: [F] indices in one of the sets."""
    error = float(np.abs(got.astype(np.float64) - reference).max())
    scale = float(np.abs(reference).max() if doubt.scale is None else doubt.scale)
    kth = np.sort(reference.astype(np.float64))[-keep]
    explained = np.abs(reference[flips] - kth) <= 2 * error + eps * abs(kth)
    return Verdict(error, error / scale if scale else (math.inf if error else 0.0), int(explained.sum()))


def _token_errors(reference: NDArray[np.float64], got: NDArray[np.float64]) -> NDArray[np.float64]:
    """[F, D], [F, D] -> [F], ||got - reference|| / ||reference||; for a reference of zeros, 0 or inf."""
    difference = np.linalg.norm(got - reference, axis=-1)
    length = np.linalg.norm(reference, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(difference == 0, 0.0, difference / length))


def _through_float16(scores: NDArray[np.float32], tolerance: float) -> bool:
    """Whether every score is a float16 number, or as near to one as the tolerance, relative to itself.

    A few may be by chance; they tell nothing.
    """
    if len(scores) < TELLING:
        return False
    with np.errstate(over="ignore", invalid="ignore"):
        return bool((np.abs(scores.astype(np.float16).astype(np.float32) - scores) <= tolerance * np.abs(scores)).all())


def _defects(whose: str, outputs: Outputs, like: Outputs, dtype: str, doubt: Doubt) -> list[str]:
    """What is wrong with the outputs themselves, whatever they are compared with."""
    wanted = {
        "tokens": (() if like.tokens is None else like.tokens.shape, dtype),
        "indices": (like.indices.shape, "int32"),
        "scores": (like.scores.shape, "float32"),
    }
    if like.tokens is None:
        del wanted["tokens"]
    found = []
    for name, (shape, kind) in wanted.items():
        array = getattr(outputs, name)
        if array.shape != shape or array.dtype != kind:
            found.append(f"{whose}{name} must be {kind} {list(shape)}, got {array.dtype} {list(array.shape)}")
        elif not np.isfinite(array).all() and not (doubt.order is not None and name == "scores"):
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
    if (
        doubt.order is not None
        and not found
        and (wrong := greedy_parity.pattern_defect(outputs.scores, outputs.indices))
    ):
        found.append(f"{whose}{wrong}")
    return found


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
