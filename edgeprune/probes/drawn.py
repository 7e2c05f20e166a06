"""Drawn scenes for detection: one to five shapes before a textured background and among unlabelled clutter.

    image i of seed s  =  f(SeedSequence((s, i)))       nothing is downloaded, nothing depends on the order

A shape is a circle, a square, a triangle or a ring, 20 to 44 pixels wide at 80x80 (the sizes grow with the image),
turned at will, wholly inside the image and hardly ever touching another. The clutter has the colours of shapes: thin
lines, dots, and soft blobs as large as a shape. Colour alone therefore says nothing.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.errors import RequestError
from edgeprune.probes.sample import Sample

__all__ = ["CLASSES", "Scenes"]

CLASSES = ("circle", "square", "triangle", "ring")
SMALLEST, LARGEST = 20 / 80, 44 / 80
"""width of a shape, of the shorter side of the image"""
MOST_SHAPES = 5
TRIES = 40
"""for the place of one shape; a full image has fewer shapes than were drawn lots for"""
GAP = 1.5
"""pixels between two shapes"""

# float64 throughout: what is left of rounding differences between machines is far below half a grey level
Array = npt.NDArray[np.float64]


class Scenes:
    """`count` samples of (height, width) `size`. Another seed gives other scenes; a larger count, the same first ones.

    >>> scenes = Scenes(100, seed=1)
    >>> scenes[7] == Scenes(10, seed=1)[7], scenes[7] == Scenes(100, seed=2)[7]
    (True, False)

    Raises RequestError for a count below 1, a negative seed, or sides under 32 pixels.
    """

    classes = CLASSES

    def __init__(self, count: int, seed: int = 0, size: tuple[int, int] = (80, 80)) -> None:
        if count < 1:
            raise RequestError(f"scenes must be 1 or more, got {count}")
        if seed < 0:
            raise RequestError(f"the seed of scenes must be 0 or more, got {seed}")
        if min(size) < 32:
            raise RequestError(f"scenes must be 32x32 pixels or larger, got {size[0]}x{size[1]}")
        self._count, self._seed, self._size = count, seed, size

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self._count:
            raise IndexError(f"scene must be in 0..{self._count - 1}, got {index}")
        return _scene(np.random.default_rng((self._seed, index)), self._size, f"scene {self._seed}/{index}")


def _scene(rng: np.random.Generator, size: tuple[int, int], name: str) -> Sample:
    height, width = size
    base = rng.uniform(40, 215, 3)
    image = base + _texture(rng, size)
    for _ in range(rng.integers(3, 9)):
        _add_clutter(rng, image, base)
    wanted = int(rng.integers(1, MOST_SHAPES + 1))
    masks, labels = np.zeros((wanted, height, width), bool), np.zeros(wanted, np.int64)
    circles: list[tuple[float, float, float]] = []
    for _ in range(wanted):
        if (place := _free_place(rng, size, circles)) is not None:
            kind = int(rng.integers(len(CLASSES)))
            masks[len(circles)], labels[len(circles)] = _add_shape(rng, image, base, place, kind), kind
            circles.append(place)
    image += rng.normal(0, rng.uniform(2, 9), image.shape)
    masks, labels = masks[: len(circles)], labels[: len(circles)]
    boxes = np.array([_box(mask) for mask in masks], np.float32)
    return Sample(np.rint(image.clip(0, 255)).astype(np.uint8), boxes, labels, masks, name)


def _box(mask: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _texture(rng: np.random.Generator, size: tuple[int, int]) -> Array:
    """[H, W, 3] around 0: slow changes of colour, and often stripes."""
    cells = int(rng.integers(3, 9))
    coarse = rng.normal(0, rng.uniform(8, 22), (cells, cells, 3)) + rng.normal(0, 10, (cells, cells, 1))
    rows, columns = (_interpolation(side, cells) for side in size)
    texture: Array = np.einsum("yi,ijc,xj->yxc", rows, coarse, columns, optimize=True)
    if rng.random() < 0.6:
        angle, period = rng.uniform(0, math.pi), rng.uniform(4, 14)
        y, x = _axes(size)
        wave = np.sin((x * math.cos(angle) + y * math.sin(angle)) * (2 * math.pi / period) + rng.uniform(0, 6))
        texture += (rng.uniform(4, 18) * wave)[..., None] * rng.uniform(0.4, 1, 3)
    return texture


def _interpolation(side: int, cells: int) -> Array:
    """[side, cells]: the weights of linear interpolation between `cells` values."""
    at = np.linspace(0, cells - 1, side)[:, None]
    weights: Array = np.clip(1 - np.abs(at - np.arange(cells)), 0, 1)
    return weights


def _add_clutter(rng: np.random.Generator, image: Array, base: Array) -> None:
    """A line, a dot or a soft blob, drawn into the image."""
    height, width = size = image.shape[:2]
    scale = min(size) / 80
    kind, x0, y0, colour = rng.integers(3), rng.uniform(0, width), rng.uniform(0, height), _colour(rng, base)
    if kind == 0:
        angle, length, thick = rng.uniform(0, 2 * math.pi), rng.uniform(8, 40) * scale, rng.uniform(0.5, 1.3) * scale
        dx, dy = math.cos(angle) * length, math.sin(angle) * length
        left, right, top, bottom = min(x0, x0 + dx), max(x0, x0 + dx), min(y0, y0 + dy), max(y0, y0 + dy)
        window = _window(size, left - 3, top - 3, right + 3, bottom + 3)
        y, x = _axes(size, window)
        along = np.clip(((x - x0) * dx + (y - y0) * dy) / length**2, 0, 1)
        alpha = np.clip(0.5 + thick - np.hypot(x - x0 - along * dx, y - y0 - along * dy), 0, 1)
    else:
        radius = (rng.uniform(1, 2.8) if kind == 1 else rng.uniform(6, 16)) * scale
        reach = radius + 2 if kind == 1 else 2 * radius
        window = _window(size, x0 - reach, y0 - reach, x0 + reach, y0 + reach)
        y, x = _axes(size, window)
        distance = np.hypot(x - x0, y - y0)
        alpha = np.clip(0.5 + radius - distance, 0, 1) if kind == 1 else 0.6 * np.clip(1 - distance / reach, 0, 1)
    part = image[window]
    part += alpha[..., None] * (colour - part)


def _free_place(
    rng: np.random.Generator, size: tuple[int, int], taken: list[tuple[float, float, float]]
) -> tuple[float, float, float] | None:
    """centre x, y and radius of a circle inside the image that meets none of `taken`; None when no try succeeds."""
    height, width = size
    for _ in range(TRIES):
        radius = rng.uniform(SMALLEST, LARGEST) * min(size) / 2
        x, y = rng.uniform(radius + 1, width - radius - 1), rng.uniform(radius + 1, height - radius - 1)
        if all(math.hypot(x - a, y - b) > radius + other + GAP for a, b, other in taken):
            return x, y, radius
    return None


def _add_shape(
    rng: np.random.Generator, image: Array, base: Array, place: tuple[float, float, float], kind: int
) -> npt.NDArray[np.bool_]:
    """Draws it with soft edges -> its mask [H, W]: the pixels covered by half or more."""
    centre_x, centre_y, radius = place
    size = image.shape[:2]
    window = _window(size, centre_x - radius - 1, centre_y - radius - 1, centre_x + radius + 1, centre_y + radius + 1)
    y, x = _axes(size, window)
    distance = _distance(kind, x - centre_x, y - centre_y, radius, rng.uniform(0, 2 * math.pi))
    slope = rng.uniform(-25, 25, 2) / radius
    shade = ((x - centre_x) * slope[0] + (y - centre_y) * slope[1])[..., None]
    part = image[window]
    part += np.clip(0.5 - distance, 0, 1)[..., None] * (_colour(rng, base) + shade - part)
    mask = np.zeros(size, bool)
    mask[window] = distance <= 0
    return mask


def _distance(kind: int, x: Array, y: Array, radius: float, angle: float) -> Array:
    """Signed distance to the edge in pixels, negative inside, of a shape with this circumscribed circle."""
    if CLASSES[kind] == "circle":
        return np.hypot(x, y) - radius
    if CLASSES[kind] == "ring":
        return np.abs(np.hypot(x, y) - radius * 0.75) - radius * 0.25
    sides = 4 if CLASSES[kind] == "square" else 3
    normals = [angle + 2 * math.pi * i / sides for i in range(sides)]
    inner = radius * math.cos(math.pi / sides)
    edges: Any = [x * math.cos(normal) + y * math.sin(normal) - inner for normal in normals]
    return np.max(edges, axis=0)  # type: ignore[no-any-return]


def _colour(rng: np.random.Generator, base: Array) -> Array:
    """[3], well apart from the background's."""
    while True:
        colour = rng.uniform(0, 255, 3)
        if np.abs(colour - base).sum() > 140:
            return colour


def _window(size: tuple[int, ...], left: float, top: float, right: float, bottom: float) -> tuple[slice, slice]:
    """The pixels between, as far as they are in the image."""
    return (
        slice(max(0, math.floor(top)), min(size[0], math.ceil(bottom))),
        slice(max(0, math.floor(left)), min(size[1], math.ceil(right))),
    )


def _axes(size: tuple[int, ...], window: tuple[slice, slice] | None = None) -> tuple[Array, Array]:
    """The centres of the pixels: y [h, 1] and x [1, w]."""
    rows, columns = window or (slice(0, size[0]), slice(0, size[1]))
    ys, xs = (np.arange(side, dtype=np.float64) + 0.5 for side in size)
    return ys[rows, None], xs[None, columns]
