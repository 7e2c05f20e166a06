"""Which patches of an image are foreground: those that the objects cover, exactly, in the geometry of the model.

    covered[r, c] = area(patch[r, c] and the union of the objects) / area(patch[r, c])
    foreground    = covered >= threshold, or the patch that an object covers most when it reaches the threshold in none

The image is stretched to the model's size, so the patches are laid over the image as it is and nothing is resampled.
An object is its mask; where none is given, its box, which holds background too. The second rule is for small and thin
objects: a box of 8x8 pixels on the corner of four patches of 16x16 covers 6 % of each.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import RequestError
from edgeprune.probes.sample import Sample

__all__ = ["THRESHOLD", "check_size", "coverage", "foreground_share", "grid_of", "patch_labels"]

Labels: TypeAlias = NDArray[np.bool_]

THRESHOLD = 0.1
"""share of a patch that objects must cover"""
PERCENTILES = {"p50": 50, "p90": 90, "p99": 99}
ROUNDING = 1e-9
"""of areas in float64, so that a patch covered by exactly the threshold is foreground"""


def patch_labels(
    sample: Sample, size: tuple[int, int], patch_size: int, threshold: float = THRESHOLD
) -> NDArray[np.bool_]:
    """bool [rows, columns], true for foreground.

    size: (height, width) in pixels that the model takes; the image is stretched to it, whatever its own size
    Raises RequestError when the size is no multiple of the patch, or the threshold is outside 0..1.
    """
    grid = grid_of(size, patch_size)
    if not 0 < threshold <= 1:
        raise RequestError(f"--threshold must be a share of a patch above 0, at most 1, got {threshold:g}; try 0.1")
    labels: Labels = coverage(sample, grid) >= threshold - ROUNDING
    for at in range(len(sample.boxes)):
        own = _object_coverage(sample, at, grid)
        if own.max() < threshold - ROUNDING and own.max() > 0:
            labels[np.unravel_index(own.argmax(), grid)] = True
    return labels


def coverage(sample: Sample, grid: tuple[int, int]) -> NDArray[np.float64]:
    """[rows, columns], the share of each patch that the union of the objects covers; exact."""
    height, width = sample.image.shape[:2]
    if not len(sample.boxes):
        return np.zeros(grid)
    if sample.masks is not None:
        union: Labels = np.any(sample.masks, axis=0)
        return _covered(np.arange(height + 1.0), np.arange(width + 1.0), union, (height, width), grid)
    boxes = sample.boxes.astype(np.float64)
    xs, ys = np.unique(boxes[:, 0::2]), np.unique(boxes[:, 1::2])  # between neighbouring edges a box is all or nothing
    inside_x = (boxes[:, None, 0] <= xs[:-1]) & (xs[1:] <= boxes[:, None, 2])
    inside_y = (boxes[:, None, 1] <= ys[:-1]) & (ys[1:] <= boxes[:, None, 3])
    union = np.any(inside_y[:, :, None] & inside_x[:, None, :], axis=0)
    return _covered(ys, xs, union, (height, width), grid)


def grid_of(size: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """(rows, columns) of patches. Raises RequestError when the size is no multiple of the patch."""
    check_size(size, patch_size)
    return size[0] // patch_size, size[1] // patch_size


def check_size(size: tuple[int, int], multiple: int) -> None:
    """Raises RequestError unless height and width are multiples of so many pixels."""
    if min(size) < multiple or size[0] % multiple or size[1] % multiple:
        near = "x".join(str(max(1, round(side / multiple)) * multiple) for side in size)
        raise RequestError(
            f"--size must be a multiple of {multiple} pixels, the patch, got {size[0]}x{size[1]}; the nearest is {near}"
        )


def foreground_share(labels: Iterable[Labels]) -> dict[str, float]:
    """The mean of the images' shares of foreground patches, and percentiles of them: mean, p50, p90, p99."""
    shares = np.array([one.mean() for one in labels])
    percentiles = {name: float(np.percentile(shares, percent)) for name, percent in PERCENTILES.items()}
    return {"mean": float(shares.mean()), **percentiles}


def _object_coverage(sample: Sample, at: int, grid: tuple[int, int]) -> NDArray[np.float64]:
    """[rows, columns] of one object; of a mask, only what lies in its box is looked at."""
    height, width = sample.image.shape[:2]
    x0, y0, x1, y1 = sample.boxes[at].astype(np.float64)
    if sample.masks is None:
        return _covered(np.array([y0, y1]), np.array([x0, x1]), np.ones((1, 1), bool), (height, width), grid)
    top, left = max(0, int(y0) - 1), max(0, int(x0) - 1)
    bottom, right = min(height, int(y1) + 2), min(width, int(x1) + 2)
    cells = sample.masks[at, top:bottom, left:right]
    return _covered(np.arange(top, bottom + 1.0), np.arange(left, right + 1.0), cells, (height, width), grid)


def _covered(
    ys: NDArray[np.float64], xs: NDArray[np.float64], cells: Labels, image: tuple[int, int], grid: tuple[int, int]
) -> NDArray[np.float64]:
    """Share of each patch that the true ones of the cells [ys - 1, xs - 1] between these edges cover."""
    rows = _overlap(np.linspace(0, image[0], grid[0] + 1), ys) * (grid[0] / image[0])
    columns = _overlap(np.linspace(0, image[1], grid[1] + 1), xs) * (grid[1] / image[1])
    covered: NDArray[np.float64] = rows @ cells.astype(np.float64) @ columns.T
    return covered


def _overlap(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """[len(one) - 1, len(other) - 1], the length that an interval of the one shares with an interval of the other."""
    low = np.maximum(one[:-1, None], other[None, :-1])
    shared: NDArray[np.float64] = np.maximum(np.minimum(one[1:, None], other[None, 1:]) - low, 0.0)
    return shared
