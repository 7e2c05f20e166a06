"""Pool: the grid is cut into exactly K cells, and a token is the mean of its cell."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeprune.pruners.pool import Method, cells
from edgeprune.taps import Taps


@pytest.mark.parametrize("grid", [(12, 12), (24, 24), (3, 7), (7, 3), (1, 9), (9, 1)], ids=str)
def test_every_budget_cuts_the_grid_into_that_many_cells(grid: tuple[int, int]) -> None:
    patches = grid[0] * grid[1]
    for keep in range(1, patches + 1):
        cell = cells(grid, keep)
        assert len(cell) == patches
        assert set(cell) == set(range(keep))


def test_64_tokens_of_24x24_are_cells_of_3x3() -> None:
    cell = np.array(cells((24, 24), 64)).reshape(8, 3, 8, 3)
    assert (cell == np.arange(64).reshape(8, 1, 8, 1)).all()


def test_a_budget_of_every_patch_averages_nothing() -> None:
    assert cells((5, 4), 20) == list(range(20))


def test_cells_are_rectangles_and_as_good_as_equal() -> None:
    for keep in (2, 7, 29, 64, 143):
        cell = np.array(cells((12, 12), keep)).reshape(12, 12)
        for one in range(keep):
            rows, columns = np.nonzero(cell == one)
            assert len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        sizes = np.bincount(cell.ravel())
        assert sizes.max() <= 4 * sizes.min()


def test_a_token_is_the_mean_of_its_cell() -> None:
    features = torch.randn(2, 36, 5)
    taps = Taps({}, features, torch.empty(0), (6, 6), 1, 1)
    chosen = Method(9).select(taps)
    assert chosen.merge is not None
    by_hand = features.view(2, 3, 2, 3, 2, 5).mean(dim=(2, 4)).flatten(1, 2)
    torch.testing.assert_close(chosen.merge @ features, by_hand)
    assert chosen.indices.tolist() == [[0, 2, 4, 12, 14, 16, 24, 26, 28]] * 2
    torch.testing.assert_close(chosen.scores, torch.full((2, 36), 0.25))
