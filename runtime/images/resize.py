"""An RGB image in another size: by Pillow, or as torch resizes 8 bits, which image processors of torchvision do.

`torch.nn.functional.interpolate` of uint8 with antialias=True, across first and then down, each where the size changes:

    scale  = from / to,  stretch = max(scale, 1),  centre = (i + 1/2) * scale,  reach = support * stretch
    taps   = pixels j with round(centre - reach) <= j < round(centre + reach), those that there are
    weight = f((j - centre + 1/2) / stretch), made to sum to 1, rounded to whole 1 / 2^p
    p      : the largest up to 22 for which the greatest weight of that direction, in 1 / 2^p, has 15 bits
    level  = sum of weight * level, rounded, within 0..255

Pillow's weights always have p = 22, and it goes down first where the height shrinks most. The result is that of torch
bit for bit, and the same integers on every machine; C has it in runtime/cpp/images/axis.cpp.

Source  pytorch/pytorch@v2.13 aten/src/ATen/native/cpu/UpSampleKernel.cpp, UpSampleKernelAVXAntialias.h;
        pytorch/vision torchvision/transforms/v2/functional/_geometry.py (resize_image)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["PILLOW", "TORCH", "Resize", "check_resizer", "resizer"]

Resize: TypeAlias = Callable[[Image.Image, tuple[int, int]], Image.Image]
"""(an RGB image, (height, width)) -> it in that size"""
PILLOW, TORCH = "pillow", "torch"
MOST_BITS, WEIGHT_BITS = 22, 15
ROWS = 32
"""that are weighed at once, so that their sums stay in the cache"""


def check_resizer(name: object, resample: int) -> None:
    """Raises ValueError when it is none, or has no such filter."""
    if name not in (PILLOW, TORCH):
        raise ValueError(f"resizer must be {PILLOW} or {TORCH}, got {name}")
    if name == TORCH and resample not in FILTERS:
        raise ValueError(f"resizer {TORCH} takes resample 2 (bilinear) or 3 (bicubic), got {resample}")


def resizer(name: str, resample: int) -> Resize:
    """
    name: PILLOW or TORCH
    resample: Pillow's number of the filter
    """
    return partial(_pillows, resample=Image.Resampling(resample)) if name == PILLOW else partial(_torchs, by=resample)


def _pillows(image: Image.Image, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    return image.resize(size[::-1], resample=resample)


def _torchs(image: Image.Image, size: tuple[int, int], by: int) -> Image.Image:
    height, width = size
    if width != image.width:
        image = _down(image.transpose(Image.Transpose.TRANSPOSE), width, by).transpose(Image.Transpose.TRANSPOSE)
    return image if height == image.height else _down(image, height, by)


def _down(image: Image.Image, height: int, by: int) -> Image.Image:
    levels = np.asarray(image)
    taps, weights, bits = _axis(len(levels), height, by)
    made = np.empty((height, *levels.shape[1:]), np.uint8)
    for first in range(0, height, ROWS):
        rows = slice(first, first + ROWS)
        sums = np.full(made[rows].shape, 1 << (bits - 1), np.int32)
        for tap, weight in zip(taps[rows].T, weights[rows].T, strict=True):
            sums += levels[tap] * weight[:, None, None]
        np.clip(sums >> bits, 0, 255, out=made[rows], casting="unsafe")
    return Image.fromarray(made)


def _axis(length: int, to: int, by: int) -> tuple[NDArray[np.int64], NDArray[np.int32], int]:
    """`length` pixels to `to`: the pixels that each new one is made of [to, taps], their weights [to, taps], 0 where it
    has fewer, and the bits behind the weights' point."""
    support, shape = FILTERS[by]
    scale = length / to
    stretch = max(scale, 1.0)
    centre = (np.arange(to)[:, None] + 0.5) * scale
    first = np.maximum((centre - support * stretch + 0.5).astype(np.int64), 0)
    end = np.minimum((centre + support * stretch + 0.5).astype(np.int64), length)
    taps = first + np.arange((end - first).max())
    exact = np.where(taps < end, shape(np.abs((taps - centre + 0.5) * (1.0 / stretch))), 0.0)
    exact /= np.cumsum(exact, axis=1)[:, -1:]  # one after the other, and not in pairs as numpy's sum
    bits, greatest = 0, exact.max()
    while bits < MOST_BITS and int(0.5 + greatest * (1 << (bits + 1))) < 1 << WEIGHT_BITS:
        bits += 1
    weights = (exact * (1 << bits) + np.copysign(0.5, exact)).astype(np.int32)
    return np.minimum(taps, length - 1), weights, bits


def _triangle(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(1.0 - x, 0.0)


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of Keys, a = -1/2."""
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


FILTERS: dict[int, tuple[float, Callable[[NDArray[np.float64]], NDArray[np.float64]]]] = {
    2: (1.0, _triangle),
    3: (2.0, _cubic),
}
"""torch's, by Pillow's number: half their width, in new pixels, and what they weigh at a distance"""
