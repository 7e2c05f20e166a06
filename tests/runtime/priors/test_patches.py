"""Where a patch lies on the image is asked of the preprocessing itself: an image whose colours are its coordinates."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeprune.errors import ImageError, RequestError
from edgeprune.runtime.images.preprocess import Preprocessing
from edgeprune.runtime.images.tiles import Tiles
from edgeprune.runtime.priors import Patches
from tests.runtime.priors.steps import KINDS, steps

PATCH = 14
SIZES = [(55, 83), (83, 57), (57, 57), (31, 107), (101, 33), (241, 173)]
"""odd: of an even length the middle of a pixel of the result may lie between two of the image, and either is nearest"""
CASES = [
    pytest.param(kind, size, id=f"{name} {size[0]}x{size[1]}")
    for (name, kind), size in product(KINDS.items(), [*SIZES, (56, 84)])
    if (kind.resize is None) == (size == (56, 84))
]


def coordinates(size: tuple[int, int]) -> NDArray[np.uint8]:
    """RGB, red the row, green the column, blue 255."""
    image = np.full((*size, 3), 255, np.uint8)
    image[..., 0], image[..., 1] = np.arange(size[0])[:, None], np.arange(size[1])
    return image


def grid_of(kind: Preprocessing) -> tuple[int, int]:
    return kind.size[0] // PATCH, kind.size[1] // PATCH


def shown(kind: Preprocessing, size: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row and column of the image of every pixel that lies in a patch, -1 where there is none."""
    pixels = kind.pixels(coordinates(size)).astype(np.int64)
    rows, columns = grid_of(kind)
    red, green, blue = np.moveaxis(pixels[: rows * PATCH, : columns * PATCH], -1, 0)
    return np.where(blue == 255, red, -1), np.where(blue == 255, green, -1)


@pytest.mark.parametrize(("kind", "size"), CASES)
def test_pixels_are_sampled_where_the_preprocessing_takes_them(kind: Preprocessing, size: tuple[int, int]) -> None:
    patches = Patches.of(size, grid_of(kind), kind, pixels=PATCH)
    row, column = patches.rows.sampled()[:, None], patches.columns.sampled()
    there = (row >= 0) & (column >= 0)
    theirs = shown(kind, size)
    assert there.any()
    np.testing.assert_array_equal(np.where(there, row, -1), theirs[0])
    np.testing.assert_array_equal(np.where(there, column, -1), theirs[1])


@pytest.mark.parametrize(("kind", "size"), CASES)
def test_an_event_falls_into_the_patch_that_shows_its_pixel(kind: Preprocessing, size: tuple[int, int]) -> None:
    """One of those, where the pixel became many. Only at an edge may none hold what is shown: its middle is cut off."""
    patches = Patches.of(size, grid_of(kind), kind, pixels=PATCH)
    rows, columns = shown(kind, size)
    down, along = np.indices(rows.shape) // PATCH
    cells = down * patches.grid[1] + along
    showing: dict[tuple[int, int], set[int]] = {}
    for row, column, cell in zip(rows.ravel().tolist(), columns.ravel().tolist(), cells.ravel().tolist(), strict=True):
        showing.setdefault((row, column), set()).add(cell)
    showing.pop((-1, -1), None)
    last, first = tuple(map(max, zip(*showing, strict=True))), tuple(map(min, zip(*showing, strict=True)))
    y, x = np.array([*showing]).T
    for ((row, column), shows), cell in zip(showing.items(), patches.holding(x, y).tolist(), strict=True):
        at_edge = row in (first[0], last[0]) or column in (first[1], last[1])
        assert cell in shows or (cell == -1 and at_edge)


@pytest.mark.parametrize(("kind", "size"), CASES)
def test_the_share_of_a_patch_is_that_of_its_pixels(kind: Preprocessing, size: tuple[int, int]) -> None:
    """To the pixel at each edge, where a nearest pixel is taken whole."""
    patches = Patches.of(size, grid_of(kind), kind, pixels=PATCH)
    row, column = patches.rows.sampled() >= 0, patches.columns.sampled() >= 0
    for axis, there in ((patches.rows, row), (patches.columns, column)):
        assert np.abs(axis.shares() - there.reshape(-1, PATCH).mean(axis=1)).max() <= 1 / PATCH


def test_a_block_touches_the_patches_that_it_has_a_part_of() -> None:
    """28 pixels squeezed to 56 in 4 patches: a patch is 7 pixels of the image."""
    axis = Patches.of((28, 28), (4, 4), steps((56, 56))).rows
    first = np.array([0, 6, 7, 0, -9, 26, 28, 3, -9])
    last = np.array([7, 8, 14, 28, 1, 40, 40, 3, -1])
    low, high = axis.touching(first, last)
    assert [list(range(*one)) for one in zip(low, high, strict=True)] == [
        [0], [0, 1], [1], [0, 1, 2, 3], [0], [3], [], [], []
    ]  # fmt: skip


def test_an_image_made_square_by_whoever_gives_it_is_one_that_the_preprocessing_makes_square() -> None:
    squares = KINDS["put into a square"]
    plain = replace(squares, square=None)
    assert Patches.of((31, 107), (4, 4), plain, squared=True) == Patches.of((31, 107), (4, 4), squares)
    assert Patches.of((31, 107), (4, 4), squares, squared=True) == Patches.of((31, 107), (4, 4), squares)


@pytest.mark.parametrize("size", [*SIZES, (21, 255)], ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize(("squeezed", "whole"), [(False, True), (True, True), (True, False)])
def test_the_patches_of_tiles_are_on_the_part_that_each_shows(
    squeezed: bool, whole: bool, size: tuple[int, int]
) -> None:
    """4 tiles of 56, 2 x 2, 1 x 4 or 4 x 1, and the whole image if it is one: with zeros around it, or squeezed."""
    pinpoints = [(112, 112), (56, 224), (224, 56)]
    kind = steps((56, 56), tiles=Tiles.among(4 + whole, 56, pinpoints, squeezed, whole=whole))
    every, cut = Patches.of_tiles(size, (4, 4), kind), kind.tiled_pixels(coordinates(size))
    assert len(every) == len(cut) == 4 + whole
    for patches, pixels in zip(every, cut, strict=True):
        row, column = patches.rows.sampled()[:, None], patches.columns.sampled()
        there = (row >= 0) & (column >= 0)
        np.testing.assert_array_equal(there, pixels[..., 2] == 255)
        np.testing.assert_array_equal(np.where(there, row, 0), pixels[..., 0])
        np.testing.assert_array_equal(np.where(there, column, 0), pixels[..., 1])


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_so_are_those_of_an_image_that_is_scaled_before_it_is_cut(size: tuple[int, int]) -> None:
    """Its longer side to 112 first: the nearest pixel of the nearest is off by what one step of that skips, at most."""
    kind = steps((56, 56), tiles=Tiles.among(5, 56, [(112, 112), (56, 224), (224, 56)], True, longest=112))
    off = -(-max(size) // 112)
    for patches, pixels in zip(
        Patches.of_tiles(size, (4, 4), kind), kind.tiled_pixels(coordinates(size)).astype(np.int64), strict=True
    ):
        assert np.abs(pixels[..., 0] - patches.rows.sampled()[:, None]).max() <= off
        assert np.abs(pixels[..., 1] - patches.columns.sampled()).max() <= off


def test_tiles_and_whole_images_are_asked_for_by_their_names() -> None:
    with pytest.raises(RequestError, match=r"cuts images into tiles, .* use Patches\.of_tiles"):
        Patches.of((40, 40), (4, 4), steps((56, 56), tiles=Tiles(2, 56, ((56, 56),))))
    with pytest.raises(RequestError, match=r"takes images whole; use Patches\.of$"):
        Patches.of_tiles((40, 40), (4, 4), steps((56, 56)))


def test_a_size_that_the_preprocessing_refuses_is_refused() -> None:
    with pytest.raises(ImageError, match=r"images must be 56x84 .* got 40x40; resize it first"):
        Patches.of((40, 40), (4, 6), KINDS["as it comes"])


def test_what_is_left_behind_the_last_patch_is_in_none() -> None:
    """SigLIP's 27 x 27 of 384 pixels: 14 each, and a rest of 6."""
    rows = Patches.of((384, 384), (27, 27), steps((384, 384))).rows
    assert rows.pixels == 14
    assert rows.cells()[[0, 13, 14, 377, 378, 383]].tolist() == [0, 0, 1, 26, -1, -1]


@pytest.mark.parametrize(
    ("size", "grid", "pixels", "said"),
    [
        ((0, 4), (4, 4), None, "a pixel and a patch at least"),
        ((9, 9), (57, 4), None, "57 patches have none in 56 pixels"),
        ((9, 9), (3, 4), None, "56 pixels 3 times; those of several sizes would; give pixels, 15..18"),
        ((9, 9), (4, 4), 15, "those of 15 pixels do not; give pixels, 12..14"),
    ],
)
def test_sizes_and_grids_that_cannot_be_are_refused(
    size: tuple[int, int], grid: tuple[int, int], pixels: int | None, said: str
) -> None:
    with pytest.raises(RequestError, match=said):
        Patches.of(size, grid, steps((56, 56)), pixels=pixels)
