"""Where the patches of an encoder's grid lie on an image, a sensor or a depth map, through the bundle's preprocessing.

    input = (x + border) * scaled / side - cut        of a point x of the image, along each of its two sides
    patch = floor(input / pixels)

border and side are those of the square that the image is put into the middle of, 0 and its own length where there is
none; scaled is what the side is resized to, cut what the centre crop takes off in front of it (less than 0 where it
adds zeros). All of it is whole numbers: a point on an edge is on the same side of it everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import ImageError, RequestError
from edgeprune.runtime.images.preprocess import Preprocessing

__all__ = ["Axis", "Patches"]


@dataclass(frozen=True)
class Axis:
    """One side of an image, and the patches along it; all but `count` in pixels."""

    length: int
    """of the image"""
    border: int
    """in front of the image in the square it is put into"""
    side: int
    """of that square; the length where there is none"""
    scaled: int
    """what that is resized to"""
    cut: int
    """off its front"""
    count: int
    """of patches"""
    pixels: int
    """of a patch, of what the encoder takes"""

    def shares(self) -> NDArray[np.float64]:
        """[count] float64 in 0..1, how much of each patch the image covers."""
        edges = np.arange(self.count + 1) * self._unit
        first, last = self._at(0), self._at(self.length)
        covered = np.minimum(edges[1:], last) - np.maximum(edges[:-1], first)
        shares: NDArray[np.float64] = np.maximum(covered, 0) / self._unit
        return shares

    def cells(self) -> NDArray[np.int64]:
        """[length] int64, the patch that the middle of each pixel of the image lies in, -1 where it lies in none."""
        patch = self._at(2 * np.arange(self.length) + 1, 2) // (2 * self._unit)
        return np.where((patch >= 0) & (patch < self.count), patch, -1)

    def touching(self, first: NDArray[np.int64], last: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
        """[M] int64 edges of spans of the image, the last exclusive -> the first patch that each has a part of, and the
        last exclusive, the same where it has a part of none."""
        first, last = np.clip(first, 0, self.length), np.clip(last, 0, self.length)
        low = np.clip(self._at(first) // self._unit, 0, self.count)
        high = np.clip(-(-self._at(last) // self._unit), 0, self.count)
        return low, np.where(last > first, np.maximum(low, high), low)

    def sampled(self) -> NDArray[np.int64]:
        """[count * pixels] int64, the nearest pixel of the image to each that the encoder takes, -1 for none."""
        twice = 2 * np.arange(self.count * self.pixels) + 1 + 2 * self.cut
        nearest = (twice * self.side - 2 * self.border * self.scaled) // (2 * self.scaled)
        return np.where((nearest >= 0) & (nearest < self.length), nearest, -1)

    @property
    def _unit(self) -> int:
        """A patch, in input pixels times side."""
        return self.pixels * self.side

    def _at(self, x: NDArray[np.int64] | int, parts: int = 1) -> NDArray[np.int64]:
        """Where a point of the image is in the input, in input pixels times side, of a point in parts of a pixel."""
        return np.asarray((x + parts * self.border) * self.scaled - parts * self.cut * self.side, np.int64)


@dataclass(frozen=True)
class Patches:
    """The N patches of a grid, in raster order, on images of one size."""

    rows: Axis
    columns: Axis

    @classmethod
    def of(
        cls,
        size: tuple[int, int],
        grid: tuple[int, int],
        preprocessing: Preprocessing,
        squared: bool = False,
        pixels: int | None = None,
    ) -> Patches:
        """
        size: (height, width) of the image, or of the sensor or depth map that sees just what the image shows
        grid: (rows, columns) of the encoder, `encoder.grid`; of a model that takes groups of patches, those of groups
        preprocessing: the bundle's, `encoder.preprocessing`
        squared: whether whoever gives the images puts them into the middle of a square first; size is that before it
        pixels: the side of a patch, of a group where the grid is of groups; None where the grid and the encoder's input
            leave no choice, as 27 patches of 384 pixels do not: 14, and a rest of 6 behind them

        Raises RequestError for an encoder of tiles (`of_tiles`), and for a grid that the encoder's input has not room
        for or that patches of several sizes would make; ImageError for a size that its preprocessing refuses.
        """
        if preprocessing.tiles is not None:
            raise RequestError("this encoder cuts images into tiles, each with its patches; use Patches.of_tiles")
        _check(size, grid)
        side, border = size, (0, 0)
        if squared or preprocessing.square is not None:
            longer = max(size)
            side, border = (longer, longer), ((longer - size[0]) // 2, (longer - size[1]) // 2)
        scaled, cut, room = preprocessing.resized(*side), (0, 0), preprocessing.size
        if preprocessing.crop is not None:
            cut = ((scaled[0] - preprocessing.crop[0]) // 2, (scaled[1] - preprocessing.crop[1]) // 2)
        elif scaled != room and not (preprocessing.pad and scaled[0] <= room[0] and scaled[1] <= room[1]):
            raise ImageError(
                f"images must be {room[0]}x{room[1]} (height x width) for this encoder; "
                f"got {scaled[0]}x{scaled[1]}; resize it first"
            )
        rows, columns = (
            Axis(size[at], border[at], side[at], scaled[at], cut[at], grid[at], _pixels(room[at], grid[at], pixels))
            for at in (0, 1)
        )
        return cls(rows, columns)

    @classmethod
    def of_tiles(
        cls, size: tuple[int, int], grid: tuple[int, int], preprocessing: Preprocessing, pixels: int | None = None
    ) -> list[Patches]:
        """Of the T tiles of one image, in the order in which the encoder takes them: the B of its inputs is T.

        size, grid, pixels: as of `of`; grid is that of a tile. Raises RequestError as it does, and where there are no
        tiles.
        """
        if preprocessing.tiles is None:
            raise RequestError("this encoder takes images whole; use Patches.of")
        _check(size, grid)
        every, room = [], preprocessing.size
        for scaled, cut in preprocessing.tiles.placed(size):
            rows, columns = (
                Axis(size[at], 0, size[at], scaled[at], cut[at], grid[at], _pixels(room[at], grid[at], pixels))
                for at in (0, 1)
            )
            every.append(cls(rows, columns))
        return every

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the images, pixels"""
        return self.rows.length, self.columns.length

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns)"""
        return self.rows.count, self.columns.count

    @property
    def count(self) -> int:
        """N"""
        return self.rows.count * self.columns.count

    def holding(self, x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.int64]:
        """[M] pixels of the image, none outside of it -> the patch of each in 0..N-1, -1 where it is cut off."""
        row, column = self.rows.cells()[y], self.columns.cells()[x]
        return np.where((row < 0) | (column < 0), -1, row * self.columns.count + column)


def _check(size: tuple[int, int], grid: tuple[int, int]) -> None:
    if min(*size, *grid) < 1:
        raise RequestError(f"an image and a grid must have a pixel and a patch at least, got {size} and {grid}")


def _pixels(room: int, count: int, given: int | None) -> int:
    """The side of a patch, of so many that fill that many pixels but for a rest smaller than one."""
    able = range(room // (count + 1) + 1, room // count + 1)
    if given is None and able and (room % count == 0 or len(able) == 1):
        return able[-1]
    if given is not None and given in able:
        return given
    if not able:
        raise RequestError(f"a grid must have room in the encoder's input; {count} patches have none in {room} pixels")
    what = "several sizes would" if given is None else f"{given} pixels do not"
    raise RequestError(
        f"patches must fill {room} pixels {count} times; those of {what}; give pixels, {able[0]}..{able[-1]}"
    )
