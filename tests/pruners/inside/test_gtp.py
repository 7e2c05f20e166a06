"""GTP: a dropped row hands shares of itself to its eight neighbours on the grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeprune.pruners.inside.gtp import Reducer
from tests.pruners.inside.conftest import GRID, HEADS, PREFIX, Agrees, Cases, Rows, highest

CLOSE: Any = {"rtol": 1e-4, "atol": 1e-6}


def ranks(rows: Rows, image: int) -> NDArray[Any]:
    last = rows.maps[rows.step.layer - 1][image]
    found = []
    for at in range(PREFIX, PREFIX + rows.count):
        itself = max(last[head, at, at] for head in range(HEADS))
        received = max(sum(last[head, query, at] for query in range(last.shape[1])) for head in range(HEADS))
        found.append(itself * received)
    return np.array(found)


def neighbours(place: int) -> list[int]:
    down, right = divmod(place, GRID[1])
    around = [(down + by, right + aside) for by in (-1, 0, 1) for aside in (-1, 0, 1) if (by, aside) != (0, 0)]
    return [y * GRID[1] + x for y, x in around if 0 <= y < GRID[0] and 0 <= x < GRID[1]]


def formula(rows: Rows, image: int, alpha: float) -> tuple[list[int], NDArray[Any], NDArray[Any]]:
    """The rows that go on, [K, n] of what they are made, [K] what they stand for."""
    names, size = rows.names[image].tolist(), rows.size[image]
    kept = highest(ranks(rows, image), rows.step.keep)
    weights = np.zeros((len(kept), rows.count))
    for at, row in enumerate(kept):
        weights[at, row] = 1
        for other in range(rows.count):
            if other not in kept and names[other] in neighbours(names[row]):
                degrees = len(neighbours(names[row])) * len(neighbours(names[other]))
                weights[at, other] = alpha / degrees**0.5
    return kept, weights, weights @ size[: rows.count]


def test_it_agrees_with_the_official_form(cases: Cases, agrees: Agrees) -> None:
    for rows in cases():
        agrees(Reducer(), rows)


@pytest.mark.parametrize("alpha", [0.1, 0.4])
def test_what_rows_are_made_of(cases: Cases, alpha: float) -> None:
    for rows in cases():
        chosen = Reducer(alpha=alpha).select(rows.step, rows.taps, {})
        assert chosen.weights is not None
        assert chosen.size is not None
        for image in range(3):
            kept, weights, size = formula(rows, image, alpha)
            assert chosen.rows[image].tolist() == kept
            np.testing.assert_allclose(chosen.scores[image].numpy(), ranks(rows, image), **CLOSE)
            np.testing.assert_allclose(chosen.weights[image].numpy(), weights, **CLOSE)
            np.testing.assert_allclose(chosen.size[image].numpy(), size, **CLOSE)
