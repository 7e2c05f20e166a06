"""Images of more than 256 levels (thermal and depth cameras, HDR): what is black and what is white has to be said.

    level = round(255 * clip((value - low) / (high - low), 0, 1))

Pillow, and so transformers, makes 8 bits of them in silence: of 16-bit greyscale and of floats by cutting off all that
is above 255, of 16-bit colour by dropping the lower byte.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeprune.errors import ImageError

__all__ = ["Range", "bits_beyond", "check_range", "eight_bits", "needs_range", "scaled"]

Range = tuple[float, float]
"""(low, high): the values that become black and white"""

_FULL = (0, 65535)


def bits_beyond(image: Image.Image) -> str:
    """What of an image does not fit into 8 bits, in words; empty where all of it does.

    To be asked before its pixels are read from its file: only then Pillow knows how they lie there.
    """
    if _deep(image):
        return f"{'float' if image.mode == 'F' else 'more than 8-bit'} values (mode {image.mode})"
    layouts = [str(tile[3]) for tile in getattr(image, "tile", ())]  # "RGB;16B" of a PNG, ("RGB;16L", 0, 1) of a TIFF
    return "16-bit channels" if any(";16" in one for one in layouts) else ""


def _deep(image: Image.Image) -> bool:
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def eight_bits(image: Image.Image, beyond: str, name: str, within: Range | None) -> Image.Image:
    """The image, and where it has more than 8 bits, scaled.

    beyond: what `bits_beyond` said of it
    name: of its file, or what it is
    within: (low, high), the values that become black and white

    Raises ImageError when it has, and nobody said how to scale it.
    """
    if not beyond:
        return image
    if within is None:
        raise needs_range(f"{name} has {beyond}", np.asarray(image) if _deep(image) else None)
    if not _deep(image):
        check_range(within)
        if within != _FULL:
            raise ImageError(
                f"{name} has {beyond}, of which Pillow reads the higher bytes alone: --image-range must be 0 65535, "
                f"got {within[0]:g} {within[1]:g}; read it with another library and give the array"
            )
        return image
    return scaled(image, *within)


def needs_range(what: str, values: NDArray[Any] | None) -> ImageError:
    """The error of an image that has to be scaled, with the range of its values where they are known."""
    extent = ""
    if values is not None and values.size and not np.isnan(values).any():
        extent = f", of {values.min():g} to {values.max():g}"
    return ImageError(
        f"an image must have 8-bit values, {what}{extent}: say what is black and white by --image-range LO HI "
        "(in Python: edgeprune.runtime.images.levels.scaled), or give a uint8 array"
    )


def scaled(image: Image.Image | NDArray[Any], low: float, high: float) -> Image.Image:
    """Any numbers -> an RGB image that every call takes.

    image: a greyscale Pillow image, or [H, W], [H, W, 1] or [H, W, 3], integers or floats
    low, high: the values that become black and white; what lies outside becomes the same

    Raises ImageError for another shape, values that are no numbers, or a range that is none.
    """
    check_range((low, high))
    values = np.asarray(image)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.dtype.kind not in "uif" or not values.size or values.ndim < 2 or values.shape[2:] not in ((), (3,)):
        raise ImageError(
            f"an image array must be numbers [height, width] or [height, width, 3]; got {values.dtype} "
            f"{list(values.shape)}; convert it first"
        )
    if np.isnan(values).any():
        raise ImageError("an image must have a value everywhere, some of this one are NaN; replace them first")
    share = np.clip((values.astype(np.float64) - low) / (high - low), 0, 1)
    return Image.fromarray(np.rint(255 * share).astype(np.uint8)).convert("RGB")


def check_range(within: Range) -> None:
    """Raises ImageError when it is none."""
    low, high = within
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ImageError(f"--image-range must be two numbers, the lower first, got {low:g} {high:g}")
