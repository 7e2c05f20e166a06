"""Uniform: one patch in the middle of each cell of the grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeprune.pruners import Eager
from edgeprune.pruners.pool import cells
from edgeprune.pruners.uniform import Method, middles
from edgeprune.taps import Taps


@pytest.mark.parametrize("grid", [(12, 12), (24, 24), (3, 7), (7, 3), (1, 9), (9, 1)], ids=str)
def test_each_cell_has_its_middle_and_they_ascend(grid: tuple[int, int]) -> None:
    for keep in range(1, grid[0] * grid[1] + 1, 1 if grid[0] < 20 else 37):
        found, cell = middles(grid, keep), np.array(cells(grid, keep)).reshape(grid)
        assert found == sorted(set(found))
        for one, patch in enumerate(found):
            rows, columns = np.nonzero(cell == one)
            assert patch == (rows[0] + rows[-1]) // 2 * grid[1] + (columns.min() + columns.max()) // 2


def test_64_of_24x24_are_the_middles_of_3x3() -> None:
    by_hand = [row * 24 + column for row in range(1, 24, 3) for column in range(1, 24, 3)]
    assert middles((24, 24), 64) == by_hand


def test_one_patch_is_the_middle_of_the_image() -> None:
    assert middles((5, 7), 1) == [17]


@pytest.mark.parametrize("grid", [(6, 6), (3, 7), (9, 1)], ids=str)
def test_both_forms_keep_the_middles_of_every_image(grid: tuple[int, int]) -> None:
    patches = grid[0] * grid[1]
    features = torch.zeros(2, patches, 4)
    for keep in range(1, patches + 1):
        static = Method(keep).select(Taps({}, features, torch.empty(0), grid, 1, 1))
        official = Method(keep).official(Eager([], features, torch.empty(0), grid, 1))
        for chosen in (static, official):
            assert chosen.indices.tolist() == [middles(grid, keep)] * 2
            assert (chosen.indices.dtype, chosen.scores.dtype) == (torch.int64, torch.float32)
            assert chosen.scores.nonzero()[:, 1].tolist() == middles(grid, keep) * 2
