"""Adaptive Sparse ViT: [CLS]'s attention, each head as much as it gives the row."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.pruners.inside.adaptive_sparse import Reducer
from tests.pruners.inside.conftest import HEADS, PREFIX, Agrees, Cases, Rows, highest


def formula(rows: Rows, image: int) -> NDArray[Any]:
    """[n]; what the special token behind the patches gives is left out."""
    layer, tokens = rows.step.layer - 1, range(PREFIX + rows.count)
    attention, values = rows.maps[layer][image], rows.values[layer][image]
    found = []
    for row in tokens[PREFIX:]:
        gives = [
            np.linalg.norm(sum(attention[head, row, at] * values[head, at] for at in tokens)) for head in range(HEADS)
        ]
        found.append(sum(attention[head, 0, row] * gives[head] for head in range(HEADS)) / sum(gives))
    return np.array(found)


def test_it_agrees_with_the_official_form(cases: Cases, agrees: Agrees) -> None:
    for rows in cases():
        agrees(Reducer(), rows)


def test_the_score_is_its_formula(cases: Cases) -> None:
    for rows in cases():
        chosen = Reducer().select(rows.step, rows.taps, {})
        for image in range(3):
            np.testing.assert_allclose(chosen.scores[image].numpy(), formula(rows, image), rtol=1e-4)
            assert chosen.rows[image].tolist() == highest(formula(rows, image), rows.step.keep)
