"""Token Transforming: every row is shared out among those that go on, and nothing of it is lost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeprune.errors import MethodError
from edgeprune.pruners.inside.token_transforming import Reducer
from edgeprune.traits import SCORES
from tests.covering import always
from tests.pruners.inside.conftest import Agrees, Cases, Rows, highest
from tests.pruners.inside.test__scores import by_hand

CLOSE: Any = {"rtol": 1e-4, "atol": 1e-6}


def formula(rows: Rows, image: int, temperature: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """[K, n] of what rows are made, and [K] what they stand for."""
    kept, cosines = highest(by_hand("cls", rows, image), rows.step.keep), rows.cosines()[image]
    parts = np.zeros((len(kept), rows.count))
    for row in range(rows.count):
        pulls = np.exp([cosines[at, row] / temperature for at in kept])
        parts[:, row] = pulls / pulls.sum() * rows.size[image, row]
    return parts / parts.sum(axis=1, keepdims=True), parts.sum(axis=1)


@pytest.mark.parametrize("score", always(SCORES, *[*SCORES][:2]))
def test_it_agrees_with_the_official_form(cases: Cases, agrees: Agrees, score: str) -> None:
    for rows in cases():
        agrees(Reducer(score=score), rows)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_what_rows_are_made_of_and_stand_for(cases: Cases, temperature: float) -> None:
    for rows in cases():
        chosen = Reducer(temperature=temperature).select(rows.step, rows.taps, {})
        assert chosen.weights is not None
        assert chosen.size is not None
        for image in range(3):
            weights, size = formula(rows, image, temperature)
            np.testing.assert_allclose(chosen.weights[image].numpy(), weights, **CLOSE)
            np.testing.assert_allclose(chosen.size[image].numpy(), size, **CLOSE)
            assert size.sum() == pytest.approx(rows.size[image, : rows.count].sum())


def test_a_cold_one_is_the_merge_with_the_nearest(cases: Cases) -> None:
    from edgeprune.pruners.inside import nearest

    for rows in cases():
        cold = Reducer(temperature=1e-4).select(rows.step, rows.taps, {})
        near = nearest.Reducer().select(rows.step, rows.taps, {})
        assert cold.into is not None
        assert near.into is not None
        assert cold.into.tolist() == near.into.tolist()
        assert cold.weights is not None
        went = cold.weights.argmax(dim=1)
        assert (went == near.into).float().mean() > 0.9  # but for ties of cosines, every row is of one


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_of_nothing_is_refused(temperature: float) -> None:
    with pytest.raises(MethodError, match=f"temperature of token_transforming must be above 0, .* got {temperature:g}"):
        Reducer(temperature=temperature)
