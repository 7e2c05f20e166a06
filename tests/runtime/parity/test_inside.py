"""Steps inside the encoder, and the method behind them, on numbers worked by hand.

Six patches; behind one layer the four of the highest scores go on, 1 2 4 5, and of these the method keeps 1 and 4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import pytest

from edgeprune.runtime.budgets import first_picks
from edgeprune.runtime.parity import Verdict, compare
from edgeprune.runtime.parity.inside import followed, places
from edgeprune.runtime.parity.stored import Probe, packed, unpacked

Arrays: TypeAlias = "dict[str, np.ndarray]"
DROP: dict[str, Any] = {"name": "topk", "steps": [{"name": "topk", "shares": True, "layer": 1, "keep": 4}]}
KINDS = {
    "next.1.kept": np.float32,
    "tokens": np.float32,
    "scores": np.float32,
    "scores.1": np.float32,
    "scores.2": np.float32,
}
NONE = -np.inf


def outputs(**given: Any) -> Arrays:
    """Of one image."""
    named = {name.replace("_", "."): value for name, value in given.items()}
    return {name: np.array([value], KINDS.get(name, np.int32)) for name, value in named.items()}


def dropped(**changes: Any) -> Arrays:
    right = {
        "tokens": [[1.0, 2.0], [3.0, 4.0]],
        "indices": [1, 4],
        "scores": [NONE, 0.9, 0.1, NONE, 0.5, 0.2],
        "picks": [1, 4],
        "trail_1": [-1, 0, 1, -1, 2, 3],
        "scores_1": [0.1, 0.6, 0.5, 0.24, 0.4, 0.25],
        "origin": [-1, 0, -1, -1, 1, -1],
    }
    return outputs(**{**right, **changes})


def judged(
    reference: Arrays, got: Arrays, rule: dict[str, Any] = DROP, dtype: str = "float32", **given: Any
) -> Verdict:
    got = {name: value.astype(dtype) if name == "tokens" else value for name, value in got.items()}
    quantities = {name.replace("_", ".", 1): np.array([value], np.float32) for name, value in given.items()}
    return compare(reference, got, dtype, rule, quantities, True)


def counts(verdict: Verdict) -> tuple[int, int, int, int]:
    return verdict.decisions, verdict.decided, verdict.within, verdict.wrong


def test_a_step_and_the_method_behind_it_are_judged_in_turn() -> None:
    verdict = judged(dropped(), dropped())
    assert counts(verdict) == (6, 6, 0, 0)
    assert (verdict.tokens, verdict.reasons) == (2, ())


def test_what_the_method_chooses_behind_the_step_is_judged_in_rows() -> None:
    """2 instead of 4: .1 against .5, with scores that say otherwise."""
    scores = [NONE, 0.9, 0.5, NONE, 0.1, 0.2]
    wrong = dropped(indices=[1, 2], picks=[1, 2], scores=scores, origin=[-1, 0, 1, -1, -1, -1])
    verdict = judged(dropped(), wrong)
    assert verdict.wrong == 0  # by as much as its own scores are off; these are not those of the reference
    assert "scores differ" in verdict.reasons[0]


OTHER: dict[str, Any] = {
    "trail_1": [-1, 0, 1, 2, 3, -1],
    "scores_1": [0.1, 0.6, 0.5, 0.2451, 0.4, 0.2449],
    "scores": [NONE, 0.7, 0.1, 0.3, 0.6, NONE],
    "tokens": [[1.0, 2.5], [3.0, 3.5]],
}
"""patch 3 goes on in place of 5: .01 too low by the reference, within rounding of float16; then everything differs"""


def test_behind_a_step_that_differs_within_rounding_nothing_is_decided_and_no_token_compared() -> None:
    verdict = judged(dropped(), dropped(**OTHER), dtype="float16")
    assert verdict.reasons == ()
    assert counts(verdict) == (6, 3, 1, 0)  # 1, 2 and 4 of the step; what the method does is not known
    assert verdict.tokens == 0
    further = dropped(**{**OTHER, "scores_1": [0.1, 0.6, 0.5, 0.26, 0.4, 0.25]})
    assert "scores differ by 0.033" in judged(dropped(), further, dtype="float16").reasons[0]


def test_a_reference_that_did_what_the_device_did_decides_it_all_the_same() -> None:
    """The same trail by its own scores, and what comes of it."""
    forced = dropped(**{**OTHER, "scores_1": dropped()["scores.1"][0]})
    verdict = judged(forced, dropped(**OTHER), dtype="float16")
    assert counts(verdict) == (6, 5, 1, 0)
    assert (verdict.tokens, verdict.reasons) == (2, ())
    garbage = dropped(**{**OTHER, "tokens": [[3.0, 3.5], [1.0, 2.5]]})
    assert "tokens differ" in judged(forced, garbage, dtype="float16").reasons[0]
    other = {**OTHER, "indices": [2, 3], "picks": [3, 2], "origin": [-1, -1, 0, 1, -1, -1]}
    other["scores"] = [NONE, 0, 0.1, 0.3, 0, NONE]
    assert judged(dropped(), dropped(**other), dtype="float16").reasons == ()
    assert judged(forced, dropped(**other), dtype="float16").reasons


RAISED = "only patches that a row goes under may be kept, and have scores; others do"
ASTRAY = "origin must be where the trails took each patch"
ALONE = "a row that does not go on behind layer 1 must be gone, and one that does go on alone"
LOWEST = "the rows that go on behind layer 1 must be those of the highest scores; they are not"
MALFORMED: dict[str, tuple[dict[str, Any], str]] = {
    "a row that is none": ({"trail_1": [-2, 0, 1, -1, 2, 3]}, "trail.1 must lie in -1..3, got -2..3"),
    "a row beyond": ({"trail_1": [-1, 0, 1, -1, 2, 4]}, "trail.1 must lie in -1..3, got -1..4"),
    "an empty row": ({"trail_1": [-1, 0, 1, -1, 2, 2]}, "trail.1 must fill 4 rows behind the step; 1 are empty"),
    "rows out of order": ({"trail_1": [-1, 1, 0, -1, 2, 3]}, "the rows behind layer 1 must stay in raster order"),
    "a merge where rows are dropped": ({"trail_1": [0, 0, 1, -1, 2, 3], "origin": [0, 0, -1, -1, 1, -1]}, ALONE),
    "the lowest": ({"trail_1": [0, 1, -1, -1, 2, 3], "scores": [0.1, 0.9, NONE, NONE, 0.5, 0.2],
                    "origin": [-1, 0, -1, -1, 1, -1]}, LOWEST),
    "a patch that is gone": ({"indices": [1, 3], "picks": [1, 3]}, RAISED),
    "a score of what is gone": ({"scores": [0.1, 0.9, 0.1, NONE, 0.5, 0.2]}, RAISED),
    "no score": ({"scores": [NONE, 0.9, NONE, NONE, 0.5, 0.2]},
                 "every row behind the last step must have the score of one patch"),
    "another origin": ({"origin": [-1, 1, -1, -1, 0, -1]}, ASTRAY),
    "an origin of what is gone": ({"origin": [0, 0, -1, -1, 1, -1]}, ASTRAY),
    "no number": ({"scores_1": [0.1, 0.6, np.nan, 0.24, 0.4, 0.25]}, "scores.1 hold 1 values that are not finite"),
    "another length": ({"scores_1": [0.1, 0.6, 0.5, 0.24, 0.4]},
                       "scores.1 must be float32 [1, 6], got float32 [1, 5]"),
}  # fmt: skip


@pytest.mark.parametrize("fault", MALFORMED)
def test_what_cannot_be_a_step_fails_with_a_reason(fault: str) -> None:
    changes, said = MALFORMED[fault]
    assert judged(dropped(), dropped(**changes)).reasons == (said,)


def test_scores_of_a_step_in_half_precision_are_refused() -> None:
    got, half = dropped(), dropped()["scores.1"].astype(np.float16)
    assert "scores.1 must be float32" in judged(dropped(), {**got, "scores.1": half}).reasons[0]
    (said,) = judged(dropped(), {**got, "scores.1": half.astype(np.float32)}, dtype="float16").reasons
    assert said.startswith("every score is a float16 number")


def test_a_fault_in_the_second_image_is_one_of_the_second_image() -> None:
    empty = dropped(trail_1=[-1, 0, 1, -1, 2, 2])
    both = [
        {name: np.concatenate((value, one[name])) for name, value in dropped().items()} for one in (dropped(), empty)
    ]
    assert counts(judged(both[0], both[0])) == (12, 12, 0, 0)
    assert judged(both[0], both[1]).reasons == ("image 1: trail.1 must fill 4 rows behind the step; 1 are empty",)


# Merges: rows 0 2 and 3 4 become one, each under the name of the row with the higher score.
LIKE = np.eye(6)
for one, other, cosine in ((0, 2, 0.9), (3, 4, 0.8), (0, 4, 0.3), (2, 3, 0.1), (2, 4, 0.2), (1, 5, 0.5)):
    LIKE[one, other] = LIKE[other, one] = cosine
JOIN: dict[str, Any] = {"name": "topk", "steps": [{"name": "joins", "layer": 1, "keep": 4}]}
SIMILARITY: dict[str, Any] = {"1_similarity": LIKE}


def merged(**changes: Any) -> Arrays:
    right = {
        "tokens": [[1.0, 2.0], [3.0, 4.0]],
        "indices": [2, 4],
        "scores": [NONE, 0.1, 0.9, NONE, 0.5, 0.2],
        "picks": [2, 4],
        "trail_1": [1, 0, 1, 2, 2, 3],
        "scores_1": [0.1, 0.6, 0.5, 0.2, 0.41, 0.3],
        "origin": [0, -1, 0, 1, 1, -1],
    }
    return outputs(**{**right, **changes})


def test_merged_rows_go_under_the_patch_of_the_highest_score() -> None:
    assert judged(merged(), merged(), JOIN, **SIMILARITY).reasons == ()
    assert places({name: value[0] for name, value in merged().items()}, JOIN["steps"]).tolist() == [1, 0, 1, 2, 2, 3]
    astray = merged(indices=[0, 4], picks=[0, 4], scores=[0.9, 0.1, NONE, NONE, 0.5, 0.2])
    assert "only patches that a row goes under" in judged(merged(), astray, JOIN, **SIMILARITY).reasons[0]


def test_of_equal_scores_the_row_may_go_under_either() -> None:
    equal = {"scores_1": [0.1, 0.6, 0.5, 0.3, 0.3, 0.41]}
    for name in (3, 4):
        scores = [NONE, 0.1, 0.9, NONE, NONE, 0.2]
        scores[name] = 0.5
        got = merged(**equal, indices=[2, name], picks=[2, name], scores=scores)
        verdict = judged(merged(**equal), got, JOIN, **SIMILARITY)
        assert (verdict.reasons, verdict.tokens) == ((), 2)  # the same row, whatever its name


def test_a_merge_into_another_row_is_wrong() -> None:
    """Row 3 joined row 2, which it is .1 like, in place of 4, .8."""
    wrong = merged(trail_1=[1, 0, 1, 1, 2, 3], origin=[0, -1, 0, 0, 1, -1])
    verdict = judged(merged(), wrong, JOIN, **SIMILARITY)
    assert verdict.wrong == 1
    assert "1 of 8 decisions are wrong" in verdict.reasons[0]


def test_a_trail_that_no_decision_explains_fails() -> None:
    """What remains of the second quadrant goes another way, which no cosine of `pairs` is about."""
    steps = [{"name": "quadrants", "layer": 1, "keep": 4, "hidden": 2}, {"name": "pairs", "layer": 2, "keep": 3}]
    rule = {"name": "topk", "steps": steps}
    right = {
        "tokens": [[1.0, 2.0]],
        "indices": [1],
        "scores": [NONE, 0.9, NONE, NONE, 0.5, 0.2],
        "trail_1": [4, 0, 1, 5, 2, 3],
        "scores_1": [0.1, 0.6, 0.5, 0.2, 0.4, 0.3],
        "trail_2": [0, 0, 1, 2, -1, -1],
        "scores_2": [0.1, 4.0, 0.5, 4.0],
    }
    right["indices"], right["scores"] = [2], [NONE, NONE, 0.9, NONE, 0.5, 0.2]
    given: dict[str, Any] = {"1_quadrant": [0, 0, 0, 1, 1, 1], "2_alike": [[0.9, 0.1], [0.2, 0.5]]}
    assert judged(outputs(**right), outputs(**right), rule, **given).reasons == ()
    other = outputs(**{**right, "trail_2": [0, 0, 1, 2, -1, 2]})
    assert judged(outputs(**right), other, rule, **given).reasons == (
        "trail.2 is not the reference's, though every decision of it is",
    )


def test_a_greedy_method_behind_a_step_has_scores_of_what_it_picked_alone() -> None:
    """Rows 1 2 4 5 stand on a line at 0, 1, 4 and 9; the two that are farthest apart are 5 and then 1."""
    line = np.array([0.0, 1.0, 4.0, 9.0])
    rule = {**DROP, "name": "greedy", "objective": "max-min"}
    given = {"similarity": 1 - np.abs(np.subtract.outer(line, line)) / 10}
    picked: dict[str, Any] = {"indices": [1, 5], "picks": [5, 1], "origin": [-1, 0, -1, -1, -1, 1]}
    picked["scores"] = [NONE, 0.9, NONE, NONE, NONE, 0.5]
    verdict = judged(dropped(**picked), dropped(**picked), rule, **given)
    assert (counts(verdict), verdict.reasons) == ((6, 6, 0, 0), ())
    wrong: dict[str, Any] = {"indices": [2, 5], "picks": [5, 2], "origin": [-1, -1, 0, -1, -1, 1]}
    wrong["scores"] = [NONE, NONE, 0.8, NONE, NONE, 0.5]
    assert judged(dropped(**picked), dropped(**wrong), rule, **given).wrong == 1


def test_fewer_tokens_are_the_first_picks_with_an_origin_of_their_own() -> None:
    probe = Probe({}, dropped(), DROP, {}, True)
    cut = probe.cut(1)
    assert cut.outputs["origin"].tolist() == [[-1, 0, -1, -1, -1, -1]]
    assert cut.compare(dict(cut.outputs), "float32").reasons == ()


def test_a_step_is_followed_where_its_trail_is_the_same() -> None:
    assert followed(dropped(), dropped(scores_1=[0.2, 0.6, 0.5, 0.24, 0.4, 0.25]))
    assert not followed(dropped(), dropped(**OTHER))


VIDEO: dict[str, Any] = {"next.1.kept": [[1.0, 0.0]] * 5 + [[0.6, 0.8]]}
"""of each of the six rows in front of the step"""
OFF: dict[str, Any] = {"next.1.kept": [[1.0, 0.0]] * 5 + [[0.6, 0.81]]}


def test_what_a_step_leaves_for_the_next_frame_is_compared_row_by_row() -> None:
    assert judged(dropped(**VIDEO), dropped(**VIDEO)).passed
    assert judged(dropped(**VIDEO), dropped(**OFF)).reasons == (
        "next.1.kept differs by up to 0.01 of its length, float32 allows 0.0001",
    )


def test_behind_a_step_that_differs_within_rounding_it_is_not_compared() -> None:
    off = dropped(**OTHER, **{"next.1.kept": [[0.0, 1.0]] * 6})
    assert judged(dropped(**VIDEO), off, dtype="float16").passed


def test_it_stays_whole_where_fewer_tokens_are_taken() -> None:
    """It has as many rows, of as many numbers, as there are tokens."""
    wide = dropped(**{"next.1.kept": [[1.0, 2.0], [3.0, 4.0]]})
    assert np.array_equal(first_picks(wide, 1)["next.1.kept"], wide["next.1.kept"])


def test_cosines_of_a_step_are_stored_as_half_of_the_matrix() -> None:
    cosines = np.array([[[1, 0.5], [0.5, 1]]], np.float32)
    assert packed("12.similarity", cosines).shape == (1, 3)
    assert np.array_equal(unpacked("12.similarity", packed("12.similarity", cosines)), cosines)
    assert packed("12.alike", cosines).shape == (1, 2, 2)


FAULTY: list[Callable[[Arrays], Arrays]] = [
    lambda got: {name: value for name, value in got.items() if name != "trail.1"},
    lambda got: {name: value for name, value in got.items() if name != "scores.1"},
]


@pytest.mark.parametrize("fault", FAULTY)
def test_an_output_of_a_step_that_is_missing_fails(fault: Callable[[Arrays], Arrays]) -> None:
    assert "is missing" in judged(dropped(), fault(dropped())).reasons[0]
