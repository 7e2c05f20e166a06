"""The rule `forest`, with numbers that were worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeprune.runtime.parity.decisions import Chain
from edgeprune.runtime.parity.forest import forest
from tests.runtime.parity.test_rules import case, counts

RULE = {"name": "forest", "share": 0.5, "like": 0.5, "joins": 0.9, "times": 1.0}
RECEIVED = [6.0, 5.0, 2.0, 1.5, 6.0, 5.0, 4.0, 3.0]
"""of two frames of four patches in a row, of which the first two are each one's half: 0 and 1 are two that are alike"""
PLACE = [[frame, 0.0, at] for frame in range(2) for at in range(4)]


def cosines() -> np.ndarray:
    """0 and 1 are .6 alike; 4 is .97 like 0, 5 is .8 like 1 and .55 like 0; others are .1."""
    alike = np.full((8, 8), 0.1)
    for one, other, value in ((0, 1, 0.6), (0, 4, 0.97), (1, 5, 0.8), (0, 5, 0.55)):
        alike[one, other] = alike[other, one] = value
    np.fill_diagonal(alike, 1)
    return alike


def handed(went: dict[int, float], depth: dict[int, int], tree: dict[int, int], /, keep: int, **changes: Any) -> Any:
    """What a device hands out: the cosines at which roots went, the depths of what is deeper, trees that are not of
    the patch itself."""
    many = np.array(changes.get("many", [2, 2, 1, 1, 1, 1, 1, 1]))
    worth = np.array(changes.get("worth", RECEIVED))
    scores = worth / many / (worth / many).max() - 4
    for at, cosine in went.items():
        scores[at] = (1 - cosine) / 2
    for at, deep in depth.items():
        scores[at] = 1 - at / 8 - 2 * deep
    picks = np.argsort(-scores, kind="stable")[:keep]
    order = [*(tree.get(at, at) for at in range(8)), *(many - 1)]
    return {"indices": np.sort(picks), "picks": picks, "scores": scores, "order": order, "worth": worth}


WENT = {0: -1.0, 1: 0.6, 5: 0.8}
"""of the roots 0, 1 and 5 the pair of 1 and 5 is the most alike; then only 0 and 1 are left"""
RIGHT = WENT, {4: 1}, {4: 0}


def seen(got: dict[str, Any], place: list[list[float]] = PLACE) -> Chain:
    given = {"similarity": cosines(), "received": RECEIVED, "place": place}
    return forest(case(RULE, handed(*RIGHT, keep=3), got, **given))


def test_how_many_are_alike_halves_trees_and_when_roots_go_are_judged_apart() -> None:
    """8 patches with so many alike, 4 of the halves, 2 of the second half with a tree, 2 roots that went."""
    right = seen(handed(*RIGHT, keep=3))
    assert counts(right) == (16, 16, 0, 0)
    assert not right.defects
    assert right.relative == pytest.approx(0, abs=1e-5)
    filled = seen(handed(*RIGHT, keep=6))  # 6 and 7 are higher than 2 and 3
    assert counts(filled) == (18, 18, 0, 0)
    assert not filled.defects


@pytest.mark.parametrize(
    ("words", "given", "changes"),
    [
        ("0 is like 1 alone", RIGHT, {"many": [3, 2, 1, 1, 1, 1, 1, 1]}),
        ("0 is like 1 as well", RIGHT, {"many": [1, 2, 1, 1, 1, 1, 1, 1]}),
        ("5 is below .9", ({0: -1.0, 1: 0.6}, {4: 1, 5: 1}, {4: 0, 5: 1}), {}),
        ("4 is like 0", ({0: -1.0, 1: 0.6, 4: 0.97, 5: 0.8}, {}, {}), {}),
        ("4 is not like 1", (WENT, {4: 1}, {4: 1}), {}),
        ("1 goes after 5", ({0: -1.0, 1: 0.6, 5: 0.55}, {4: 1}, {4: 0}), {}),
    ],
)
def test_a_wrong_one_of_each_is_one_wrong_decision(words: str, given: Any, changes: dict[str, Any]) -> None:
    went, depth, tree = given
    chain = seen(handed(went, depth, tree, keep=3, **changes))
    assert counts(chain)[3] == 1, words
    assert not chain.defects


def test_a_half_that_is_not_the_highest_is_wrong() -> None:
    chain = seen(handed({0: -1.0, 1: 0.6, 6: 0.1}, *RIGHT[1:], keep=3))  # 6 in place of 5
    assert counts(chain)[3] == 1


def test_a_tree_out_of_reach_is_none() -> None:
    far = [[frame, 0.0, at + 3 * frame] for frame, _, at in PLACE]  # 4 would be 3 away from 0
    assert counts(seen(handed(*RIGHT, keep=3), far))[3] == 1


def test_what_the_device_received_and_the_cosines_at_which_roots_went_are_held_against_the_reference() -> None:
    assert seen(handed(*RIGHT, keep=3, worth=[6.5, *RECEIVED[1:]])).relative > 1e-2
    assert seen(handed({**WENT, 5: 0.9}, *RIGHT[1:], keep=3)).relative > 1e-2


def shifted(got: dict[str, Any], at: int, by: float) -> dict[str, Any]:
    scores = got["scores"].copy()
    scores[at] += by
    return {**got, "scores": scores}


def test_what_follows_from_the_devices_own_choices_is_no_decision() -> None:
    got = handed(*RIGHT, keep=3)
    misplaced = {
        "a patch of the first frame, or of no half, must be a tree of its own": handed(WENT, {4: 1}, {4: 0, 1: 0}, 3),
        "the scores must mark the depth of each patch in its tree": handed({**WENT, 4: 0.97}, {}, {4: 0}, 3),
        "of one depth the scores must fall from the first patch to the last": shifted(got, 4, 0.1),
        "the scores of what is in no half must be its part of the highest one's worth": shifted(got, 7, 0.1),
        "the scores must mark 2 patches of each frame": handed({**WENT, 2: 0.1}, *RIGHT[1:], 3),
        "order must have a tree and up to 4 like it of each patch": {**got, "order": [*range(8), *[4] * 8]},
    }
    for words, one in misplaced.items():
        assert words in seen(one).defects
