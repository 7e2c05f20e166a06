"""An image to pixel_values, as the CLIP image processor of transformers 5 (PIL backend) makes them. No torch.

    RGB -> square -> resize -> centre crop (zeros around what is too small) -> x * rescale -> (x - mean) / std
    RGB -> tiles   -> x * rescale -> (x - mean) / std                      of one image (`tiles.py`)

The result is bit for bit that of `CLIPImageProcessorPil`: the resize is Pillow's, on uint8, or torch's where the
processor knows no other (`resize.py`), and the arithmetic that follows has only 256 inputs per channel, so it is done
once, into a table.

Source  huggingface/transformers@v5.23 models/clip/image_processing_pil_clip.py, image_transforms.py, image_utils.py
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from edgeprune.errors import BundleError, ImageError
from edgeprune.runtime.images.levels import Range, bits_beyond, eight_bits, needs_range, scaled
from edgeprune.runtime.images.resize import PILLOW, check_resizer, resizer
from edgeprune.runtime.images.tiles import Tiles

__all__ = ["ImageLike", "Preprocessing"]

ImageLike: TypeAlias = "str | os.PathLike[str] | Image.Image | NDArray[np.uint8]"
"""A file, a Pillow image of any mode of 8 bits, or RGB as uint8 [H, W, 3]."""

MAX_RESIZED_PIXELS = 1 << 27
"""A long thin image grows by its aspect ratio before the crop, or to a square; more than this (400 MB) is refused."""


_RESIZES = ({"height", "width"}, {"shortest_edge"}, {"shortest_edge", "longest_edge"}, {"max_height", "max_width"})


@dataclass(frozen=True)
class Preprocessing:
    """The steps, in the form the manifest keeps them under `preprocessing`. Raises ValueError when they contradict."""

    size: tuple[int, int]
    """(height, width) of the result, pixels"""
    resize: Mapping[str, int] | None
    """{"height", "width"}; or, which keep the aspect ratio, {"shortest_edge"}, as long as "longest_edge" at most, or
    {"max_height", "max_width"}; or None: images come in the right size"""
    resample: int
    """Pillow's number of the filter, 0..5 (3 is bicubic)"""
    crop: tuple[int, int] | None
    """(height, width) cut from the centre"""
    rescale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    convert_rgb: bool
    """whether Pillow images of another mode become RGB; files always do"""
    tiles: Tiles | None = None
    """how an image is cut up, of an encoder that takes the tiles of one image; the steps above are those of one tile"""
    square: tuple[int, int, int] | None = None
    """the colour around an image that is made square in front of every other step; None where it is not"""
    pad: bool = False
    """whether an image that comes out smaller stands in the upper left corner, with zeros around it, normalised ones"""
    resizer: str = PILLOW
    """whose resize it is, PILLOW's or TORCH's: their filters are the same, the rounding is not"""

    def __post_init__(self) -> None:
        if self.resize is not None and set(self.resize) not in _RESIZES:
            raise ValueError(
                f"resize must have height and width, or shortest_edge; it has {', '.join(sorted(self.resize))}"
            )
        if self.square is not None and not all(type(n) is int and 0 <= n <= 255 for n in self.square):
            raise ValueError(f"square must be a colour of 3 levels in 0..255, got {self.square}")
        numbers = [*self.size, *(self.crop or ()), *(self.resize or {}).values()]
        if len(self.size) != 2 or not all(isinstance(n, int) and n > 0 for n in numbers):
            raise ValueError(f"sizes must be positive whole numbers of pixels, got {numbers}")
        if self.resample not in range(6):
            raise ValueError(f"resample must be Pillow's number of a filter, 0..5, got {self.resample}")
        check_resizer(self.resizer, self.resample)
        if len(self.mean) != 3 or len(self.std) != 3 or not all(self.std) or not math.isfinite(self.rescale):
            raise ValueError(f"mean and std must be 3 numbers, std not zero, got {self.mean} and {self.std}")
        if self.crop is None and self.resize is not None and "height" not in self.resize and not self.pad:
            by = " and ".join(sorted(self.resize))
            raise ValueError(f"a resize by {by} needs a crop, or the size would depend on the image")
        exact = self.resize is not None and "height" in self.resize
        result = self.crop or (self.resize and exact and (self.resize["height"], self.resize["width"]))
        if result and result != self.size and not (self.pad and all(map(operator.le, result, self.size))):
            raise ValueError(
                f"images come out at {result[0]}x{result[1]}, but the encoder takes {self.size[0]}x{self.size[1]}"
            )
        if self.tiles is not None and {*self.size, *(self.resize or {"": 0}).values()} != {self.tiles.side}:
            raise ValueError("tiles must be squares of the size that their processor resizes to and the encoder takes")
        if self.tiles is not None and self.square is not None:
            raise ValueError("images that are cut into tiles must not be made square first")
        if self.tiles is not None and self.pad:
            raise ValueError("images that are cut into tiles must not be padded")

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Preprocessing:
        """The inverse of `to_json`; unknown fields are ignored. Raises BundleError when a field is missing or wrong."""
        try:
            size, tiles = _pair(given["size"]), given.get("tiles")
            return cls(
                size=size,
                resize=None if given["resize"] is None else dict(given["resize"]),
                resample=given["resample"],
                crop=None if given["crop"] is None else _pair(given["crop"]),
                rescale=float(given["rescale"]),
                mean=_triple(given["mean"]),
                std=_triple(given["std"]),
                convert_rgb=bool(given["convert_rgb"]),
                tiles=None if tiles is None else Tiles.from_json(tiles, size[0]),
                square=_colour(given.get("square")),
                pad=bool(given.get("pad", False)),
                resizer=given.get("resizer", PILLOW),
            )
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise BundleError(f"the manifest's preprocessing is wrong ({error}); export the bundle again") from None

    def to_json(self) -> dict[str, Any]:
        """`tiles`, `square`, `pad` and `resizer` are there only where images are cut up, made square, padded, or
        resized otherwise than by Pillow."""
        fields = {name: value for name, value in asdict(replace(self, tiles=None)).items() if name != "tiles"}
        if self.square is None:
            del fields["square"]
        if not self.pad:
            del fields["pad"]
        if self.resizer == PILLOW:
            del fields["resizer"]
        if self.tiles is not None:
            fields["tiles"] = self.tiles.to_json()
        return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}

    def __call__(self, image: ImageLike) -> NDArray[np.float32]:
        """-> [3, H, W] float32, normalised. Raises ImageError."""
        pixels = self._small(image) if self.pad else self.pixels(image)
        values: NDArray[np.float32] = self._normalised(pixels[None])[0]
        return values

    def tiled(self, image: ImageLike) -> NDArray[np.float32]:
        """One image -> [T, 3, H, W] float32, its tiles, normalised. Raises ImageError."""
        return self._normalised(self.tiled_pixels(image))

    def tiled_pixels(self, image: ImageLike) -> NDArray[np.uint8]:
        """One image -> [T, H, W, 3] uint8, RGB: its tiles before rescale and normalisation. Raises ImageError."""
        assert self.tiles is not None, "the encoder takes no tiles"
        tiles = self.tiles.cut(as_rgb(image, self.convert_rgb), resizer(self.resizer, self.resample))
        return np.stack([np.asarray(tile) for tile in tiles])

    def tile_shape(self, image: ImageLike) -> tuple[int, int]:
        """Rows and columns of the tiles that an image is cut into, (0, 0) where it stays whole. Raises ImageError."""
        if self.tiles is None:
            return 0, 0
        rgb = as_rgb(image, self.convert_rgb)
        return self.tiles.shape((rgb.height, rgb.width))

    def pixels(self, image: ImageLike) -> NDArray[np.uint8]:
        """-> [H, W, 3] uint8, RGB: resized and cropped, before rescale and normalisation. Raises ImageError."""
        pixels = self._small(image)
        if self.pad:  # with the level that comes nearest to a normalised zero
            ground = np.empty((*self.size, 3), np.uint8)
            ground[:] = np.clip(np.round(np.divide(self.mean, self.rescale)), 0, 255)
            ground[: pixels.shape[0], : pixels.shape[1]] = pixels
            return ground
        if pixels.shape[:2] != self.size:
            raise ImageError(
                f"images must be {self.size[0]}x{self.size[1]} (height x width) for this encoder; "
                f"got {pixels.shape[0]}x{pixels.shape[1]}; resize it first"
            )
        return pixels

    def _small(self, image: ImageLike) -> NDArray[np.uint8]:
        """The same of an image that may come out smaller."""
        rgb = as_rgb(image, self.convert_rgb)
        if self.square is not None and rgb.width != rgb.height:
            side = max(rgb.size)
            if side * side - rgb.width * rgb.height > MAX_RESIZED_PIXELS:
                raise ImageError(
                    f"an image must not be this long and thin: {rgb.width}x{rgb.height} would grow to {side}x{side} "
                    "pixels when it is made square; cut it first"
                )
            ground = Image.new("RGB", (side, side), self.square)
            ground.paste(rgb, ((side - rgb.width) // 2, (side - rgb.height) // 2))
            rgb = ground
        if self.resize is not None:
            rgb = resizer(self.resizer, self.resample)(rgb, self.resized(rgb.height, rgb.width))
        if self.crop is not None:  # Pillow fills with zeros what lies outside, and // puts the odd pixel where HF does
            left, top = (rgb.width - self.crop[1]) // 2, (rgb.height - self.crop[0]) // 2
            rgb = rgb.crop((left, top, left + self.crop[1], top + self.crop[0]))
        if rgb.height > self.size[0] or rgb.width > self.size[1]:
            raise ImageError(
                f"images must be {self.size[0]}x{self.size[1]} (height x width) for this encoder; "
                f"got {rgb.height}x{rgb.width}; resize it first"
            )
        return np.array(rgb)

    def _normalised(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """[B, H, W, 3] -> [B, 3, *size], zeros where there is no pixel"""
        levels = (np.arange(256, dtype=np.float64) * self.rescale).astype(np.float32)
        height, width = pixels.shape[1:3]
        values = np.zeros((len(pixels), 3, *self.size), np.float32)
        for channel in range(3):
            table = (levels - np.float32(self.mean[channel])) / np.float32(self.std[channel])
            values[:, channel, :height, :width] = np.take(table, pixels[..., channel], mode="clip")
        return values

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that an image of this size is resized to, by the arithmetic of transformers, which rounds
        where it does; its own where there is no resize. Raises ImageError."""
        longer, shorter = max(height, width), min(height, width)
        if self.resize is None:
            return height, width
        if "height" in self.resize:
            return self.resize["height"], self.resize["width"]
        if "max_height" in self.resize:
            scale = min(self.resize["max_height"] / height, self.resize["max_width"] / width)
            return _there((height, width), int(height * scale), int(width * scale))
        short, exact = self.resize["shortest_edge"], None
        if (most := self.resize.get("longest_edge")) and longer / shorter * short > most:
            exact = most * shorter / longer
            short = round(exact)
        if "longest_edge" in self.resize and shorter == short:
            return height, width
        long = int((short if exact is None else exact) * longer / shorter)
        if short * long > MAX_RESIZED_PIXELS:
            raise ImageError(
                f"an image must not be this long and thin: {width}x{height} would grow to {short}x{long} "
                "pixels before the crop; cut it first"
            )
        return _there((height, width), *((long, short) if width <= height else (short, long)))


def as_rgb(image: ImageLike, convert: bool, within: Range | None = None) -> Image.Image:
    """
    convert: whether Pillow images of another mode become RGB; files always do
    within: (low, high), the values that become black and white, of images of more than 8 bits

    Raises ImageError.
    """
    if isinstance(image, (str, os.PathLike)):
        return _read(Path(image), within)
    if isinstance(image, Image.Image):
        return _converted(image, convert, within)
    if isinstance(image, np.ndarray):
        if image.dtype.kind in "uif" and image.dtype != np.uint8 and image.shape[2:] in ((), (1,), (3,)) and image.size:
            if within is not None:
                return scaled(image, *within)
            what = f"an array uint8 [height, width, 3]; got {image.dtype} {list(image.shape)}"
            raise needs_range(what, image)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ImageError(
                f"an image array must be uint8 [height, width, 3], RGB; got {image.dtype} {list(image.shape)}; "
                "convert it, or give a file"
            )
        return Image.fromarray(np.ascontiguousarray(image))
    raise ImageError(
        f"an image must be a file name, a Pillow image or a uint8 array [height, width, 3]; got {type(image).__name__}"
    )


def _read(path: Path, within: Range | None) -> Image.Image:
    """As transformers' load_image: upright, and an alpha channel is dropped, not blended."""
    with _opened(path) as image:
        beyond = bits_beyond(image)
        return eight_bits(ImageOps.exif_transpose(image), beyond, str(path), within).convert("RGB")


def check_file(path: Path, within: Range | None = None) -> None:
    """Raises ImageError when no image begins there, or one with more pixels than Pillow takes, or with more bits and
    nothing said of them."""
    with _opened(path) as image:
        if within is None and (beyond := bits_beyond(image)):
            raise needs_range(f"{path} has {beyond}", None)


def check_decodes(path: Path, within: Range | None = None) -> None:
    """Raises ImageError when the file cannot be read to its end, or its values not be brought to 8 bits.

    A JPEG is read at the least of its sizes: of 12 megapixels in 46 ms of the CPU, not 105.
    """
    with _opened(path) as image:
        if image.format == "JPEG":
            image.draft("RGB", (1, 1))
            image.load()
            return
    try:
        _read(path, within)
    except ImageError as error:
        raise error if str(path) in str(error) else ImageError(f"{path}: {error}") from None


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    if not path.is_file():
        raise ImageError(f"an image must be a file; there is none at {path}; check the name")
    try:
        with Image.open(path) as image:
            yield image
    except ImageError:
        raise
    except Image.DecompressionBombError:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise ImageError(
            f"an image must have at most {most:,} pixels; {path} has more; make it smaller, or cut it"
        ) from None
    except Exception as error:  # a damaged file can make Pillow raise anything
        raise ImageError(
            f"an image must be a file Pillow can read; {path} is not ({_reason(error)}); use PNG or JPEG"
        ) from None


def _converted(image: Image.Image, convert: bool, within: Range | None) -> Image.Image:
    """As transformers' convert_to_rgb: what is transparent lies on white."""
    if 0 in image.size:
        raise ImageError(f"an image must have at least one pixel; got {image.width}x{image.height}")
    image = eight_bits(image, bits_beyond(image), "it", within)
    if not convert and image.mode != "RGB":
        raise ImageError(f"a Pillow image must be RGB for this encoder; got {image.mode}; call .convert('RGB')")
    try:
        if "A" in image.getbands() or image.info.get("transparency") is not None:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
        return image.convert("RGB")
    except Exception as error:  # an image is read from its file only now, and some modes know no way to RGB
        raise ImageError(
            f"an image must be convertible to RGB; this {image.mode} image is not ({_reason(error)})"
        ) from None


def _there(size: tuple[int, int], height: int, width: int) -> tuple[int, int]:
    """The second size. Raises ImageError where an image of the first has nothing left in it."""
    if not height or not width:
        raise ImageError(
            f"an image must not be this long and thin: {size[1]}x{size[0]} would shrink to nothing; cut it first"
        )
    return height, width


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _pair(given: Any) -> tuple[int, int]:
    height, width = given
    return height, width


def _colour(given: Any) -> tuple[int, int, int] | None:
    if given is None:
        return None
    red, green, blue = given
    return red, green, blue


def _triple(given: Any) -> tuple[float, float, float]:
    red, green, blue = given
    return float(red), float(green), float(blue)
