"""What parity must catch, and what it must not mind. The reference: 2 images, 24 patches, 8 kept, 16 wide."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeprune.runtime import Output
from edgeprune.runtime.parity import FLOAT16_BOUND, FLOAT32_BOUND, Report, compare, worst
from edgeprune.runtime.parity.doubt import Doubt

BATCH, PATCHES, KEEP, WIDTH = 2, 24, 8, 16
ROWS = np.random.default_rng(1).normal(size=(BATCH, PATCHES, WIDTH)).astype(np.float32)
SCORES = np.random.default_rng(0).uniform(0.1, 1, (BATCH, PATCHES)).astype(np.float32)


def best(scores: NDArray[np.float32]) -> NDArray[np.int32]:
    return np.sort(np.argsort(-scores, axis=1, kind="stable")[:, :KEEP], axis=1).astype(np.int32)


def output(scores: NDArray[np.float32], indices: NDArray[np.int32] | None = None, rows: NDArray[Any] = ROWS) -> Output:
    chosen = best(scores) if indices is None else indices
    return Output(np.take_along_axis(rows, chosen[..., None].astype(int), 1), chosen, scores)


REFERENCE = output(SCORES)


def failing(got: Output, reference: Output = REFERENCE, dtype: str = "float32") -> str:
    report = compare(reference, got, dtype)
    assert not report.passed
    assert all("\n" not in reason for reason in report.reasons)
    return "; ".join(report.reasons)


def test_the_reference_equals_itself() -> None:
    report = compare(REFERENCE, REFERENCE, "float32")
    assert report.passed
    assert (report.images, report.exact, report.explained, report.unexplained, report.jaccard) == (2, 2, 0, 0, 1.0)
    assert (report.score_error, report.score_error_relative, report.token_error_median, report.token_error_max) == (
        0,
    ) * 4


def test_float32_rounding_is_accepted() -> None:
    noise = np.random.default_rng(2)
    scores = SCORES * (1 + 1e-6 * noise.standard_normal(SCORES.shape).astype(np.float32))
    rows = ROWS * (1 + 1e-6 * noise.standard_normal(ROWS.shape).astype(np.float32))
    report = compare(REFERENCE, output(scores, rows=rows), "float32")
    assert report.passed
    assert 0 < report.score_error_relative < FLOAT32_BOUND
    assert 0 < report.token_error_median <= report.token_error_max < FLOAT32_BOUND


def test_float16_tokens_are_accepted_in_a_float16_graph_only() -> None:
    got = replace(REFERENCE, tokens=REFERENCE.tokens.astype(np.float16))
    assert compare(REFERENCE, got, "float16").passed
    assert "tokens must be float32" in failing(got)
    assert "tokens must be float16" in failing(REFERENCE, dtype="float16")


def test_a_flip_between_nearly_equal_scores_is_explained() -> None:
    scores = SCORES.copy()
    order = np.argsort(-scores[0])
    last, next_best = order[KEEP - 1], order[KEEP]
    scores[0, next_best] = np.nextafter(scores[0, last], np.float32(0))
    swapped = scores.copy()
    swapped[0, [last, next_best]] = scores[0, [next_best, last]]
    reference, got = output(scores), output(swapped)
    assert set(reference.indices[0]) ^ set(got.indices[0]) == {last, next_best}
    report = compare(reference, got, "float32")
    assert report.passed
    assert (report.exact, report.explained, report.unexplained) == (1, 2, 0)
    assert report.jaccard == pytest.approx((KEEP - 1) / (KEEP + 1))


def test_a_flip_that_the_score_error_does_not_explain_fails() -> None:
    """The two scores are ten times the error apart."""
    scores = SCORES.copy()
    order = np.argsort(-scores[0])
    last, next_best = order[KEEP - 1], order[KEEP]
    scores[0, next_best] = scores[0, last] - 1e-5
    indices = best(scores)
    indices[0] = np.sort(np.where(indices[0] == last, next_best, indices[0]))
    noisy = scores + np.float32(1e-6)
    assert "1 patches are kept by one side only" in failing(output(noisy, indices), output(scores))


@pytest.mark.parametrize("value", [1.0, 0.1, 0.0, -2.5])
def test_equal_scores_may_keep_any_patches(value: float) -> None:
    flat = np.full((BATCH, PATCHES), value, np.float32)
    other = np.tile(np.arange(PATCHES - KEEP, PATCHES, dtype=np.int32), (BATCH, 1))
    report = compare(output(flat), output(flat, other), "float32")
    assert report.passed
    assert (report.exact, report.explained, report.jaccard) == (0, 2 * 2 * KEEP, 0.0)


def test_keeping_everything_works() -> None:
    everything = np.tile(np.arange(PATCHES, dtype=np.int32), (BATCH, 1))
    ones = np.ones((BATCH, PATCHES), np.float32)
    assert compare(output(ones, everything), output(ones, everything), "float32").exact == BATCH


def test_scores_of_another_layer_fail() -> None:
    other = np.random.default_rng(5).uniform(0.1, 1, SCORES.shape).astype(np.float32)
    assert "scores differ" in failing(output(other))


def test_scores_of_another_scale_fail_even_when_the_sets_agree() -> None:
    assert "scores differ" in failing(output(SCORES * np.float32(1.001)))


def test_large_score_errors_do_not_excuse_the_flips_they_cause() -> None:
    other = SCORES[:, ::-1].copy()
    report = compare(REFERENCE, output(other), "float32")
    assert report.unexplained == 0  # the error is as large as the scores
    assert not report.passed


def test_indices_shifted_by_one_fail() -> None:
    """The [CLS] token forgotten, so that every patch is named by its neighbour."""
    reference = output(np.where(np.arange(PATCHES) == PATCHES - 1, np.float32(0), SCORES))
    shifted = reference.indices + np.int32(1)
    assert "kept by one side only" in failing(replace(reference, indices=shifted), reference)


def test_the_bounds_of_float16_catch_a_shift_too() -> None:
    reference = output(np.where(np.arange(PATCHES) == PATCHES - 1, np.float32(0), SCORES))
    got = Output(reference.tokens.astype(np.float16), reference.indices + np.int32(1), reference.scores)
    assert "kept by one side only" in failing(got, reference, "float16")


def test_two_swapped_tokens_fail() -> None:
    tokens = REFERENCE.tokens.copy()
    tokens[1, [2, 3]] = tokens[1, [3, 2]]
    reasons = failing(replace(REFERENCE, tokens=tokens))
    assert "image 1: tokens differ" in reasons
    assert "image 0" not in reasons


def test_scores_rounded_through_float16_fail_in_a_float32_graph() -> None:
    assert "float16" in failing(output(SCORES.astype(np.float16).astype(np.float32)))


def test_the_same_fails_where_the_rounding_is_below_the_bound() -> None:
    """One score so large, and exact in float16, that the error of the others hides behind it."""
    outlier = SCORES.copy()
    outlier[:, 0] = 1024
    reasons = failing(output(outlier.astype(np.float16).astype(np.float32)), output(outlier))
    assert "every score is a float16 number" in reasons
    assert "scores differ" not in reasons


def unsorted(got: Output) -> Output:
    return replace(got, tokens=got.tokens[:, ::-1], indices=got.indices[:, ::-1])


def with_value(field: str, value: float) -> Callable[[Output], Output]:
    def change(got: Output) -> Output:
        array = getattr(got, field).copy()
        array[1, 3] = value
        return replace(got, **{field: array})

    return change


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (unsorted, "indices must ascend strictly"),
        (with_value("indices", 0), "indices must ascend strictly"),
        (lambda got: replace(got, indices=np.repeat(got.indices[:, :1], KEEP, 1)), "indices must ascend strictly"),
        (lambda got: replace(got, indices=got.indices + np.int32(PATCHES)), r"indices must lie in 0\.\.23"),
        (lambda got: replace(got, indices=got.indices - np.int32(PATCHES)), r"indices must lie in 0\.\.23"),
        (with_value("scores", math.nan), "scores hold 1 values that are not finite"),
        (with_value("scores", math.inf), "scores hold 1 values that are not finite"),
        (with_value("tokens", math.nan), "tokens hold 16 values that are not finite"),
        (lambda got: replace(got, scores=got.scores.astype(np.float16)), "scores must be float32"),
        (lambda got: replace(got, indices=got.indices.astype(np.int64)), "indices must be int32"),
        (lambda got: replace(got, scores=got.scores[:, :-1]), r"scores must be float32 \[2, 24\]"),
        (lambda got: replace(got, tokens=got.tokens[:1]), r"tokens must be float32 \[2, 8, 16\]"),
        (lambda got: Output(got.tokens[:, 1:], got.indices[:, 1:], got.scores), r"indices must be int32 \[2, 8\]"),
    ],
)  # fmt: skip
def test_malformed_outputs_fail_and_nothing_is_measured(spoil: Callable[[Output], Output], reason: str) -> None:
    report = compare(REFERENCE, spoil(REFERENCE), "float32")
    assert not report.passed
    assert any(re.search(reason, line) for line in report.reasons), report.reasons
    assert report.score_error == math.inf


def test_a_damaged_reference_is_named_as_such() -> None:
    assert "the reference's scores hold 1 values" in failing(REFERENCE, with_value("scores", math.nan)(REFERENCE))


def test_a_token_of_zeros_must_stay_one() -> None:
    rows = ROWS.copy()
    rows[0, REFERENCE.indices[0, 0]] = 0
    reference = output(SCORES, rows=rows)
    assert compare(reference, reference, "float32").passed
    assert "tokens differ" in failing(REFERENCE, reference)


def test_an_unknown_dtype_is_an_error() -> None:
    with pytest.raises(ValueError, match="float32, float16"):
        compare(REFERENCE, REFERENCE, "int8")


def test_the_worst_of_several_counts() -> None:
    good = compare(REFERENCE, REFERENCE, "float32")
    bad = compare(REFERENCE, output(SCORES * np.float32(1.001)), "float32")
    both = worst([good, bad])
    assert (both.images, both.exact, both.passed) == (4, 4, False)
    assert both.score_error == bad.score_error
    assert both.reasons == bad.reasons


def test_a_report_is_json_even_when_errors_are_infinite() -> None:
    given = json.loads(json.dumps(compare(REFERENCE, unsorted(REFERENCE), "float32").to_json(), allow_nan=False))
    assert (given["passed"], given["score_error"], given["images"]) == (False, None, 2)
    assert given["reasons"] == ["indices must ascend strictly; they repeat or run backwards"]


def test_the_bounds_are_those_of_the_contract() -> None:
    assert (FLOAT32_BOUND, FLOAT16_BOUND) == (1e-4, 1e-2)


def furthest(rows: NDArray[Any], first: int = 0, prefer_last: bool = False) -> tuple[Output, Doubt]:
    """A greedy reference, [B, N, W] -> furthest points from `first` on: its outputs and how it picked."""
    order = np.zeros((len(rows), KEEP), np.int32)
    margins = np.full((len(rows), KEEP), np.inf, np.float32)
    scores = np.full(rows.shape[:2], -np.inf, np.float32)
    for image, points in enumerate(rows.astype(np.float64)):
        far = np.linalg.norm(points[:, None] - points, axis=-1)
        gains = np.where(np.arange(len(points)) == first, 9.0, 0.0)
        for step in range(KEEP):
            free = gains.copy()
            free[order[image, :step]] = -np.inf
            pick = len(free) - 1 - int(free[::-1].argmax()) if prefer_last else int(free.argmax())
            order[image, step], scores[image, pick] = pick, free[pick]
            margins[image, step] = free[pick] - np.delete(free, pick).max()
            gains = far[order[image, : step + 1]].min(axis=0)
    return output(scores, np.sort(order, axis=1), rows.astype(np.float32)), Doubt(order=order, margins=margins)


GREEDY, PICKS = furthest(ROWS)
ORDER, MARGINS = PICKS.tensors().values()


class TestGreedy:
    def test_the_reference_equals_itself(self) -> None:
        report = compare(GREEDY, GREEDY, "float32", PICKS)
        assert (report.passed, report.exact, report.score_error) == (True, 2, 0)

    def test_rounding_is_accepted(self) -> None:
        noisy = replace(GREEDY, scores=GREEDY.scores * np.float32(1 + 1e-6))
        report = compare(GREEDY, noisy, "float32", PICKS)
        assert report.passed
        assert 0 < report.score_error_relative < FLOAT32_BOUND

    def test_of_two_identical_patches_either_may_be_kept(self) -> None:
        rows = ROWS.copy()
        rows[:, 7] = 5 * rows[:, 0]  # far from all, so picked early
        rows[:, 19] = rows[:, 7]
        reference, picks = furthest(rows)
        got = furthest(rows, prefer_last=True)[0]
        assert set(reference.indices[0]) ^ set(got.indices[0]) == {7, 19}
        report = compare(reference, got, "float32", picks)
        assert report.passed
        assert (report.exact, report.explained, report.unexplained) == (0, 4, 0)

    def test_what_follows_a_tie_is_excused_but_its_tokens_are_not(self) -> None:
        """Two mirror images of each other: the pick decides which way all later ones go."""
        reference, picks = furthest(ROWS)
        got = furthest(ROWS + 0.3 * np.sin(np.arange(PATCHES))[:, None])[0]
        tied = replace(picks, margins=np.where(np.arange(KEEP) == 1, np.float32(0), picks.tensors()["margins"]))
        rows = np.take_along_axis(ROWS, got.indices[..., None].astype(int), 1)
        got = replace(got, tokens=rows)
        assert not compare(reference, got, "float32", picks).passed
        assert compare(reference, got, "float32", tied).passed
        assert "tokens differ" in "; ".join(
            compare(reference, replace(got, tokens=rows[:, ::-1].copy()), "float32", tied).reasons
        )

    def test_a_swapped_pick_with_a_clear_margin_is_refused(self) -> None:
        last = ORDER[0, -1]
        other = next(patch for patch in range(PATCHES) if patch not in GREEDY.indices[0])
        indices, scores = GREEDY.indices.copy(), GREEDY.scores.copy()
        indices[0] = np.sort(np.where(indices[0] == last, other, indices[0]))
        scores[0, other], scores[0, last] = scores[0, last], -np.inf
        report = compare(GREEDY, output(scores, indices), "float32", PICKS)
        assert (report.explained, report.unexplained) == (0, 2)
        assert "2 patches are kept by one side only" in report.reasons[0]

    def test_other_gains_of_the_same_patches_are_refused(self) -> None:
        wrong = replace(GREEDY, scores=GREEDY.scores * np.float32(1.001))
        report = compare(GREEDY, wrong, "float32", PICKS)
        assert "scores differ by 0.001" in report.reasons[0]

    def test_gains_of_the_same_patches_in_another_order_are_excused_by_a_tie_only(self) -> None:
        """Picked the other way round, the two gains change; the set does not."""
        scores = GREEDY.scores.copy()
        second, third = ORDER[0, 1:3]
        scores[0, second], scores[0, third] = scores[0, third] * 0.9, scores[0, second]
        tied = replace(PICKS, margins=np.where(np.arange(KEEP) == 1, np.float32(0), MARGINS))
        assert not compare(GREEDY, output(scores, GREEDY.indices), "float32", PICKS).passed
        assert compare(GREEDY, output(scores, GREEDY.indices), "float32", tied).passed

    def test_gains_as_small_as_rounding_are_not_held_against_each_other(self) -> None:
        """All patches alike: the distances are multiples of 2^-24 around 0, here and there others."""
        kept, eps = np.isfinite(GREEDY.scores), 2**-24
        tied = replace(PICKS, margins=np.zeros_like(MARGINS))
        reference, got = (
            replace(GREEDY, scores=np.where(kept, np.float32(step * eps), np.float32(-np.inf))) for step in (0.1, 2)
        )
        assert compare(reference, got, "float32", tied).passed

    @pytest.mark.parametrize("value", [0.5, math.nan, math.inf])
    def test_a_score_where_nothing_is_kept_is_a_defect(self, value: float) -> None:
        scores = GREEDY.scores.copy()
        scores[0, next(patch for patch in range(PATCHES) if patch not in GREEDY.indices[0])] = value
        reasons = compare(GREEDY, replace(GREEDY, scores=scores), "float32", PICKS).reasons
        assert reasons == ("scores must be finite at the kept patches and -inf elsewhere; 1 are not",)

    def test_no_score_where_a_patch_is_kept_is_a_defect(self) -> None:
        scores = GREEDY.scores.copy()
        scores[1, GREEDY.indices[1, 2]] = -np.inf
        reasons = compare(GREEDY, replace(GREEDY, scores=scores), "float32", PICKS).reasons
        assert "-inf elsewhere; 1 are not" in reasons[0]

    def test_a_damaged_record_of_the_picks_is_named(self) -> None:
        for picks, reason in (
            (replace(PICKS, order=ORDER + 1), "the reference's order must hold the kept patches"),
            (replace(PICKS, margins=-MARGINS), "margins must not be below 0"),
            (replace(PICKS, margins=MARGINS[:, 1:]), r"margins must be [2, 8], got [2, 7]"),
        ):
            assert reason in "; ".join(compare(GREEDY, GREEDY, "float32", picks).reasons)

    def test_scores_rounded_through_float16_fail_in_a_float32_graph(self) -> None:
        rounded = replace(GREEDY, scores=GREEDY.scores.astype(np.float16).astype(np.float32))
        assert "float16" in "; ".join(compare(GREEDY, rounded, "float32", PICKS).reasons)


NEAR = SCORES.copy()
"""as SCORES, but of image 0 the last that is kept and the next are a millionth apart"""
LAST, NEXT = np.argsort(-SCORES[0])[KEEP - 1 : KEEP + 1]
NEAR[0, NEXT] = np.nextafter(NEAR[0, LAST], np.float32(0))
TIED = output(NEAR)
SWAY = 1e-2
SWAYED = Doubt(sway=np.full(BATCH, SWAY, np.float32))


def exchanged(moved: float) -> Output:
    """Image 0 keeps the next one instead of the last, and every other token moves by so much of its length."""
    scores = NEAR.copy()
    scores[0, [LAST, NEXT]] = NEAR[0, [NEXT, LAST]]
    rows = ROWS.copy()
    rows[0] *= np.float32(1 + moved)
    return output(scores, rows=rows)


class TestDroppedInside:
    """Every output hangs on all that are kept: an exchange of two moves the others, too."""

    def test_what_an_explained_flip_moves_is_accepted(self) -> None:
        report = compare(TIED, exchanged(1.5 * SWAY), "float32", SWAYED)
        assert report.passed
        assert (report.exact, report.explained, report.unexplained) == (1, 2, 0)

    def test_more_than_that_is_refused(self) -> None:
        reasons = compare(TIED, exchanged(2.5 * SWAY), "float32", SWAYED).reasons
        assert reasons[0] == "image 0: tokens differ by up to 0.025 of their length, float32 allows 0.02"

    def test_an_image_without_a_flip_is_held_to_the_bound(self) -> None:
        moved = output(NEAR, rows=ROWS * np.float32(1 + 1.5 * SWAY))
        reasons = compare(TIED, moved, "float32", SWAYED).reasons
        assert len(reasons) == 2
        assert all("float32 allows 0.0001" in reason for reason in reasons)

    def test_without_a_sway_a_flip_excuses_its_own_token_alone(self) -> None:
        assert not compare(TIED, exchanged(1.5 * SWAY), "float32").passed
        assert compare(TIED, exchanged(0), "float32").passed

    def test_a_flip_that_the_scores_do_not_explain_is_not_excused_by_it(self) -> None:
        indices = REFERENCE.indices.copy()
        out, into = indices[0, 0], next(at for at in range(PATCHES) if at not in indices[0])
        indices[0] = np.sort(np.where(indices[0] == out, into, indices[0]))
        large = Doubt(sway=np.full(BATCH, 10, np.float32))
        reasons = compare(REFERENCE, output(SCORES, indices), "float32", large).reasons
        assert any("kept by one side only, and the score error does not explain it" in reason for reason in reasons)

    def test_a_damaged_sway_is_named(self) -> None:
        for sway in (np.full(BATCH, -1, np.float32), np.full(BATCH + 1, 1, np.float32), np.full(BATCH, math.nan)):
            reasons = compare(TIED, TIED, "float32", Doubt(sway=sway)).reasons
            assert "the reference's sway" in "; ".join(reasons)


class Found(NamedTuple):
    """What a detector hands out beside logits and boxes."""

    tokens: None
    indices: NDArray[np.int32]
    scores: NDArray[np.float32]


ROWS_OF = {
    "logits": np.random.default_rng(7).normal(size=(BATCH, 5, 4)).astype(np.float32),
    "pred_boxes": np.random.default_rng(8).uniform(0.1, 0.9, (BATCH, 5, 4)).astype(np.float32),
}


def detected(
    rows: Mapping[str, NDArray[Any]] = ROWS_OF, doubt: Doubt = SWAYED, scores: NDArray[np.float32] = NEAR
) -> Report:
    return compare(
        Found(None, best(NEAR), NEAR),
        Found(None, best(scores), scores),
        "float32",
        doubt,
        (ROWS_OF, {**ROWS_OF, **rows}),
    )


class TestDetector:
    """Its rows are detection tokens, compared one by one."""

    def test_the_reference_equals_itself(self) -> None:
        report = detected()
        assert report.passed
        assert (report.exact, report.compared, report.token_error_max) == (2, 20, 0)

    @pytest.mark.parametrize("name", ROWS_OF)
    def test_two_swapped_rows_fail(self, name: str) -> None:
        swapped = ROWS_OF[name].copy()
        swapped[1, [2, 3]] = swapped[1, [3, 2]]
        (reason,) = detected({name: swapped}).reasons
        assert reason.startswith("image 1: logits or pred_boxes differ by up to ")

    @pytest.mark.parametrize("name", ROWS_OF)
    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_a_value_that_is_not_finite_fails(self, name: str, value: float) -> None:
        spoiled = ROWS_OF[name].copy()
        spoiled[1, 4, 0] = value
        assert detected({name: spoiled}).reasons == (f"{name} must be finite; it is not",)

    def test_fewer_rows_fail(self) -> None:
        assert detected({"logits": ROWS_OF["logits"][:, :4]}).reasons == ("logits must be [2, 5, 4]",)

    def test_what_an_explained_flip_moves_is_accepted_and_more_is_not(self) -> None:
        scores = NEAR.copy()
        scores[0, [LAST, NEXT]] = NEAR[0, [NEXT, LAST]]
        moved = {name: rows.copy() for name, rows in ROWS_OF.items()}
        for rows in moved.values():
            rows[0] *= np.float32(1 + 1.5 * SWAY)
        assert detected(moved, scores=scores).passed
        assert not detected(moved, Doubt(), scores).passed
        assert not detected(moved).passed
        moved["logits"][0, 3] *= 1.02
        assert not detected(moved, scores=scores).passed

    def test_rounding_is_accepted_and_a_wrong_formula_is_not(self) -> None:
        assert detected({"logits": ROWS_OF["logits"] * np.float32(1 + 1e-6)}).passed
        assert not detected({"logits": ROWS_OF["logits"] * np.float32(1 + 1e-3)}).passed
