"""Tiles of one image: the image whole, and cut up in more detail; and the order of what is kept of them.

AnyRes, of LLaVA-NeXT and OneVision:

    scale    = min(W / width, H / height)                        of each pinpoint (H, W) that has as many tiles as asked
    best     : min(scaled, given) pixels as many, W * H - that as few as can be; the first of equals
    tiles    = [image squeezed into one tile, tile (0, 0), tile (0, 1), ... of the image scaled to fit, zeros around it]
    order    = the tokens of the whole image, then those of the tiles by (tile row, row, tile column, column)

Squeezed, of InternVL:

    best     : |width / height - W / H| as small as can be; of equals the last one while width * height > W * H / 2
    tiles    = [tile (0, 0), tile (0, 1), ... of the image squeezed into W x H, image squeezed into one tile]
    order    = the tokens of the tiles one after the other, then those of the whole image

Squeezed, of Idefics 3 and SmolVLM (`longest`):

    scaled   : the longer side to `longest`, the other in proportion, rounded down and then up to an even number
    best     : that, each side up to whole tiles; where there is no such pinpoint, the nearest as above
    tiles    = [tile (0, 0), tile (0, 1), ... of the scaled image squeezed into W x H, all of that squeezed into one]

Squeezed, of LFM2-VL, without the whole image (`whole`), whose thumbnail has a shape of its own:

    best     : as InternVL's
    tiles    = [tile (0, 0), tile (0, 1), ... of the image squeezed into W x H]

Tiles are the bits that LlavaNextImageProcessorPil, LlavaOnevisionImageProcessorPil, GotOcr2ImageProcessorPil and
Idefics3ImageProcessorPil make where these choose as many, and Lfm2VlImageProcessor, by torch's resize (`resize.py`).
An image for which they would choose another number gets the best of those there are.

Paper   https://llava-vl.github.io/blog/2024-01-30-llava-next/, https://arxiv.org/abs/2404.16821
Source  huggingface/transformers@v5.23 image_processing_utils.py (select_best_resolution, get_patch_output_size),
        models/got_ocr2/image_processing_pil_got_ocr2.py (get_optimal_tiled_canvas, crop_image_to_patches),
        models/idefics3/image_processing_pil_idefics3.py (resize_for_vision_encoder, split_images),
        models/lfm2_vl/image_processing_lfm2_vl.py (crop_image_to_patches);
        Theia-4869/FasterVLM llava/model/llava_arch.py for the order
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeprune.errors import ModelError, RequestError
from edgeprune.runtime.images.resize import Resize

__all__ = ["Tiles", "packed"]


@dataclass(frozen=True)
class Tiles:
    """How many tiles there are, and the sizes that a whole image is scaled to fit, or squeezed, into for them."""

    count: int
    """T, the whole image among them where it is"""
    side: int
    """of a tile, pixels"""
    pinpoints: tuple[tuple[int, int], ...]
    """(height, width) each, T - 1 tiles in area, or T without the whole image; none where that is the only tile"""
    squeezed: bool = False
    """whether it is squeezed into the nearest shape, with the whole image last, and not fitted with zeros around it"""
    longest: int = 0
    """the longer side that an image is scaled to before it is squeezed; 0: it is not"""
    whole: bool = True
    """whether the whole image is one of the tiles"""

    def __post_init__(self) -> None:
        if self.count < 1 or (self._cut == 0) == bool(self.pinpoints):
            raise ValueError(f"{self.count} tiles do not go with {len(self.pinpoints)} pinpoints")
        if self.longest < 0 or (self.longest and not self.squeezed):
            raise ValueError(
                f"only tiles that are squeezed are of an image scaled to a longest side, got {self.longest}"
            )
        if not (self.whole or self.squeezed):
            raise ValueError("only tiles that are squeezed come without the whole image")
        if any(min(self.side, *one) < 1 or _tiles(one, self.side) != self._cut for one in self.pinpoints):
            raise ValueError(f"pinpoints must have {self._cut} tiles of {self.side} pixels, got {self.pinpoints}")

    @property
    def _cut(self) -> int:
        """Tiles that the image is cut into."""
        return self.count - self.whole

    @classmethod
    def among(
        cls,
        count: int,
        side: int,
        pinpoints: Iterable[tuple[int, int]],
        squeezed: bool = False,
        longest: int = 0,
        whole: bool = True,
    ) -> Tiles:
        """With those of the pinpoints that have as many tiles. Raises ModelError when none has.

        squeezed: where a single tile is no other than the whole image, which is not added to it
        """
        by_count: dict[int, list[tuple[int, int]]] = {1: []} if whole else {}
        for one in pinpoints:
            if (cut := _tiles(one, side)) and not (squeezed and cut == 1):
                by_count.setdefault(cut + whole, []).append(one)
        if count not in by_count:
            have = ", ".join(str(one) for one in sorted(by_count))
            raise ModelError(f"--tiles must be how many its image processor can make ({have}), got {count}")
        return cls(count, side, tuple(by_count[count]), squeezed, longest, whole)

    def to_json(self) -> dict[str, Any]:
        """`squeezed` and `longest` are there only where they are so, `whole` only where it is not."""
        fields = {"count": self.count, "pinpoints": [list(one) for one in self.pinpoints]}
        said = {"squeezed": self.squeezed, "longest": self.longest}
        rest = {} if self.whole else {"whole": False}
        return {**fields, **{name: value for name, value in said.items() if value}, **rest}

    @classmethod
    def from_json(cls, given: Mapping[str, Any], side: int) -> Tiles:
        """Raises ValueError, TypeError or KeyError."""
        pinpoints = tuple((int(height), int(width)) for height, width in given["pinpoints"])
        squeezed, longest = bool(given.get("squeezed", False)), int(given.get("longest", 0))
        if not isinstance(whole := given.get("whole", True), bool):
            raise ValueError(f"whole must be true or false, got {whole}")
        return cls(int(given["count"]), side, pinpoints, squeezed, longest, whole)

    def shape(self, size: tuple[int, int]) -> tuple[int, int]:
        """size: (height, width) of an image -> rows and columns of its tiles, (0, 0) where it stays whole."""
        height, width = self._best(*size)
        return height // self.side, width // self.side

    def placed(self, size: tuple[int, int]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
        """size: (height, width) of an image -> what it is resized to for each of its T tiles, and the tile's upper left
        corner on that, less than 0 where there are zeros in front; both (height, width), pixels, in the order of `cut`.
        """
        whole = [((self.side, self.side), (0, 0))] * self.whole
        if not self.pinpoints:
            return whole
        height, width = self._best(*size)
        fitted, (above, before) = self._fitted(size, height, width)
        corners = ((top, left) for top in range(0, height, self.side) for left in range(0, width, self.side))
        tiles = [(fitted, (top - above, left - before)) for top, left in corners]
        return tiles + whole if self.squeezed else whole + tiles

    def cut(self, image: Image.Image, resize: Resize) -> list[Image.Image]:
        """An RGB image -> its T tiles, the whole one, if any, first, or last where they are squeezed."""
        side = self.side
        height, width = self._best(image.height, image.width)
        if self.longest:
            image = resize(image, _scaled(image.height, image.width, self.longest))
            image = resize(image, (height or side, width or side))
        whole = [resize(image, (side, side))] if self.whole else []
        if not self.pinpoints:
            return whole
        corners = [(left, top) for top in range(0, height, side) for left in range(0, width, side)]
        canvas = self._canvas(image, height, width, resize)
        tiles = [canvas.crop((left, top, left + side, top + side)) for left, top in corners]
        return tiles + whole if self.squeezed else whole + tiles

    def _canvas(self, image: Image.Image, height: int, width: int, resize: Resize) -> Image.Image:
        """The image in the size that is cut up."""
        if self.longest:
            return image
        if self.squeezed:
            return resize(image, (height, width))
        fitted, (top, left) = self._fitted((image.height, image.width), height, width)
        padded = Image.new("RGB", (width, height))
        padded.paste(resize(image, fitted), (left, top))
        return padded

    def _fitted(self, size: tuple[int, int], height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """(height, width) of an image on the canvas that is cut up, and the zeros above it and to its left."""
        if self.squeezed:
            return (height, width), (0, 0)
        down, across = height / size[0], width / size[1]
        if across < down:
            fitted = (min(math.ceil(size[0] * across), height), width)
        else:
            fitted = (height, min(math.ceil(size[1] * down), width))
        return fitted, ((height - fitted[0]) // 2, (width - fitted[1]) // 2)

    def _best(self, height: int, width: int) -> tuple[int, int]:
        """The pinpoint for an image of this size; (0, 0) where there is none."""
        if self.squeezed:
            return self._nearest(height, width)

        def fit(pinpoint: tuple[int, int]) -> tuple[int, int]:
            scale = min(pinpoint[1] / width, pinpoint[0] / height)
            used = min(int(width * scale) * int(height * scale), width * height)
            return used, used - pinpoint[0] * pinpoint[1]

        return max(self.pinpoints, key=fit, default=(0, 0))

    def _nearest(self, height: int, width: int) -> tuple[int, int]:
        if self.longest and (own := self._whole(*_scaled(height, width, self.longest))) in self.pinpoints:
            return own
        best, least = (0, 0), math.inf
        for down, across in self.pinpoints:
            away = abs(width / height - across / down)
            if away < least or (away == least and width * height > 0.5 * down * across):
                best, least = (down, across), away
        return best

    def _whole(self, height: int, width: int) -> tuple[int, int]:
        """Up to whole tiles: the longer side first, the other in proportion to that."""
        ratio, side = width / height, self.side
        if width >= height:
            width = math.ceil(width / side) * side
            height = math.ceil(int(width / ratio) / side) * side
        else:
            height = math.ceil(height / side) * side
            width = math.ceil(int(height * ratio) / side) * side
        return height, width


def _scaled(height: int, width: int, longest: int) -> tuple[int, int]:
    """(height, width) with the longer side as long as that, rounded as transformers does."""
    ratio = width / height
    if width >= height:
        shorter = int(longest / ratio)
        return max(shorter + shorter % 2, 1), longest
    shorter = int(longest * ratio)
    return longest, max(shorter + shorter % 2, 1)


def packed(
    tokens: NDArray[Any],
    indices: NDArray[np.int32],
    grid: tuple[int, int],
    shape: tuple[int, int],
    squeezed: bool = False,
    whole: bool = True,
) -> NDArray[Any]:
    """What is kept of an image's tiles, in the order in which a language model reads it: -> [T * K, D].

    tokens: [T, K, D], indices: [T, K], as an encoder of tiles returns them; or [1, K, D] and [1, K] with indices into
        all T * N patches, tile after tile, of a method that makes one pool of them
    grid: rows and columns of the patches of a tile
    shape: rows and columns of the tiles (`Preprocessing.tile_shape`)
    squeezed: whether the tiles are InternVL's, which are read one after the other (`Tiles.squeezed`)
    whole: whether the whole image is one of them (`Tiles.whole`)

    Raises RequestError when these do not fit each other.
    """
    (rows, columns), (down, across) = grid, shape
    tiles, each = down * across + whole, rows * columns
    where = indices.astype(np.int64)
    if len(where) == tiles:
        where = where + each * np.arange(tiles)[:, None]
    if tokens.shape[:2] != where.shape or len(where) not in (1, tiles) or where.max() >= tiles * each:
        raise RequestError(
            f"tokens and indices must be those of {tiles} tiles of {rows}x{columns} patches, got {list(tokens.shape)} "
            f"and {list(indices.shape)}; give the tile shape of the same image"
        )
    tile, cell = np.divmod(where.ravel(), each)
    (tile_row, tile_column), (row, column) = np.divmod(tile - 1, max(across, 1)), np.divmod(cell, columns)
    if squeezed or not whole:
        return _rows(tokens, where.ravel())
    in_grid = (tile_row * rows + row) * across * columns + tile_column * columns + column
    place = np.where(tile == 0, cell, each + in_grid)
    return _rows(tokens, place)


def _rows(tokens: NDArray[Any], place: NDArray[np.int64]) -> NDArray[Any]:
    """[T, K, D] by their places."""
    ordered: NDArray[Any] = tokens.reshape(-1, tokens.shape[2])[np.argsort(place)]
    return ordered


def _tiles(size: tuple[int, int], side: int) -> int:
    """How many tiles a size is made of; 0 where some would not be whole."""
    return (size[0] // side) * (size[1] // side) if size[0] % side == size[1] % side == 0 else 0
