"""Zero-TPrune: importance is what important rows attend to, round by round; like rows go first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeprune.errors import MethodError, RequestError
from edgeprune.pruners.inside import Step
from edgeprune.pruners.inside.zero_tprune import Reducer
from tests.pruners.inside.conftest import HEADS, PATCHES, PREFIX, Agrees, Cases, Rows, highest, rows_at

MADE = Reducer().prepared(True, 6)


def importance(rows: Rows, image: int, rounds: int, left: Sequence[int], filtered: bool) -> dict[int, float]:
    """row -> importance among those that are left; the special token behind the patches has no part."""
    tokens = [*range(PREFIX), *(PREFIX + row for row in left)]
    squares, weights = np.zeros(len(left)), 0.0
    for head in range(HEADS):
        attention = rows.maps[rows.step.layer - 1][image, head]
        votes = dict.fromkeys(tokens, 1 / len(tokens))
        votes[0] *= len(left) ** 0.5
        for _ in range(rounds):
            votes = {at: sum(votes[voter] * attention[voter, at] for voter in tokens) for at in tokens}
        own = np.array([votes[PREFIX + row] for row in left])
        varies = own.var() / own.mean() ** 2
        weight = min(varies / 0.001 - 10, 10 - varies / 0.07) + 0.5 if filtered else 1.0
        squares += min(1.0, max(0.001, weight)) * own**2
        weights += min(1.0, max(0.001, weight))
    return dict(zip(left, np.sqrt(squares / weights), strict=True))


def formula(rows: Rows, image: int, rounds: int, similar: float, filtered: bool) -> NDArray[Any]:
    """[n]"""
    every = list(range(rows.count))
    gone: dict[int, float] = {}
    if removed := int(similar * (rows.count - rows.step.keep)):
        first = importance(rows, image, 1, every, filtered)
        rising = sorted(every, key=lambda row: first[row])
        less, more = rising[: rows.count // 2], rising[rows.count // 2 :]
        closest = {a: max(rows.cosines()[image, a, b] for b in more) for a in less}
        gone = {a: closest[a] for a in sorted(less, key=lambda a: -closest[a])[:removed]}
    left = importance(rows, image, rounds, [row for row in every if row not in gone], filtered)
    return np.array([-3 - gone[row] if row in gone else left[row] for row in every])


def test_it_agrees_with_the_official_form(cases: Cases, agrees: Agrees) -> None:
    for reducer in (MADE, Reducer(rounds=2), Reducer(rounds=2, similar=1.0, filter=False), Reducer(similar=0.0)):
        for rows in cases():
            agrees(reducer, rows)
    agrees(MADE, rows_at(Step(2, 11), PATCHES, 0, has_cls=False))


@pytest.mark.parametrize(
    ("rounds", "similar", "filtered"), [(1, 0.0, False), (3, 0.0, True), (1, 0.5, True), (2, 1, True)]
)
def test_the_score_is_its_formula(cases: Cases, rounds: int, similar: float, filtered: bool) -> None:
    for rows in cases():
        chosen = Reducer(rounds=rounds, similar=similar, filter=filtered).select(rows.step, rows.taps, {})
        for image in range(3):
            wanted = formula(rows, image, rounds, similar, filtered)
            np.testing.assert_allclose(chosen.scores[image].numpy(), wanted, rtol=1e-4)
            assert chosen.rows[image].tolist() == highest(wanted, rows.step.keep)


def test_heads_count_alike_where_all_of_them_vary_too_much(cases: Cases) -> None:
    rows = next(cases())
    for seen in rows.taps.attention.values():
        seen.key.mul_(40)  # each row attends to one
    filtered, plain = (
        Reducer(rounds=1, similar=0.0, filter=one).select(rows.step, rows.taps, {}).scores for one in (True, False)
    )
    np.testing.assert_allclose(filtered.numpy(), plain.numpy(), rtol=1e-5)


def test_rounds_fall_with_the_depth() -> None:
    assert [MADE.rounds_at(Step(layer, 4)) for layer in range(1, 6)] == [30, 30, 5, 5, 1]  # type: ignore[attr-defined]
    assert Reducer(rounds=7, depth=6).rounds_at(Step(1, 4)) == 7


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rounds": -1}, "option rounds of zero_tprune must be 1 or more, .* got -1"),
        ({"similar": 1.5}, r"option similar of zero_tprune must be in 0..1, got 1.5"),
        ({"similar": float("nan")}, r"option similar of zero_tprune must be in 0..1, got nan"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(MethodError, match=said):
        Reducer(**options)


@pytest.mark.parametrize("form", ["select", "official"])
def test_more_similar_rows_than_half_are_refused(form: str) -> None:
    rows = rows_at(Step(2, 5), PATCHES, 0)
    given = rows.taps if form == "select" else rows.eager
    with pytest.raises(RequestError, match="up to half of the rows for being similar, 10 of 20, got 15 behind layer 2"):
        getattr(Reducer(similar=1.0), form)(rows.step, given, {})
