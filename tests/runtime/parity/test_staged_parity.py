"""What parity makes of a method of stages, of merged tokens and of further outputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeprune.runtime import Output
from edgeprune.runtime.parity import Report, compare
from edgeprune.runtime.parity.doubt import Doubt

PATCHES, KEEP, WIDTH = 24, 8, 16
ROWS = np.random.default_rng(1).normal(size=(1, PATCHES, WIDTH)).astype(np.float32)
RANK = np.random.default_rng(0).permutation(np.linspace(0.1, 0.9, PATCHES)).astype(np.float32)[None]
FIRST = (3, 17)
"""what the first stage puts into tier 1"""


def staged(rank: NDArray[np.float32], first: tuple[int, ...] = FIRST, rows: NDArray[np.float32] = ROWS) -> Output:
    scores = rank.copy()
    scores[:, list(first)] += 2
    indices = np.sort(np.argsort(-scores, axis=1, kind="stable")[:, :KEEP], axis=1).astype(np.int32)
    return Output(np.take_along_axis(rows, indices[..., None].astype(int), 1), indices, scores)


def doubt(tie: float) -> Doubt:
    """slack: how far each patch of tier 0 is from the other side of the limit; inf in tier 1"""
    kept = np.isin(np.arange(PATCHES), REFERENCE.indices[0])
    lower = np.isin(np.arange(PATCHES), FIRST, invert=True)
    worst, best = RANK[0, kept & lower].min(), RANK[0, ~kept].max()
    slack = np.where(kept, RANK[0] - best, worst - RANK[0])
    return Doubt(tie=np.array([tie], np.float32), slack=np.where(lower, slack, np.inf).astype(np.float32)[None])


REFERENCE = staged(RANK)
CLEAR, TIED = doubt(0.3), doubt(0.0)


def check(got: Output, given: Doubt = CLEAR, dtype: str = "float32") -> Report:
    return compare(REFERENCE, got, dtype, given)


def test_the_reference_equals_itself() -> None:
    report = check(REFERENCE)
    assert (report.passed, report.exact, report.score_error) == (True, 1, 0)


def test_rounding_is_accepted_though_a_tier_hides_the_last_bits() -> None:
    assert check(staged((RANK * np.float32(1 + 1e-5)).astype(np.float32))).passed


def test_what_the_last_stage_ranks_by_is_compared_whatever_the_stages_did() -> None:
    for given in (CLEAR, TIED):
        report = check(staged((RANK * np.float32(1.001)).astype(np.float32)), given)
        assert "scores differ by 0.001 of the largest reference score" in report.reasons[0]


def test_the_score_of_a_patch_in_a_tier_is_compared_too() -> None:
    scores = REFERENCE.scores.copy()
    scores[0, FIRST[0]] += np.float32(0.01)
    assert "scores differ" in check(replace(REFERENCE, scores=scores)).reasons[0]


def test_another_outcome_of_the_stages_is_refused_with_a_clear_margin_and_excused_by_a_tie() -> None:
    """The last that is kept, or not, goes with the tier: two sets differ."""
    other = int(RANK[0].argmin())
    got = staged(RANK, (FIRST[0], other))
    assert set(got.indices[0]) ^ set(REFERENCE.indices[0])
    refused, excused = check(got), check(got, TIED)
    assert "the score error does not explain it" in refused.reasons[0]
    assert excused.passed
    assert excused.explained == refused.unexplained > 0


def test_the_limit_of_the_last_stage_may_turn_within_the_error() -> None:
    order = np.argsort(-REFERENCE.scores[0])
    last, next_one = order[KEEP - 1], order[KEEP]
    near = RANK.copy()
    near[0, next_one] = near[0, last] - np.float32(2e-6)
    flipped = near.copy()
    flipped[0, next_one] = near[0, last] + np.float32(2e-6)
    slack = CLEAR.tensors()["slack"].copy()
    slack[0, [last, next_one]] = 2e-6
    report = compare(staged(near), staged(flipped), "float32", replace(CLEAR, slack=slack))
    assert (report.passed, report.explained) == (True, 2)
    slack[0, next_one] = 0.1
    assert not compare(staged(near), staged(flipped), "float32", replace(CLEAR, slack=slack)).passed


def test_scores_rounded_through_float16_fail_in_a_float32_graph() -> None:
    rounded = staged(RANK.astype(np.float16).astype(np.float32))
    assert any("float16" in reason for reason in check(rounded).reasons)


def test_a_stretched_score_is_held_against_the_scale_that_the_reference_gives() -> None:
    noisy = staged((RANK + np.float32(5e-4)).astype(np.float32))
    assert not check(noisy).passed
    assert check(noisy, replace(CLEAR, scale=np.array([10], np.float32))).passed


@pytest.mark.parametrize("extra", ["tokens", "deepstack_0"])
def test_a_merged_token_near_to_being_another_is_not_compared_and_others_are(extra: str) -> None:
    tokens = REFERENCE.tokens.copy()
    tokens[0, 2] *= 1.5
    blend = np.full((1, KEEP), np.inf, np.float32)
    got = replace(REFERENCE, tokens=tokens) if extra == "tokens" else REFERENCE
    rows = ({extra: REFERENCE.tokens}, {extra: tokens}) if extra != "tokens" else ({}, {})
    refused = compare(REFERENCE, got, "float32", replace(CLEAR, blend=blend), rows)
    assert f"{extra} differ" in refused.reasons[0]
    if extra == "tokens":
        blend[0, 2] = 0
        assert compare(REFERENCE, got, "float32", replace(CLEAR, blend=blend)).passed


def test_positions_are_equal_at_the_patches_that_both_kept() -> None:
    places = np.stack([np.zeros(KEEP), np.arange(KEEP), np.arange(KEEP) * 2]).astype(np.int32)
    assert compare(REFERENCE, REFERENCE, "float32", CLEAR, ({"positions": places}, {"positions": places})).passed
    moved = ({"positions": places}, {"positions": places + 1})
    assert compare(REFERENCE, REFERENCE, "float32", CLEAR, moved).reasons == (
        "positions must be equal at the patches that both kept; they are not",
    )


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ({"slack": None}, "tie and slack belong together; one of them is missing"),
        ({"tie": np.zeros((2,), np.float32)}, r"tie must be [1], got [2]"),
        ({"tie": np.array([np.nan], np.float32)}, "tie must not be below 0"),
        ({"blend": np.zeros((1, PATCHES), np.float32)}, "blend must be [1, 8], got [1, 24]"),
    ],
)
def test_a_damaged_record_is_named(damage: dict[str, NDArray[np.float32] | None], reason: str) -> None:
    assert reason in check(REFERENCE, replace(CLEAR, **damage)).reasons[0]  # type: ignore[arg-type]
