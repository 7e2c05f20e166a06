"""PiToMe: what is like many others merges, by turns of falling energy, and what is like few is left alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeprune.errors import RequestError
from edgeprune.pruners.inside import Step
from edgeprune.pruners.inside.pitome import Reducer
from tests.pruners.inside.conftest import PATCHES, Agrees, Cases, Rows, rows_at

DEPTH = 5
MADE = Reducer().prepared(True, DEPTH)


def energies(rows: Rows, image: int) -> NDArray[Any]:
    cosines, margin = rows.cosines()[image], 0.9 - 0.9 * rows.step.layer / DEPTH
    found = []
    for row in range(rows.count):
        pulls = [x if x >= margin else math.exp(x - margin) - 1 for x in cosines[row]]
        found.append(sum(pulls) / rows.count)
    return np.array(found)


def formula(rows: Rows, image: int) -> tuple[list[int], list[int], list[int]]:
    """The rows that go on, where each one goes, and those that others may join."""
    energy, cosines = energies(rows, image), rows.cosines()[image]
    merged = rows.count - rows.step.keep
    falling = sorted(range(rows.count), key=lambda row: -energy[row])[: 2 * merged]
    joining, taking = falling[0::2], falling[1::2]
    stays = [row for row in range(rows.count) if row not in joining]
    target = [max(taking, key=lambda b: cosines[row, b]) if row in joining else row for row in range(rows.count)]
    return stays, [stays.index(row) for row in target], taking


def test_it_agrees_with_the_official_form(cases: Cases, agrees: Agrees) -> None:
    for rows in cases():
        agrees(MADE, rows)


def test_every_other_row_of_the_highest_energy_joins_the_most_similar_of_the_rest(cases: Cases) -> None:
    for rows in cases():
        chosen = MADE.select(rows.step, rows.taps, {})
        assert chosen.into is not None
        for image in range(3):
            stays, into, taking = formula(rows, image)
            assert chosen.rows[image].tolist() == stays
            assert chosen.into[image].tolist() == into
            wanted = -energies(rows, image) + 4 * np.isin(np.arange(rows.count), taking)
            np.testing.assert_allclose(chosen.scores[image].numpy(), wanted, atol=1e-5)


def test_the_margin_falls_over_the_layers_that_it_is_told() -> None:
    assert MADE.rule(Step(1, 4))["margin"] == pytest.approx(0.72)
    assert Reducer(depth=24).prepared(True, DEPTH).rule(Step(8, 4))["margin"] == pytest.approx(0.6)


@pytest.mark.parametrize("form", ["select", "official"])
def test_more_than_half_of_the_rows_are_refused(form: str) -> None:
    rows = rows_at(Step(2, 9), PATCHES, 0)
    given = rows.taps if form == "select" else rows.eager
    with pytest.raises(RequestError, match="pitome merges up to half of the rows at a step, 20 to 10 or more, got 9"):
        getattr(MADE, form)(rows.step, given, {})
