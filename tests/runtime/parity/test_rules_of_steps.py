"""Each rule of a step inside the encoder by itself, on numbers worked by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgeprune.runtime.parity.decisions import Case, Chain
from edgeprune.runtime.parity.energy import TAKES, energy, unspent
from edgeprune.runtime.parity.halves import halves, unhalved
from edgeprune.runtime.parity.joins import joins, unjoined
from edgeprune.runtime.parity.pairs import pairs, unpaired
from edgeprune.runtime.parity.quadrants import quadrants, unquartered
from edgeprune.runtime.parity.topk import undropped

EPS = 2.0**-10
LINE = 1 - np.abs(np.subtract.outer(np.array([0, 1, 4, 9, 10]), np.array([0, 1, 4, 9, 10]))) / 10
"""cosines of five rows that stand on a line: 1 - cosine is a tenth of the distance"""


def case(reference: dict[str, Any], got: dict[str, Any], unseen: float = 0.0, **quantities: Any) -> Case:
    kinds = {"scores": np.float32}
    sides = [
        {name: np.array(value, kinds.get(name, np.int32)) for name, value in side.items()} for side in (reference, got)
    ]
    given = {name: np.array(one, np.float64) for name, one in quantities.items()}
    return Case(sides[0], sides[1], given, {"layer": 8, "margin": 0.45}, 1e-2, EPS, unseen)


def side(scores: Sequence[float], trail: Sequence[int], indices: Sequence[int]) -> dict[str, Any]:
    return {"scores": scores, "trail": trail, "indices": indices}


def counts(chain: Chain) -> tuple[int, int, int, int]:
    """decisions, decided, within rounding, wrong"""
    return len(chain.regret), chain.decided, chain.within, chain.wrong


SCORES = [1.0, 5.0, 2.0, 4.0, 3.0]
KEPT = side(SCORES, [0, 0, 0, 1, 1], [1, 3])
"""rows 1 and 3 go on; 0 and 2 are nearer to 1, and 4 to 3: .9 and .7 against .1 and .5, .9 against .1"""


def test_joins_judges_the_cut_and_then_who_joined_whom() -> None:
    assert counts(joins(case(KEPT, KEPT, similarity=LINE))) == (5, 5, 0, 0)
    other = side(SCORES, [0, 0, 1, 1, 1], [1, 3])  # row 2 joined row 3, .2 less like it
    chain = joins(case(KEPT, other, similarity=LINE))
    assert counts(chain) == (5, 4, 0, 1)
    assert chain.regret.max() == pytest.approx(0.2)
    assert counts(joins(case(KEPT, other, unseen=0.04, similarity=LINE))) == (5, 4, 1, 0)  # .2 <= 2 * 3 * .04
    cut = side(SCORES, [0, 0, 0, 1, 1], [1, 4])  # a worse row went on, and the better one joined it
    assert counts(joins(case(KEPT, cut, similarity=LINE)))[3] == 1
    assert not joins(case(KEPT, cut, similarity=LINE)).defects


def test_joins_refuses_what_is_no_merge() -> None:
    assert unjoined(case(KEPT, KEPT)) == []
    nowhere = side(SCORES, [-1, 0, 0, 1, 1], [1, 3])
    assert unjoined(case(KEPT, nowhere)) == ["a row that does not go on behind layer 8 must join one that does"]
    lower = side(SCORES, [0, 0, 0, 1, 1], [1, 4])
    assert unjoined(case(KEPT, lower)) == [
        "the rows that go on behind layer 8 must be those of the highest scores; they are not"
    ]


def test_joins_has_a_cut_alone_where_nothing_is_gone() -> None:
    every = side(SCORES, [0, 1, 2, 3, 4], [0, 1, 2, 3, 4])
    assert counts(joins(case(every, every, similarity=LINE))) == (5, 5, 0, 0)


def test_quadrants_judges_a_cut_and_takes_the_rest_for_geometry() -> None:
    places = [0, 0, 1, 2, 3]
    right = side(SCORES, [2, 0, 3, 1, 5, 2, 3, 4, 5], [1, 3])  # K + quadrant, and the four remains of an earlier step
    assert counts(quadrants(case(right, right, quadrant=places))) == (2, 2, 0, 0)
    worse = side(SCORES, [2, 0, 3, 4, 1, 2, 3, 4, 5], [1, 4])
    assert counts(quadrants(case(right, worse, quadrant=places))) == (2, 1, 0, 1)
    assert not quadrants(case(right, worse, quadrant=places)).defects


@pytest.mark.parametrize(
    "trail",
    [
        [3, 0, 3, 1, 5, 2, 3, 4, 5],  # row 0 in quadrant 1
        [-1, 0, 3, 1, 5, 2, 3, 4, 5],  # row 0 nowhere
        [2, 0, 3, 1, 5, 3, 2, 4, 5],  # earlier remains change places
        [0, 0, 3, 1, 5, 2, 3, 4, 5],  # row 0 joined one that goes on
    ],
)
def test_quadrants_refuses_a_row_in_another_one(trail: list[int]) -> None:
    right = side(SCORES, [2, 0, 3, 1, 5, 2, 3, 4, 5], [1, 3])
    refused = case(right, side(SCORES, trail, [1, 3]), quadrant=[0, 0, 1, 2, 3])
    assert quadrants(refused).defects
    assert bool(unquartered(refused)) == (trail[0] != 3)  # which of the quadrants it is, a trail alone does not say
    assert unquartered(case(right, right)) == []


ENERGIES = np.array([0.5, 0.9, 0.2, 0.7, 0.6])
"""by falling energy 1, 3, 4, 0, 2: with r = 2 rows 1 and 4 join, 3 and 0 take, and 2 stays as it is"""


def told(energies: Sequence[float] | np.ndarray, takes: Sequence[int]) -> list[float]:
    scores = -np.asarray(energies, float)
    scores[list(takes)] += TAKES
    return [float(one) for one in scores]


MERGED = side(told(ENERGIES, [0, 3]), [0, 0, 1, 2, 2], [0, 2, 3])
"""row 1 is nearer to 0 than to 3, .9 against .2, and row 4 to 3, .9 against 0"""


def test_energy_judges_each_pick_and_each_merge() -> None:
    assert counts(energy(case(MERGED, MERGED, similarity=LINE))) == (6, 6, 0, 0)
    other = side(told(ENERGIES, [0, 3]), [0, 2, 1, 2, 2], [0, 2, 3])  # row 1 joined row 3, .7 less like it
    chain = energy(case(MERGED, other, similarity=LINE))
    assert counts(chain) == (6, 5, 0, 1)
    assert chain.regret.max() == pytest.approx(0.7)


def test_energy_takes_turns_of_near_energies_for_rounding_and_of_far_ones_for_wrong() -> None:
    """Rows 4 and 3 change turns: 3 joins in place of 4. By the reference 4 came .1 too early, and 3 too late."""
    turned = np.array([0.5, 0.9, 0.2, 0.6, 0.7])
    other = side(told(turned, [0, 4]), [0, 0, 1, 2, 2], [0, 2, 4])
    chain = energy(case(MERGED, other, similarity=LINE))
    assert chain.error == pytest.approx(0.1)
    assert counts(chain)[2:] == (1, 0)  # .1 <= 2 * .1, the difference of the energies themselves
    lied = side(told(ENERGIES, [0, 4]), [0, 0, 1, 2, 2], [0, 2, 4])  # the same turns with the right energies
    assert counts(energy(case(MERGED, lied, similarity=LINE)))[3] > 0


def test_energy_forgives_what_a_cosine_at_the_margin_moves_and_no_more() -> None:
    """.45 / 5 = .09 for each cosine that stands there; of row 2 that with row 3, .5, is .05 away."""
    off = ENERGIES + np.array([0, 0, 0.09, 0, 0])
    moved = side(told(off, [0, 3]), [0, 0, 1, 2, 2], [0, 2, 3])
    assert energy(case(MERGED, moved, similarity=LINE)).relative == pytest.approx(0.1)
    assert energy(case(MERGED, moved, unseen=0.01, similarity=LINE)).relative == pytest.approx(0)  # .05 <= 2 * 3 * .01


@pytest.mark.parametrize(
    ("scores", "trail", "said"),
    [
        (told(ENERGIES, [0, 3, 2]), [0, 0, 1, 2, 2], "must mark 2 rows"),
        (told(ENERGIES, [0, 3]), [0, 1, 1, 2, 2], "one that takes others"),  # row 1 went to row 2
        (told(ENERGIES, [0, 3]), [0, -1, 1, 2, 2], "one that takes others"),
        (told([0.9, 0.5, 0.2, 0.7, 0.6], [0, 3]), [0, 0, 1, 2, 2], "in turns"),  # row 0 takes, before any joined
        (told([0.5, 0.9, 0.6, 0.7, 0.2], [0, 3]), [0, 0, 1, 2, 2], "in turns"),  # row 2 is alone, above row 4
    ],
)
def test_energy_refuses_what_is_no_step(scores: list[float], trail: list[int], said: str) -> None:
    (defect,) = unspent(case(MERGED, side(scores, trail, [0, 2, 3])))
    assert said in defect
    assert unspent(case(MERGED, MERGED)) == []


ALIKE = LINE[::2, 1::2]
PAIRED = side([0.1, 4.0, 0.3, 4.0, 0.1], [0, 0, 1, 2, 2], [1, 2, 3])
"""highest cosines of 0, 2, 4 with 1, 3: .9, .7, .9; rows 0 and 4 merge, the first into 1, the other into 3"""


def test_pairs_judges_which_even_rows_merge_and_into_which_odd_one() -> None:
    assert counts(pairs(case(PAIRED, PAIRED, alike=ALIKE))) == (4, 4, 0, 0)
    into = side(PAIRED["scores"], [2, 0, 1, 2, 2], [1, 2, 3])
    chain = pairs(case(PAIRED, into, alike=ALIKE))
    assert counts(chain)[3] == 1
    assert chain.regret.max() == pytest.approx(0.8)  # .9 with row 1, .1 with row 3
    which = side(PAIRED["scores"], [0, 0, 0, 1, 2], [1, 3, 4])  # row 2 merged in place of row 4
    assert counts(pairs(case(PAIRED, which, alike=ALIKE)))[3] == 1


def test_the_error_of_pairs_is_that_of_cosines_and_not_of_the_score_of_what_takes() -> None:
    off = side([0.11, 4.0, 0.3, 4.0, 0.1], PAIRED["trail"], PAIRED["indices"])
    chain = pairs(case(PAIRED, off, alike=ALIKE))
    assert chain.relative == pytest.approx(0.01)


def test_pairs_takes_merges_of_near_cosines_for_rounding() -> None:
    """Rows 0 and 2 merge. By the reference row 4 is .005 more like an odd row than 2, and its score is .015 off."""
    merged = [0, 0, 0, 1, 2], [1, 3, 4]
    near, other = side([0.11, 4.0, 0.12, 4.0, 0.13], *merged), side([0.11, 4.0, 0.12, 4.0, 0.115], *merged)
    assert counts(pairs(case(other, near, alike=ALIKE)))[2:] == (1, 0)
    assert counts(pairs(case(near, near, alike=ALIKE)))[2:] == (0, 0)


@pytest.mark.parametrize(
    ("scores", "trail", "indices", "said"),
    [
        ([0.1, 3.9, 0.3, 4.0, 0.1], [0, 0, 1, 2, 2], [1, 2, 3], "must be 4 at odd places"),
        ([0.1, 4.0, 0.3, 4.0, 0.1], [0, 0, 1, 0, 2], [1, 2, 4], "at an odd place must go on"),
        ([0.1, 4.0, 0.3, 4.0, 0.1], [1, 0, 1, 2, 2], [1, 2, 3], "must join one at an odd place"),
        ([0.1, 4.0, 0.3, 4.0, 0.1], [-1, 0, 1, 2, 2], [1, 2, 3], "must join one at an odd place"),
        ([0.1, 4.0, 0.3, 4.0, 0.1], [0, 0, 0, 1, 2], [1, 3, 4], "of the highest scores"),
    ],
)
def test_pairs_refuses_what_tome_never_does(
    scores: list[float], trail: list[int], indices: list[int], said: str
) -> None:
    (defect,) = unpaired(case(PAIRED, side(scores, trail, indices)))
    assert said in defect
    assert unpaired(case(PAIRED, PAIRED)) == []


@pytest.mark.parametrize(
    ("trail", "indices", "said"),
    [([-1, 0, 0, 1, -1], [1, 3], "must be gone"), ([-1, 0, -1, -1, 1], [1, 4], "of the highest scores")],
)
def test_dropping_refuses_a_merge_and_a_cut_that_is_not_of_its_own_scores(
    trail: list[int], indices: list[int], said: str
) -> None:
    right = side(SCORES, [-1, 0, -1, 1, -1], [1, 3])
    assert undropped(case(right, right)) == []
    (defect,) = undropped(case(right, side(SCORES, trail, indices)))
    assert said in defect


FIRST = [0.1, 0.5, 0.2, 0.6, 0.3]
"""by falling importance 3, 1, 4, 2, 0: rows 0 and 2 are the less important half of five"""
HALVED = side([-3.9, 0.4, 0.3, 0.5, 0.2], [-1, 0, 1, 2, -1], [1, 2, 3])
"""of the two rows that the step drops one is gone for being similar: row 0 is .9 like row 1, row 2 .7; of the rest row
4 is the lowest"""


def halved(got: dict[str, Any], first: Sequence[float] = FIRST, **others: Any) -> Case:
    return replace(case(HALVED, got, first=first, similarity=LINE, **others), rule={"layer": 8, "similar": 0.5})


def test_halves_judges_the_half_then_who_is_like_another_then_the_rest() -> None:
    assert counts(halves(halved(HALVED))) == (5, 5, 0, 0)
    less_like = side([0.1, 0.4, -3.7, 0.5, 0.2], [-1, 0, -1, 1, 2], [1, 3, 4])  # .2 less like one of B than row 0
    chain = halves(halved(less_like))
    assert counts(chain) == (5, 1, 0, 1)  # behind it nothing is said of the rest
    assert chain.regret.max() == pytest.approx(0.2)
    assert counts(halves(halved(less_like, unseen=0.04)))[2:] == (1, 0)  # .2 <= 2 * 3 * .04
    important = side([0.1, 0.4, 0.3, 0.5, -4], [-1, 0, 1, 2, -1], [1, 2, 3])  # row 4, of the other half
    chain = halves(halved(important))
    assert chain.wrong == 1
    assert chain.regret.max() == pytest.approx(0.1)  # .3 is .1 above row 2, the most important of its half
    lower = side([-3.9, 0.4, 0.3, 0.5, 0.35], [-1, 0, -1, 1, 2], [1, 3, 4])  # row 4 in place of row 2
    chain = halves(halved(lower))
    assert chain.error == pytest.approx(0.15)
    assert counts(halves(halved(side([-3.9, 0.4, 0.3, 0.5, 0.2], [-1, 0, -1, 1, 2], [1, 3, 4]))))[3] == 1


def test_halves_leaves_open_what_hangs_on_a_row_where_the_halves_part() -> None:
    """Rows 2 and 4 are equally important: either may be of the half that row 0 and the other are compared with."""
    near = [0.1, 0.5, 0.3, 0.6, 0.3001]
    assert counts(halves(halved(HALVED, near))) == (5, 4, 0, 0)  # row 4, were it of A, is as like row 3 as 0 is like 1
    other = side([0.1, 0.4, 0.3, 0.5, -4.0], [-1, 0, 1, 2, -1], [1, 2, 3])  # row 4 is .9 like row 3
    chain = halves(halved(other, near, unseen=0.001))
    assert counts(chain) == (5, 0, 1, 0)


def test_halves_measures_the_cosines_that_a_device_says() -> None:
    said = side([-3.8, 0.4, 0.3, 0.5, 0.2], [-1, 0, 1, 2, -1], [1, 2, 3])  # .8, and it is .9
    assert halves(halved(said)).relative == pytest.approx(0.1)


def test_halves_refuses_another_number_of_similar_rows() -> None:
    assert unhalved(halved(HALVED)) == []
    none = side([0.1, 0.4, 0.3, 0.5, 0.2], [-1, 0, 1, 2, -1], [1, 2, 3])
    assert unhalved(halved(none)) == ["1 rows must be gone for being similar behind layer 8, got 0"]
    joined = side([-3.9, 0.4, 0.3, 0.5, 0.2], [0, 0, 1, 2, -1], [1, 2, 3])
    assert "must be gone" in unhalved(halved(joined))[0]
