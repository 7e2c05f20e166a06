"""What a quantised graph is judged by, on numbers worked by hand: what its choices lost, and how far its tokens are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeprune.runtime.parity import Verdict, compare
from edgeprune.runtime.parity.chunks import chunks
from edgeprune.runtime.parity.decisions import cut
from edgeprune.runtime.parity.energy import energy
from edgeprune.runtime.parity.greedy import greedy
from edgeprune.runtime.parity.joins import joins, nearest
from edgeprune.runtime.parity.match import match
from edgeprune.runtime.parity.pairs import pairs
from edgeprune.runtime.parity.stages import stages
from edgeprune.runtime.parity.thin import thin
from edgeprune.runtime.parity.topk import fixed, topk
from edgeprune.runtime.parity.verdict import worst
from edgeprune.runtime.parity.worth import Worth, beyond, median, of_probe, together, worth_of_cut
from tests.runtime.parity.test_rules import (
    AROUND,
    CHUNKS,
    FURTHEST,
    LINE,
    NEAREST,
    STAGES,
    THIN,
    case,
    chunked,
    gains,
    merged,
    staged,
    thinned,
)

BOUNDS = {"regret": 0.01, "token_median": 0.05, "token_each": 0.15}
EVERY = np.ones(5, bool)
VALUES = np.array([9.0, 8.0, 5.0, 2.0, 1.0])
"""their mean is 5"""


# --- one set of choices -----------------------------------------------------------------------------------------------


def test_a_cut_loses_what_the_best_ones_have_more() -> None:
    lost = worth_of_cut(VALUES, np.array([0, 2, 3]), EVERY)  # 9 + 5 + 2 where 9 + 8 + 5 was to be had
    assert (lost.lost, lost.size) == (6, 22)
    assert lost.of(lost.lost) == pytest.approx(6 / 22)
    assert lost.blind == 22 - 3 * 5
    assert worth_of_cut(VALUES, np.array([1, 0]), EVERY).lost == 0


def test_only_candidates_count() -> None:
    among = np.array([True, False, True, True, False])
    lost = worth_of_cut(VALUES, np.array([3]), among)  # of 9, 5 and 2
    assert (lost.lost, lost.size) == (7, 9)
    assert lost.blind == pytest.approx(9 - 16 / 3)


def test_equal_values_are_equally_good_and_nothing_chosen_loses_nothing() -> None:
    assert worth_of_cut(np.array([2.0, 2.0, 2.0, 1.0]), np.array([2]), np.ones(4, bool)).lost == 0
    assert worth_of_cut(VALUES, np.array([], np.int64), EVERY) == Worth(0, 0, 0)


def test_the_share_is_of_the_size_of_the_best_whatever_its_sign() -> None:
    lost = worth_of_cut(np.array([-1.0, -2.0, -4.0]), np.array([0, 2]), np.ones(3, bool))
    assert lost.of(lost.lost) == pytest.approx(2 / 3)
    assert Worth(0, 0, 0).of(0) == 0
    assert Worth(1, 0, 0).of(1) == np.inf


def test_sets_of_one_quantity_are_one() -> None:
    assert together([Worth(1, 2, 10), Worth(0, 3, 90)]) == Worth(1, 5, 100)


def test_the_median_of_an_even_number_lies_between_two() -> None:
    assert median(np.array([0.4, 0.1, 0.2, 0.3])) == pytest.approx(0.25)
    assert median(np.zeros(0)) == 0


# --- of every rule ----------------------------------------------------------------------------------------------------


def test_of_a_cut_the_whole_set_counts_once() -> None:
    chain = cut(VALUES, np.array([0, 2, 3]), EVERY, 0.0, 0.0)
    assert chain.regret.tolist() == [0, 3, 6]  # each against the best that is left
    assert chain.lost == pytest.approx(6 / 22)
    assert chain.blind == pytest.approx(7 / 22)


def test_topk() -> None:
    reference = {"indices": [0, 1], "scores": [4.0, 2.0, 1.9, 1.0]}
    swapped = {"indices": [0, 2], "scores": [4.0, 1.9, 2.0, 1.0]}
    assert topk(case({}, reference, swapped)).lost == pytest.approx(0.1 / 6)


def test_fixed_has_nothing_to_lose() -> None:
    one = {"indices": [0, 2], "scores": [1.0, 0.0, 1.0]}
    assert fixed(case({}, one, one)).lost == 0


def test_greedy_along_the_devices_own_picks() -> None:
    right = gains([3, 0, 2], [0.5, 0.9, 0.4])
    wrong = gains([3, 1, 2], [0.5, 0.8, 0.3])  # 0 was .9 away; given 9 and 1 the best of what is left is .3
    assert greedy(case(FURTHEST, right, right, similarity=LINE)).lost == pytest.approx(0, abs=1e-9)
    chain = greedy(case(FURTHEST, right, wrong, similarity=LINE))
    assert chain.lost == pytest.approx(0.1 / (0.5 + 0.9 + 0.3))
    # first gains .1 .1 .3 .5; then .9 .8 .5; then .1 .3
    assert chain.blind == pytest.approx((0.5 - 0.25 + 0.9 - 2.2 / 3 + 0.3 - 0.2) / 1.7)


def test_stages_have_a_set_each() -> None:
    right, first = staged([0, 2, 1, 4], [0, 1, 2]), [9.0, 8, 7, 6, 5, 4]
    other_anchor = staged([3, 2, 1, 4], [1, 2, 3])  # 6 where 9 was; of 0, 4 and 5 the best is taken
    assert stages(case(STAGES, right, other_anchor, first=first, around=AROUND)).lost == pytest.approx(3 / 9)
    worse_rest = staged([0, 2, 1, 5], [0, 1, 2])  # .05 where .5 was
    assert stages(case(STAGES, right, worse_rest, first=first, around=AROUND)).lost == pytest.approx(0.9)


def test_chunks_are_one_set_and_their_shares_are_counted_in_tokens() -> None:
    right, weight = chunked([0, 1, 3]), [2.0, 1.0]
    worse = chunks(case(CHUNKS, right, chunked([0, 2, 3]), weight=weight))  # .1 where .3 was: of .5 + .3 + .4
    assert worse.lost == pytest.approx(0.2 / 1.2)
    elsewhere = chunks(case(CHUNKS, right, chunked([0, 3, 4]), weight=[2.6, 0.4]))  # parts 2.6 and .4; shares 1 and 2
    assert elsewhere.sets[0].size == 3
    assert elsewhere.lost == pytest.approx((0.6 + 2.6 - 0.4) / 3)  # 2.6 - 1 - 1, and the one more of the lighter chunk


def test_of_thinning_what_goes_counts_and_no_order_by_itself() -> None:
    alike = np.eye(5)
    for one, other, value in ((1, 2, 0.9), (1, 4, 0.1), (3, 2, 0.3), (3, 4, 0.2), (2, 4, 0.5), (1, 3, 0.0)):
        alike[one, other] = alike[other, one] = value
    right = thinned([0, 1, 2, 3, 4, 1, 3, 4, 3], [0, 2, 3], [0, 3, 2])
    assert thin(case(THIN, right, right, similarity=alike)).lost == 0
    worth_of = (0.9, 0.5, 0.4, 0.3, 0.2, 0.3, 0.9, 0.5, 0.9)
    wrong = thinned([0, 1, 2, 3, 4, 3, 1, 4, 1], [0, 1, 2], [0, 1, 2], worth_of)  # drops .3 where .9 was, then .5 of .9
    assert thin(case(THIN, right, wrong, similarity=alike)).lost == pytest.approx(0.6 / 0.9)


def test_merges_are_a_set_of_cosines() -> None:
    given = {"similarity": LINE, "length": [1.0, 1, 1, 1], "turn": [1.0]}
    right = merged([0, 0, 0, 1])  # 1 and 4 go to 0: cosines .9 and .6
    astray = match(case(NEAREST, right, merged([0, 1, 0, 1]), **given))  # 1 goes to 9: .2
    assert astray.lost == pytest.approx(0.7 / 1.5)


def test_rounds_count_who_merges_and_into_which() -> None:
    rule = {"name": "match", "form": "rounds", "merged": [1]}
    x = np.array([[1.0, 0], [1, 0.1], [0, 1], [0.5, 1]])
    scores = [(1 - 0.995) / 2, 2 + (1 - 0.995) / 2, 2 + (1 - 0.894) / 2, 2 + (1 - 0.894) / 2]
    right = {"indices": [1, 2, 3], "origin": [0, 0, 1, 2], "order": [1, 1, 2, 3], "scores": scores}
    astray = {**right, "origin": [2, 0, 1, 2], "order": [3, 1, 2, 3]}  # 0 joins 3: .4472 where .995 was
    near, far = 1 / np.sqrt(1.01), 0.5 / np.sqrt(1.25)
    assert match(case(rule, right, astray, products=x @ x.T)).lost == pytest.approx((near - far) / near)


def test_joins_of_a_step() -> None:
    alike = np.array([[0.9, 0.5], [0.2, 0.6]])
    chain = nearest(alike, np.array([1, 1]), 0.0)
    assert chain.lost == pytest.approx(0.4 / 1.5)
    assert chain.blind == pytest.approx((0.2 + 0.2) / 1.5)
    given = {"trail": [0, 1, 0], "scores": [3.0, 2.0, 1.0], "indices": [0, 1]}
    similarity = [[1, 0.1, 0.4], [0.1, 1, 0.5], [0.4, 0.5, 1]]
    assert joins(case({"layer": 1}, given, given, similarity=similarity)).lost == pytest.approx(0.1 / 0.5)


def test_pairs_are_worth_their_cosines_not_what_is_short_of_one() -> None:
    reference = {"trail": [0, 0, 1, 2], "scores": [0.1, 4.0, 0.2, 4.0], "indices": [1, 2, 3]}
    other = {"trail": [0, 1, 1, 2], "scores": [0.2, 4.0, 0.1, 4.0], "indices": [0, 1, 3]}  # 2 joins 1
    alike = [[0.9, 0.3], [0.8, 0.1]]
    assert pairs(case({"layer": 1}, reference, other, alike=alike)).lost == pytest.approx(0.1 / 0.9)


def test_energy_counts_each_turn() -> None:
    reference = {"trail": [0, 0, 1], "scores": [-0.8, 4 - 0.6, -0.1], "indices": [1, 2]}
    given = {"trail": [0, 1, 1], "scores": [-0.1, 4 - 0.7, -0.8], "indices": [0, 1]}  # 2 joins 1, by its own numbers
    similarity = [[1, 0.5, 0.4], [0.5, 1, 0.3], [0.4, 0.3, 1]]
    chain = energy(case({"layer": 1, "margin": 0.9}, reference, given, similarity=similarity))
    # turns: 2 (.1) where 0 (.8) was, then 1 (.6) where 0 still was; the merge has no other target
    assert chain.lost == pytest.approx((0.7 + 0.2) / 1.6)


# --- the verdict ------------------------------------------------------------------------------------------------------

SCORES = [0.40, 0.30, 0.20, 0.19, 0.01]
RULE = {"name": "topk"}


def outputs(scores: list[float], off: tuple[float, ...] = (0.0, 0.0, 0.0)) -> dict[str, Any]:
    """Three of five patches are kept; their tokens are so far off, relatively."""
    ranked = np.array([scores], np.float32)
    kept = np.sort(np.argsort(-ranked, axis=1)[:, :3], axis=1).astype(np.int32)
    tokens = np.ones((1, 3, 4), np.float32) * (1 + np.array(off, np.float32))[None, :, None]
    return {"tokens": tokens, "indices": kept, "scores": ranked}


def judged(got: dict[str, Any], bounds: dict[str, float] | None = BOUNDS, whole: bool = False) -> Verdict:
    return compare(outputs(SCORES), got, "float32", RULE, {}, whole, bounds)


def test_a_swap_within_the_bound_passes_where_no_rounding_would_explain_it() -> None:
    swapped = outputs([0.40, 0.30, 0.1, 0.21, 0.01])  # .19 is kept where .20 was: .01 of .9
    found = judged(swapped, {**BOUNDS, "regret": 0.012})
    assert found.passed
    assert found.lost == pytest.approx(0.01 / 0.9, rel=1e-5)
    assert found.blind == pytest.approx(1 - 3 * 1.1 / 5 / 0.9, rel=1e-5)
    assert judged(swapped, {**BOUNDS, "regret": 0.011}).reasons == (
        "the choice is worth 1.11% less than the best one, 1.10% are allowed",
    )
    assert not judged(swapped, None).passed


@pytest.mark.parametrize(
    ("off", "reason"),
    [
        ((0.04, 0.06, 0.01), ""),
        ((0.06, 0.06, 0.01), "tokens differ by 0.06 of their length in the median, 0.05 is allowed"),
        ((0.01, 0.16, 0.01), "tokens differ by up to 0.16 of their length, 0.15 is allowed"),
    ],
)
def test_tokens_are_bound_in_the_median_and_each(off: tuple[float, ...], reason: str) -> None:
    found = judged(outputs(SCORES, off))
    assert found.reasons == ((reason,) if reason else ())
    assert found.token_median == pytest.approx(sorted(off)[1], rel=1e-5)
    assert found.token_error == pytest.approx(max(off), rel=1e-5)


def test_what_an_output_is_by_itself_must_hold_as_ever() -> None:
    descending = outputs(SCORES)
    descending["indices"] = descending["indices"][:, ::-1].copy()
    assert "ascend" in judged(descending).reasons[0]
    not_its_own = {**outputs(SCORES), "indices": np.array([[0, 1, 4]], np.int32)}
    assert "highest scores" in judged(not_its_own).reasons[0]
    halves = outputs(SCORES)
    halves["scores"] = halves["scores"].astype(np.float16).astype(np.float32)
    assert "float32" in judged({**halves, "tokens": halves["tokens"]}).reasons[0]
    assert "tokens must be float32" in judged({**outputs(SCORES), "tokens": np.ones((1, 3, 4), np.float16)}).reasons[0]


def test_tokens_are_compared_where_the_kept_sets_differ_too() -> None:
    """Few sets are equal; where everything hangs on all that are kept, tokens would never be seen."""
    swapped = outputs([0.40, 0.30, 0.1, 0.21, 0.01], (0.0, 0.3, 0.0))
    assert judged(swapped, whole=True).tokens == 2
    assert judged(swapped, None, whole=True).tokens == 0


def test_a_further_output_is_bound_like_each_token() -> None:
    deep = {**outputs(SCORES), "deep": np.ones((1, 3, 2), np.float32)}
    off = {**outputs(SCORES), "deep": np.full((1, 3, 2), 1.2, np.float32)}
    found = compare(deep, off, "float32", RULE, {}, False, BOUNDS)
    assert found.reasons == ("deep differs by up to 0.2 of its length, 0.15 is allowed",)


def test_of_several_images_the_worst_loss_and_the_least_that_chance_would_lose() -> None:
    one, other = judged(outputs(SCORES)), judged(outputs([0.40, 0.30, 0.1, 0.21, 0.01]))
    both = worst([one, other])
    assert both.lost == other.lost > one.lost == 0
    assert both.blind == min(one.blind, other.blind)


def test_errors_that_are_not_numbers_are_beyond_every_bound() -> None:
    assert len([*beyond(BOUNDS, float("nan"), np.array([np.nan]), "tokens")]) == 3


def test_of_a_flat_probe_only_tokens_are_judged() -> None:
    bounds = {"regret": 0.01, "token_median": 0.05, "token_each": 0.15}
    assert of_probe(None, "black") is None
    assert of_probe(bounds, "scene00") == bounds
    assert list(beyond(of_probe(bounds, "black") or {}, 0.5, np.array([0.01]), "tokens")) == []
    assert len(list(beyond(of_probe(bounds, "black") or {}, 0.5, np.array([0.2]), "tokens"))) == 2
