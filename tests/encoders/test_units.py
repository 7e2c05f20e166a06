"""Tokens of several patches: their squares, and towers in which the patches of a token stand side by side."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders import Encoder
from edgeprune.encoders._units import check_squares, side_by_side, squares
from edgeprune.errors import ModelError

Made = Callable[[str], tuple[Path, Encoder]]


def test_a_square_has_its_patches_row_by_row() -> None:
    assert squares((3, 6), 3).tolist() == [[0, 1, 2, 6, 7, 8, 12, 13, 14], [3, 4, 5, 9, 10, 11, 15, 16, 17]]


def test_a_grid_that_makes_no_whole_squares_is_refused() -> None:
    check_squares("m", (4, 6), 2, "image_size")
    with pytest.raises(ModelError, match=r"m: a token is 4x4 patches, .* got 4x6; check image_size of its config.json"):
        check_squares("m", (4, 6), 4, "image_size")


def test_patches_in_another_order_become_the_same_features_in_that_order(made: Made) -> None:
    tower = encoders.load(open_checkpoint(str(made("siglip vision")[0]))).tower
    pixels, groups = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0)), squares((6, 6), 3)
    with torch.inference_mode():
        raster = tower.module(pixels).last_hidden_state
        assert side_by_side(tower, groups).tolist() == torch.arange(36).reshape(4, 9).tolist()
        for module in (tower.module, copy.deepcopy(tower.module)):
            found = module(pixels).last_hidden_state
            torch.testing.assert_close(found, raster[:, groups.flatten()], rtol=1e-4, atol=1e-4)
