"""A patch is masked when more of it is padding than may be."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeprune.errors import RequestError
from edgeprune.runtime.priors import Patches, letterbox
from edgeprune.weighting import unpadded
from tests.runtime.priors.steps import steps

SIDE = 336
GRID = (24, 24)
LLAVA = steps((SIDE, SIDE), square=(122, 116, 104))
SIZES = [(480, 640), (640, 480), (360, 640), (336, 336), (427, 641), (1, 1001), (100, 640), (1080, 1920), (500, 374)]


def official(width: int, height: int, threshold: float, count: int = GRID[0]) -> NDArray[np.float32]:
    """generate_pad_mask's formula: the padded area of each patch of a square of 336 pixels, against a threshold."""
    longer = max(width, height)
    edges = np.arange(count + 1) * (SIDE // count)

    def shown(length: int) -> NDArray[np.float64]:
        pad = (longer - length) / (2 * longer) * SIDE
        covered = np.minimum(edges[1:], SIDE - pad) - np.maximum(edges[:-1], pad)
        return np.asarray(np.maximum(covered, 0), np.float64)

    padded = 1 - shown(height)[:, None] * shown(width) / (SIDE // count) ** 2
    return (padded <= threshold).astype(np.float32)


@pytest.mark.parametrize("share", [0.5, 0.3, 0.01])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_the_mask_is_the_official_one(size: tuple[int, int], share: float) -> None:
    mask = letterbox(Patches.of(size, GRID, LLAVA), share)
    assert mask.dtype == np.float32
    np.testing.assert_array_equal(mask.reshape(GRID), official(size[1], size[0], share))


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_it_is_what_an_export_for_one_size_has_built_in(size: tuple[int, int]) -> None:
    np.testing.assert_array_equal(letterbox(Patches.of(size, GRID, LLAVA)), unpadded(GRID, size).numpy())


def test_half_a_patch_of_padding_is_not_more_than_half() -> None:
    """480 x 640 has 80 rows of padding above, half of one of 4 patches of 160."""
    patches = Patches.of((480, 640), (4, 4), steps((64, 64), square=(0, 0, 0)))
    assert letterbox(patches).tolist() == [1] * 16
    assert letterbox(patches, 0.49).reshape(4, 4)[:, 0].tolist() == [0, 1, 1, 0]


def test_an_image_that_is_squeezed_has_no_padding() -> None:
    assert letterbox(Patches.of((480, 640), GRID, steps((SIDE, SIDE))), 0).min() == 1


def test_an_image_that_was_made_square_before_has_padding_all_the_same() -> None:
    patches = Patches.of((480, 640), GRID, steps((SIDE, SIDE)), squared=True)
    np.testing.assert_array_equal(letterbox(patches).reshape(GRID), official(640, 480, 0.5))


def test_what_lies_behind_an_image_in_the_corner_is_padding() -> None:
    """20 x 40 fitted into 64 x 64 is 32 x 64, the upper half."""
    corner = steps((64, 64), resize={"max_height": 64, "max_width": 64}, pad=True)
    assert letterbox(Patches.of((20, 40), (4, 4), corner)).reshape(4, 4)[:, 0].tolist() == [1, 1, 0, 0]


def test_zeros_that_a_crop_adds_are_padding() -> None:
    """32 pixels in the middle of 64: one patch of zeros on either side."""
    crop = steps((64, 64), resize={"shortest_edge": 32}, crop=(64, 64))
    assert letterbox(Patches.of((10, 10), (4, 4), crop)).reshape(4, 4)[1].tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_is_one(share: float) -> None:
    with pytest.raises(RequestError, match=r"must be in 0\.\.1"):
        letterbox(Patches.of((480, 640), GRID, LLAVA), share)
