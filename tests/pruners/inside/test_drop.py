"""Drop: the rows of the highest score, and nothing of the others."""

from __future__ import annotations

import pytest

from edgeprune.pruners.inside.drop import Reducer
from edgeprune.traits import SCORES
from tests.covering import always
from tests.pruners.inside.conftest import Agrees, Cases, highest
from tests.pruners.inside.test__scores import by_hand


@pytest.mark.parametrize("score", always(SCORES, *[*SCORES][:2]))
def test_it_agrees_with_the_official_form(cases: Cases, agrees: Agrees, score: str) -> None:
    for rows in cases():
        chosen = agrees(Reducer(score=score), rows)
        assert chosen.into is chosen.weights is chosen.size is None


@pytest.mark.parametrize("score", ["cls", "column", "keys"])
def test_the_highest_go_on(cases: Cases, score: str) -> None:
    for rows in cases():
        chosen = Reducer(score=score).select(rows.step, rows.taps, {}).rows
        for image in range(3):
            assert chosen[image].tolist() == highest(by_hand(score, rows, image), rows.step.keep)
