"""Cells: what is dropped of each quadrant of the grid becomes one row, which stays there and never leaves."""

from __future__ import annotations

import pytest
import torch

from edgeprune.pruners.inside import Step
from edgeprune.pruners.inside.cells import Reducer, _quadrant
from edgeprune.traits import SCORES
from tests.covering import always
from tests.pruners.inside.conftest import GRID, PATCHES, Agrees, Cases, Rows, highest, rows_at
from tests.pruners.inside.test__scores import by_hand


def formula(rows: Rows, image: int) -> list[int]:
    """Where each row of one image goes, by the grid drawn out: 4 rows of 5, whose left half has three columns."""
    drawn = ["00011", "00011", "22233", "22233"]
    kept = highest(by_hand("cls", rows, image), rows.step.keep)
    into = []
    for row in range(rows.count):
        place = int(rows.names[image, row])
        into.append(kept.index(row) if row in kept else rows.step.keep + int(drawn[place // 5][place % 5]))
    return [*into, *(rows.step.keep + quadrant for quadrant in range(rows.hidden))]


@pytest.mark.parametrize("score", always(SCORES, *[*SCORES][:2]))
def test_it_agrees_with_the_official_form(cases: Cases, agrees: Agrees, score: str) -> None:
    for rows in cases(hidden=4):
        agrees(Reducer(score=score), rows)


def test_dropped_rows_go_to_the_remains_of_their_quadrant(cases: Cases) -> None:
    for rows in cases(hidden=4):
        into = Reducer().select(rows.step, rows.taps, {}).into
        assert into is not None
        assert into.tolist() == [formula(rows, image) for image in range(3)]


def test_four_rows_are_attended_to_only() -> None:
    rows = rows_at(Step(2, 11), PATCHES, 0)
    chosen = Reducer().select(rows.step, rows.taps, {})
    assert chosen.hidden == 4
    assert chosen.rows.shape == (3, 11)
    assert chosen.scores.shape == (3, PATCHES)


def test_a_quadrant_of_which_nothing_is_dropped_changes_no_shape(agrees: Agrees) -> None:
    """19 of 20 go on: three of the four have no member."""
    chosen = agrees(Reducer(), rows_at(Step(2, 19), PATCHES, 0))
    assert chosen.into is not None
    assert [len({at for at in image if at >= 19}) for image in chosen.into.tolist()] == [1, 1, 1]


def test_quadrants_of_an_even_and_of_an_odd_grid() -> None:
    assert [_quadrant(at, (2, 4)) for at in range(8)] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [_quadrant(at, (1, 3)) for at in range(3)] == [0, 0, 1]
    for grid in (GRID, (3, 3), (2, 2), (24, 24)):
        assert {_quadrant(at, grid) for at in range(grid[0] * grid[1])} == {0, 1, 2, 3}


def test_what_a_step_says_for_parity_is_the_quadrant_of_each_row() -> None:
    rows = rows_at(Step(4, 9), 13, 1, hidden=4)
    said = Reducer().official(rows.step, rows.eager, {}).quantities["quadrant"]
    assert torch.equal(said, torch.tensor([[_quadrant(int(at), GRID) for at in image] for image in rows.names]).float())
