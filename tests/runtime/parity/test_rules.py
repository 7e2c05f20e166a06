"""Each rule by itself, on numbers worked by hand: what is equal, within rounding, wrong, decided."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeprune.runtime.parity.chunks import chunks
from edgeprune.runtime.parity.decisions import Case, Chain, cut
from edgeprune.runtime.parity.greedy import greedy
from edgeprune.runtime.parity.match import match
from edgeprune.runtime.parity.spaced import spaced
from edgeprune.runtime.parity.stages import stages
from edgeprune.runtime.parity.thin import thin
from edgeprune.runtime.parity.tiers import parted, tiers_of
from edgeprune.runtime.parity.topk import fixed, topk

EPS = 2.0**-10


def case(rule: dict[str, Any], reference: dict[str, Any], got: dict[str, Any], **quantities: Any) -> Case:
    kinds = {"scores": np.float32, "worth": np.float32}
    sides = [
        {name: np.array(value, kinds.get(name, np.int32)) for name, value in side.items()} for side in (reference, got)
    ]
    given = {name: np.array(one, np.float64) for name, one in quantities.items()}
    return Case(sides[0], sides[1], given, rule, 1e-2, EPS, 0.0)


def counts(chain: Chain) -> tuple[int, int, int, int]:
    """decisions, decided, within rounding, wrong"""
    return len(chain.regret), chain.decided, chain.within, chain.wrong


def test_a_cut_judges_each_that_was_kept_against_the_best_that_was_not() -> None:
    values = np.array([9.0, 8.0, 5.0, 4.9, 1.0])
    every = np.ones(5, bool)
    assert counts(cut(values, np.array([0, 1, 2]), every, 0.0, 0.0)) == (3, 3, 0, 0)
    taken = cut(values, np.array([0, 1, 3]), every, 0.0, 0.0)
    assert counts(taken) == (3, 2, 0, 1)
    assert taken.regret.tolist() == pytest.approx([0, 0, 0.1])
    assert counts(cut(values, np.array([0, 1, 3]), every, 0.1, 0.0)) == (3, 2, 1, 0)  # 0.1 <= 2 * 0.1
    assert counts(cut(values, np.array([0, 4, 2]), every, 0.1, 0.0)) == (3, 1, 0, 2)


def test_the_error_of_a_cut_is_that_of_scores_near_it() -> None:
    values, every = np.arange(100.0), np.ones(100, bool)
    far, near = np.zeros(100), np.zeros(100)
    far[5], near[49] = 30.0, 30.0
    kept = np.arange(50, 100)
    assert cut(values, kept, every, far, 0.0).tolerance.max() == 0
    assert cut(values, kept, every, near, 0.0).tolerance.max() == 60


def test_a_cut_that_leaves_nothing_out_has_nothing_to_regret() -> None:
    assert counts(cut(np.ones(3), np.arange(3), np.ones(3, bool), 0.0, 0.0)) == (3, 3, 0, 0)


def test_topk_takes_a_swap_of_near_scores_for_rounding_and_one_of_far_ones_for_wrong() -> None:
    reference = {"indices": [0, 1], "scores": [4.0, 2.001, 2.0, 1.0]}
    near = {"indices": [0, 2], "scores": [4.0, 2.0, 2.001, 1.0]}
    far = {"indices": [0, 3], "scores": [4.0, 2.001, 2.0, 1.0]}
    assert counts(topk(case({}, reference, near)))[2:] == (1, 0)
    assert counts(topk(case({}, reference, far)))[2:] == (0, 1)


def test_fixed_decides_nothing_and_wants_the_same_patches() -> None:
    reference = {"indices": [0, 2], "scores": [1.0, 0.0, 1.0]}
    assert fixed(case({}, reference, reference)).defects == []
    assert fixed(case({}, reference, {"indices": [0, 1], "scores": [1.0, 0.0, 1.0]})).defects


LINE = 1 - np.abs(np.subtract.outer(np.array([0, 1, 4, 9]), np.array([0, 1, 4, 9]))) / 10
"""cosines of four patches that stand on a line: 1 - C is a tenth of the distance"""
FURTHEST = {"name": "greedy", "objective": "max-min"}


def gains(picks: list[int], values: list[float]) -> dict[str, Any]:
    scores = np.full(4, -np.inf)
    scores[picks] = values
    return {"indices": sorted(picks), "picks": picks, "scores": scores}


def test_greedy_judges_each_pick_given_those_before_it() -> None:
    right = gains([3, 0, 2], [0.5, 0.9, 0.4])  # nearest neighbour of 9 is 4; 0 is 9 away; 4 is 4 from 0 and 5 from 9
    assert counts(greedy(case(FURTHEST, right, right, similarity=LINE))) == (3, 3, 0, 0)
    wrong = gains([3, 1, 2], [0.5, 0.8, 0.3])  # honest gains, but 0 was 0.9 away
    chain = greedy(case(FURTHEST, right, wrong, similarity=LINE))
    assert counts(chain)[2:] == (0, 1)
    assert chain.regret.tolist() == pytest.approx([0, 0.1, 0])  # given 9 and 1, 4 is the furthest: nothing is excused
    assert chain.error == pytest.approx(0, abs=1e-7)


def test_greedy_refuses_gains_that_are_not_those_of_its_picks() -> None:
    right = gains([3, 0, 2], [0.5, 0.9, 0.4])
    assert greedy(case(FURTHEST, right, gains([3, 0, 2], [0.5, 0.9, 0.3]), similarity=LINE)).relative > 0.1


@pytest.mark.parametrize(
    ("rule", "quantities", "picks", "values"),
    [
        ({"objective": "max-sum"}, {"first": [0.1, 0.7, 0.1, 0.1]}, [1, 3, 0], [0.7, -0.2, -1.0]),
        ({"objective": "determinant", "smallest": 1e-6}, {}, [0, 3], [1.0, 1 - 0.1**2]),
        ({"objective": "volume"}, {"products": 3 * LINE}, [0, 3], [3.0, 3 - 0.3**2 / 4]),
        ({"objective": "apart"}, {"saliency": [0.8, 1, 0.5, 0.9]}, [1, 3, 2], [1.0, 0.9 * 0.8, 0.5 * 0.3]),
        (
            {"objective": "suppression", "width": 1.0, "smallest": 0.0},
            {"attention": [1.0, 3, 2, 1]},
            [1, 2, 3],
            [1.0, 0.5 - 0.913931, -0.527292],
        ),
        ({"objective": "coverage"}, {"saliency": [1.0, 1, 1, 1]}, [1, 3], [0.9 + 1 + 0.7 + 0.2, 0.8]),
        (
            {"objective": "relevance", "balance": 0.5, "smallest": 0.0},
            {"attention": [3.0, 1, 2, 1]},
            [0, 3],
            [0.5, -0.05],
        ),
        ({"objective": "distance", "flat": 1e-6}, {"sensitivity": [3.0, 1, 2, 2]}, [0, 3], [1.0, 0.5 * 0.9]),
        ({"objective": "pivots", "pivots": 1, "quotas": [2]}, {"length": [1.0, 2, 4, 1]}, [2, 3, 0], [1.0, 0.5, 0.4]),
    ],
)
def test_every_objective_has_the_gains_worked_by_hand(
    rule: dict[str, Any], quantities: dict[str, Any], picks: list[int], values: list[float]
) -> None:
    given = gains(picks, values)
    chain = greedy(case({"name": "greedy", **rule}, given, given, similarity=LINE, **quantities))
    assert chain.error == pytest.approx(0, abs=1e-6)
    assert counts(chain)[2:] == (0, 0)


def test_scores_of_tiers_come_apart() -> None:
    assert tiers_of(np.array([4.25, 2.0, 0.75])).tolist() == [2, 1, 0]
    assert parted(np.array([4.25, 2.0, 0.75])).tolist() == [0.25, 0, 0.75]


AROUND = [[0, 0, 1, 0, 2], [1, 0, 2, 0, 3], [2, 1, 3, 0, 3], [3, 2, 3, 1, 3], [4, 4, 4, 4, 4], [5, 5, 5, 5, 5]]
STAGES = {"name": "stages", "anchors": 1}


def staged(picks: list[int], marked: list[int]) -> dict[str, Any]:
    scores = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.05])
    scores[marked] += 2
    return {"indices": sorted(picks), "picks": picks, "scores": scores}


def test_stages_judge_the_anchors_and_then_what_is_left() -> None:
    right, first = staged([0, 2, 1, 4], [0, 1, 2]), [9.0, 8, 7, 6, 5, 4]
    assert counts(stages(case(STAGES, right, right, first=first, around=AROUND))) == (2, 2, 0, 0)
    other_anchor = staged([3, 2, 1, 4], [1, 2, 3])
    assert counts(stages(case(STAGES, right, other_anchor, first=first, around=AROUND)))[3] == 1
    worse_rest = staged([0, 2, 1, 5], [0, 1, 2])
    assert counts(stages(case(STAGES, right, worse_rest, first=first, around=AROUND)))[3] == 1
    assert stages(case(STAGES, right, staged([0, 2, 1, 4], [0, 1, 3]), first=first, around=AROUND)).defects


CHUNKS = {"name": "chunks", "sizes": [3, 3], "epsilon": 0.0}


def chunked(kept: list[int], attention: tuple[float, ...] = (0.5, 0.3, 0.1, 0.4, 0.2, 0.1)) -> dict[str, Any]:
    scores = np.array(attention)
    scores[kept] += 2
    return {"indices": kept, "picks": kept, "scores": scores}


def test_chunks_judge_the_shares_and_the_cut_in_each() -> None:
    right, weight = chunked([0, 1, 3]), [2.0, 1.0]  # parts 2 and 1
    assert counts(chunks(case(CHUNKS, right, right, weight=weight)))[2:] == (0, 0)
    assert counts(chunks(case(CHUNKS, right, chunked([0, 2, 3]), weight=weight)))[3] == 1  # 2 instead of 1 in the first
    assert counts(chunks(case(CHUNKS, right, chunked([0, 3, 4]), weight=[2.6, 0.4])))[3] >= 1  # parts 2.6 and 0.4


RIGHT = (0.9, 0.5, 0.4, 0.3, 0.2, 0.9, 0.3, 0.5, 0.3)
THIN = {"name": "thin", "important": 1, "dropped": [1, 1]}


def thinned(order: list[int], kept: list[int], picks: list[int], worth: tuple[float, ...] = RIGHT) -> dict[str, Any]:
    scores = np.array([0.9, 0.5, 0.4, 0.3, 0.2])
    scores[picks[:1]] += 4
    scores[picks[1:]] += 2
    return {"indices": kept, "picks": picks, "order": order, "worth": worth, "scores": scores}


def test_thinning_judges_every_order_that_decided_what_came_next() -> None:
    # behind patch 0, the rest is 1 2 3 4: a = 1, 3, b = 2, 4
    alike = np.eye(5)
    for one, other, value in ((1, 2, 0.9), (1, 4, 0.1), (3, 2, 0.3), (3, 4, 0.2), (2, 4, 0.5), (1, 3, 0.0)):
        alike[one, other] = alike[other, one] = value
    # 1 is the most alike and goes; left are 3, 2, 4: a = 3, 4 with b = 2: 4 goes (0.5 > 0.3)
    right = thinned([0, 1, 2, 3, 4, 1, 3, 4, 3], [0, 2, 3], [0, 3, 2])
    assert counts(thin(case(THIN, right, right, similarity=alike)))[2:] == (0, 0)
    wrong = thinned(
        [0, 1, 2, 3, 4, 3, 1, 4, 1], [0, 1, 2], [0, 1, 2], (*RIGHT[:5], 0.3, 0.9, 0.5, 0.9)
    )  # drops 3 first
    assert counts(thin(case(THIN, right, wrong, similarity=alike)))[3] > 0
    assert thin(case(THIN, right, thinned([0, 1, 2, 3, 4, 2, 3, 4, 3], [0, 2, 3], [0, 3, 2]), similarity=alike)).defects


NEAREST = {"name": "match", "form": "nearest"}


def merged(origin: list[int]) -> dict[str, Any]:
    return {"indices": [0, 3], "picks": [0, 3], "origin": origin, "scores": [4.0, 1.0, 1.0, 3.0]}


def test_merging_judges_each_patch_by_the_token_it_went_to() -> None:
    right = merged([0, 0, 0, 1])  # 1 is nearer to 0 than to 9, and so is 4
    given = {"similarity": LINE, "length": [1.0, 1, 1, 1], "turn": [1.0]}
    assert counts(match(case(NEAREST, right, right, **given))) == (4, 4, 0, 0)
    assert counts(match(case(NEAREST, right, merged([0, 1, 0, 1]), **given)))[3] == 1
    assert match(case(NEAREST, right, merged([1, 0, 0, 0]), **given)).defects


def test_what_stands_for_itself_is_every_step_th_of_the_rest() -> None:
    rule = {"name": "match", "form": "stands", "dominant": 1, "contextual": 1}
    right = {"indices": [0, 1], "picks": [0, 1], "origin": [0, 1, 1, 1], "scores": [4.9, 2.3, 0.2, 0.1]}
    assert counts(match(case(rule, right, right, similarity=LINE)))[2:] == (0, 0)
    assert match(
        case(rule, right, {**right, "indices": [0, 2], "scores": [4.9, 0.3, 2.2, 0.1]}, similarity=LINE)
    ).defects


def test_rounds_judge_who_merges_and_into_which() -> None:
    rule = {"name": "match", "form": "rounds", "merged": [1]}
    x = np.array([[1.0, 0], [1, 0.1], [0, 1], [0.5, 1]])
    # 0 is nearest to 1 (0.995), 2 to 3 (0.894): 0 joins 1
    scores = [(1 - 0.995) / 2, 2 + (1 - 0.995) / 2, 2 + (1 - 0.894) / 2, 2 + (1 - 0.894) / 2]
    right = {"indices": [1, 2, 3], "origin": [0, 0, 1, 2], "order": [1, 1, 2, 3], "scores": scores}
    assert counts(match(case(rule, right, right, products=x @ x.T)))[2:] == (0, 0)
    astray = {**right, "origin": [2, 0, 1, 2], "order": [3, 1, 2, 3]}
    assert counts(match(case(rule, right, astray, products=x @ x.T)))[3] == 1
    other = {
        "indices": [0, 1, 3],
        "origin": [0, 1, 2, 2],
        "order": [0, 1, 3, 3],
        "scores": [2 + scores[0], scores[1], scores[2] - 2, scores[3]],
    }
    assert counts(match(case(rule, right, other, products=x @ x.T)))[3] == 1


def test_rounds_by_size_take_each_token_as_often_as_it_stands_for_patches() -> None:
    """0 and 2 join 1 first; then 1, who stands for three, and 3 are what 4 chooses of."""
    rule = {"name": "match", "form": "rounds", "merged": [2, 1], "by_size": True}
    x = np.array([[1.0, 0], [1, 0.02], [1, 0.01], [0, 1]])
    # (x0 + x1 + x2) / 3 lies 0.01 from the axis; each once it would be the same here, so the first join tells
    near = float(1 / np.sqrt(1 + 0.02**2))
    scores = [(1 - near) / 2, 4 + (1 - near) / 2 - 2, (1 - 0.99995) / 2, 4 + (1 - 0.02) / 2]
    right = {"indices": [3], "origin": [0, 0, 0, 0], "order": [1, 3, 1, 3], "scores": scores}
    assert counts(match(case(rule, right, right, products=x @ x.T)))[2:] == (0, 0)
    astray = {**right, "order": [3, 3, 1, 3]}
    assert counts(match(case(rule, right, astray, products=x @ x.T)))[3] == 1


def test_rounds_of_energy_judge_turns_and_into_which() -> None:
    rule = {"name": "match", "form": "energy", "merged": [1], "alpha": 1.0, "margin": 0.0}
    x = np.array([[1.0, 0], [0.8, 0.6], [0.6, 0.8]])
    pull = (x @ x.T).mean(axis=1)  # 1 is like both, 2 a little more like it than 0
    worth = [-pull[0], -pull[1], 4 - pull[2]]
    scores = [2 + (1 - pull[0]) / 2, (1 - pull[1]) / 2, 2 + (1 - pull[2]) / 2]
    right = {"indices": [0, 2], "origin": [0, 1, 1], "order": [0, 2, 2], "scores": scores, "worth": worth}
    assert counts(match(case(rule, right, right, products=x @ x.T)))[2:] == (0, 0)
    turned = {**right, "worth": [4 - pull[0], -pull[1], -pull[2]], "order": [0, 0, 2], "origin": [0, 0, 1]}
    assert match(case(rule, right, {**turned, "worth": [4 - 0.9, -0.95, -0.85]}, products=x @ x.T)).relative > 0.1
    assert match(case(rule, right, {**right, "order": [0, 1, 2]}, products=x @ x.T)).defects
    assert match(case(rule, right, {**right, "origin": [0, 0, 1]}, products=x @ x.T)).defects
    assert match(case(rule, right, {**right, "worth": [4 - pull[0], -pull[1], 4 - pull[2]]}, products=x @ x.T)).defects


def test_what_had_room_is_judged_by_room_and_by_score() -> None:
    rule = {"name": "spaced", "average": 0.0, "most": 0.5, "step": 0.2}
    shares = np.array([0.4, 0.3, 0.2, 0.1])

    def spread(picks: list[int], had: int) -> dict[str, Any]:
        scores = shares.copy()
        scores[picks[:had]] += 4
        scores[picks[had:]] += 2
        return {"indices": sorted(picks), "picks": picks, "scores": scores}

    # 0 wants .2 and leaves 4 and 9 room, 4 then wants .4 and leaves 9 room, and 1 at .1 from 0 never has any
    right = spread([0, 2, 3], 3)
    assert counts(spaced(case(rule, right, right, similarity=LINE, rank=[2.0])))[2:] == (0, 0)
    near = spread([0, 1, 2], 3)  # 1 has no room beside 0, and 4 none beside 1
    assert counts(spaced(case(rule, right, near, similarity=LINE, rank=[2.0])))[3] == 2
    lower = spread([0, 3, 2], 3)  # 9 before 4, which had room and a higher score
    assert counts(spaced(case(rule, right, lower, similarity=LINE, rank=[2.0])))[3] == 1
    filled = spread([0, 1, 2], 1)  # both 4 and 9 had room
    assert counts(spaced(case(rule, right, filled, similarity=LINE, rank=[2.0])))[3] > 0
    assert spaced(case(rule, right, spread([0, 2, 3], 2) | {"picks": [3, 0, 2]}, similarity=LINE, rank=[2.0])).defects


def test_the_room_that_is_wanted_grows_with_the_rank_over_the_average() -> None:
    rule = {"name": "spaced", "average": 1.0, "most": 2.0, "step": 0.1}  # of a rank of 2, so that 0 wants .2, as before
    scores = [4.4, 0.3, 4.2, 0.1]
    right = {"indices": [0, 2], "picks": [0, 2], "scores": scores}
    assert counts(spaced(case(rule, right, right, similarity=LINE, rank=[2.0])))[2:] == (0, 0)
    tight = {**rule, "average": 1e-3}  # nothing has room beside 0 then
    assert counts(spaced(case(tight, right, right, similarity=LINE, rank=[2.0])))[3] == 1


def test_a_basis_is_judged_and_then_what_it_leaves() -> None:
    """Patches at (1, 0), (0, 2), (3, 0) and (0, 1): the first explains the third, and nothing of the others."""
    rows = np.array([[1.0, 0], [0, 2], [3, 0], [0, 1]])
    rule = {"name": "match", "form": "basis", "basis": 1, "ridge": 0.0}

    def given(picks: list[int], **changes: Any) -> dict[str, Any]:
        scores = [0, 4 / 9, 0, 1 / 9]
        return {"indices": [1, 3], "picks": picks, "scores": scores, "origin": [0, 0, 0, 1], "order": [0, 1, 2, 0]} | (
            changes
        )

    right = given([1, 3])
    assert counts(match(case(rule, right, right, products=rows @ rows.T))) == (5, 5, 0, 0)
    other_body = given([3, 1], origin=[1, 0, 1, 1], order=[0, 0, 2, 3])
    assert counts(match(case(rule, right, other_body, products=rows @ rows.T)))[3] == 1
    assert match(case(rule, right, given([1, 3], order=[0, 1, 2, 3]), products=rows @ rows.T)).defects
    assert match(case(rule, right, given([1, 3], order=[2, 1, 2, 0]), products=rows @ rows.T)).defects


def test_anchors_are_judged_in_their_window() -> None:
    rule = {"name": "match", "form": "windows", "whole": True}
    quantities = {"window": [0, 0, 1, 1], "first": [3.0, 1, 1, 2], "similarity": LINE}
    right = {"indices": [0, 2, 3], "picks": [3, 0, 2], "scores": [2.1, 0.2, 0.3, 2.4], "origin": [0, 0, 1, 2]}
    assert counts(match(case(rule, right, right, **quantities))) == (4, 4, 0, 0)
    other = {"indices": [1, 2, 3], "picks": [3, 1, 2], "scores": [0.1, 2.2, 0.3, 2.4], "origin": [0, 0, 1, 2]}
    assert counts(match(case(rule, right, other, **quantities)))[3] == 1
    two_of_one = right | {"scores": [2.1, 0.2, 2.3, 2.4], "picks": [3, 2, 0]}
    assert match(case(rule, right, two_of_one, **quantities)).defects


def test_a_context_is_judged_and_then_what_it_attends_to() -> None:
    rule = {"name": "match", "form": "recycled", "recycled": 2, "threshold": 2.0}
    seen = [[0, 0.4, 0, 0], [0.1, 0.2, 0.3, 0.4], [0, 0.4, 0, 0], [0, 0.4, 0, 0]]  # .025 .35 .075 .1, mean .1375
    quantities = {"map": seen, "cell": [0, 0, 1, 1]}
    right = {
        "indices": [1, 2, 3],
        "picks": [3, 2, 1],
        "scores": [0.1, 2.2, 2.3, 4.4],
        "origin": [0, 0, 1, 2],
        "order": [0, 1, 0, 0],
    }
    assert counts(match(case(rule, right, right, **quantities))) == (7, 7, 0, 0)
    other_context = right | {"order": [0, 0, 1, 0], "scores": [0.0, 2.4, 2.0, 4.0]}
    assert counts(match(case(rule, right, other_context, **quantities)))[3] >= 1
    other_of_the_cell = right | {"indices": [0, 2, 3], "picks": [3, 2, 0], "scores": [2.1, 0.2, 2.3, 4.4]}
    assert counts(match(case(rule, right, other_of_the_cell, **quantities)))[3] == 1
    assert match(case(rule, right, right | {"origin": [2, 0, 1, 2]}, **quantities)).defects
