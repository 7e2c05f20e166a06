"""Zero-TPrune: importance is what important rows attend to, round by round."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeprune.errors import MethodError
from edgeprune.pruners.inside import Step
from edgeprune.pruners.inside.zero_tprune import Reducer
from tests.pruners.inside.conftest import HEADS, PATCHES, PREFIX, Agrees, Cases, Rows, highest, rows_at

MADE = Reducer().prepared(True, 6)


def formula(rows: Rows, image: int, rounds: int) -> NDArray[Any]:
    """[n]; the special token behind the patches has no part."""
    tokens = range(PREFIX + rows.count)
    squares = np.zeros(len(tokens))
    for head in range(HEADS):
        attention = rows.maps[rows.step.layer - 1][image, head]
        votes = [1 / len(tokens)] * len(tokens)
        votes[0] *= rows.count**0.5
        for _ in range(rounds):
            votes = [sum(votes[voter] * attention[voter, at] for voter in tokens) for at in tokens]
        squares += np.square(votes) / HEADS
    return np.asarray(np.sqrt(squares)[PREFIX:])


def test_it_agrees_with_the_official_form(cases: Cases, agrees: Agrees) -> None:
    for reducer in (MADE, Reducer(rounds=2)):
        for rows in cases():
            agrees(reducer, rows)
    agrees(MADE, rows_at(Step(2, 11), PATCHES, 0, has_cls=False))


@pytest.mark.parametrize("rounds", [1, 3])
def test_the_score_is_its_formula(cases: Cases, rounds: int) -> None:
    for rows in cases():
        chosen = Reducer(rounds=rounds).select(rows.step, rows.taps, {})
        for image in range(3):
            wanted = formula(rows, image, rounds)
            np.testing.assert_allclose(chosen.scores[image].numpy(), wanted, rtol=1e-4)
            assert chosen.rows[image].tolist() == highest(wanted, rows.step.keep)


def test_rounds_fall_with_the_depth() -> None:
    assert [MADE.rounds_at(Step(layer, 4)) for layer in range(1, 6)] == [30, 30, 5, 5, 1]  # type: ignore[attr-defined]
    assert Reducer(rounds=7, depth=6).rounds_at(Step(1, 4)) == 7


def test_fewer_than_no_rounds_are_refused() -> None:
    with pytest.raises(MethodError, match=r"option rounds of zero_tprune must be 1 or more, .* got -1"):
        Reducer(rounds=-1)
