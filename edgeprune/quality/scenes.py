"""Drawn scenes to be asked about: one to four shaded objects before a textured background, among what distracts.

    image i of seed s  =  f(SeedSequence((s, i)))       nothing is downloaded, nothing depends on the order

What the embedded model was trained on, drawn anew: the program that drew its own scenes is not kept, so kinds, colours
and ranges of this one are those of its stored scenes, as far as they can be measured, and the model answers as well on
these (its card has both figures). The background is a gradient with slow noise and often stripes; muted lines and blobs
are clutter; specks have the colours of objects, so that a colour alone does not say that an object is there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.errors import RequestError

__all__ = ["COLORS", "HELD_OUT_SEED", "PATCH", "SHAPES", "SIDE", "Scene", "Thing", "draw", "held_out"]

SIDE, PATCH = 96, 8
"""pixels"""
COVERED = 0.15
"""share of a patch that an object must cover, for the patch to be the object's"""
HELD_OUT_SEED = 20_000
"""of scenes that no training here takes"""

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
COLORS = {
    "red": (208, 32, 38),
    "green": (32, 168, 56),
    "blue": (38, 74, 214),
    "yellow": (238, 208, 36),
    "orange": (236, 132, 22),
    "purple": (152, 42, 182),
    "cyan": (36, 186, 208),
    "white": (240, 240, 240),
}

RADIUS = (8.0, 19.0)
"""pixels, of the circle around an object"""
LEANING = 0.8
"""below 1, larger radii are the more frequent ones"""
HOW_MANY = (0.2, 0.25, 0.3, 0.25)
"""share of the scenes with one, two, three and four objects"""
EDGE = 1.3
"""pixels from an object's colour to the background's"""
GAP = 2.0
"""pixels between the circles around two objects"""
TRIES = 60
"""for the place of one object"""
AGAIN_SHAPE, AGAIN_COLOR = 0.38, 0.2
"""share of the objects behind the first that take the shape, or the colour, of one before"""

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Thing:
    shape: str
    color: str
    x: float
    """of the centre, pixels from the left; y from the top"""
    y: float
    radius: float


@dataclass(frozen=True, eq=False)
class Scene:
    seed: int
    index: int
    image: npt.NDArray[np.uint8]
    """[96, 96, 3], RGB"""
    things: tuple[Thing, ...]
    labels: npt.NDArray[np.int64]
    """[144], which object covers more than 15 % of the patch, the one that covers most; -1 for none"""


def held_out(count: int) -> list[Scene]:
    """The first scenes of the held-out seed. Raises RequestError for a count below 1."""
    if count < 1:
        raise RequestError(f"scenes must be 1 or more, got {count}")
    return [draw(HELD_OUT_SEED, index) for index in range(count)]


def draw(seed: int, index: int) -> Scene:
    """Scene `index` of a seed; both 0 or more.

    >>> draw(1, 7).things == draw(1, 7).things, draw(1, 7).things == draw(2, 7).things
    (True, False)
    """
    rng = np.random.default_rng(np.random.SeedSequence((seed, index)))
    image = _background(rng)
    for _ in range(rng.integers(2, 9)):
        _add_clutter(rng, image)
    things = tuple(_arranged(rng))
    covers = [_add_thing(rng, image, one) for one in things]
    for _ in range(rng.integers(0, 4)):
        _add_speck(rng, image, things)
    _add_noise(rng, image)
    return Scene(seed, index, np.rint(image.clip(0, 255)).astype(np.uint8), things, _labels(covers))


def _labels(covers: list[Array]) -> npt.NDArray[np.int64]:
    cells = SIDE // PATCH
    shares = np.stack([one.reshape(cells, PATCH, cells, PATCH).mean(axis=(1, 3)).ravel() for one in covers])
    labels: npt.NDArray[np.int64] = np.where(shares.max(axis=0) > COVERED, shares.argmax(axis=0), -1)
    return labels


# --- background and what distracts


def _background(rng: np.random.Generator) -> Array:
    y, x = _AXES
    here, there = rng.uniform(35, 165, (2, 1)) + rng.normal(0, 11, (2, 3))
    angle = rng.uniform(0, 2 * math.pi)
    ramp = 0.5 + ((x - SIDE / 2) * math.cos(angle) + (y - SIDE / 2) * math.sin(angle)) / (1.2 * SIDE)
    image = here + ramp[..., None] * (there - here)
    cells = int(rng.integers(3, 9))
    coarse = rng.normal(0, rng.uniform(2, 12), (cells, cells, 1)) + rng.normal(0, 4, (cells, cells, 3))
    weights = _interpolation(cells)
    image = image + (weights @ coarse.transpose(2, 0, 1) @ weights.T).transpose(1, 2, 0)
    if rng.random() < 0.5:
        angle, period = rng.uniform(0, math.pi), rng.uniform(4, 22)
        wave = np.sin((x * math.cos(angle) + y * math.sin(angle)) * (2 * math.pi / period) + rng.uniform(0, 6))
        image = image + (rng.uniform(2, 11) * wave)[..., None]
    drawn: Array = image.astype(np.float32)
    return drawn


def _add_clutter(rng: np.random.Generator, image: Array) -> None:
    """A line or a blob in a muted colour."""
    x0, y0 = rng.uniform(0, SIDE, 2)
    color = rng.uniform(30, 225) + rng.normal(0, 16, 3)
    angle, opacity = rng.uniform(0, 2 * math.pi), rng.uniform(0.4, 1)
    if rng.random() < 0.5:
        length, half = rng.uniform(10, 36), rng.uniform(0.4, 1.5)
        window = _around(x0, y0, length + 2)
        y, x = _AXES[0][window[0]], _AXES[1][:, window[1]]
        dx, dy = math.cos(angle), math.sin(angle)
        along = np.clip((x - x0) * dx + (y - y0) * dy, 0, length)
        distance = np.hypot(x - x0 - along * dx, y - y0 - along * dy) - half
    else:
        long, flat = rng.uniform(2, 5), rng.uniform(0.5, 1)
        window = _around(x0, y0, long + 2)
        y, x = _AXES[0][window[0]] - y0, _AXES[1][:, window[1]] - x0
        u, v = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
        distance = (np.hypot(u, v / flat) - long) * flat
    _blend(image[window], opacity * np.clip(0.5 - distance, 0, 1), color)


def _add_speck(rng: np.random.Generator, image: Array, things: tuple[Thing, ...]) -> None:
    """A tiny disc in the colour of any object, beside the objects."""
    radius, color = rng.uniform(1.2, 2.4), np.array(COLORS[_any(rng, tuple(COLORS))]) * rng.uniform(0.85, 1.05)
    for _ in range(TRIES):
        x0, y0 = rng.uniform(0, SIDE, 2)
        if all(math.hypot(x0 - one.x, y0 - one.y) > one.radius + radius + 1 for one in things):
            window = _around(x0, y0, radius + 1)
            y, x = _AXES[0][window[0]] - y0, _AXES[1][:, window[1]] - x0
            _blend(image[window], np.clip(0.5 + radius - np.hypot(x, y), 0, 1), color)
            return


def _add_noise(rng: np.random.Generator, image: Array) -> None:
    """Of every pixel, part of it the same in the three channels."""
    strength, common = rng.uniform(2, 8.5), rng.uniform(0.2, 0.95)
    image += strength * math.sqrt(common) * rng.standard_normal((SIDE, SIDE, 1), np.float32)
    image += strength * math.sqrt(1 - common) * rng.standard_normal((SIDE, SIDE, 3), np.float32)


# --- objects


def _arranged(rng: np.random.Generator) -> Iterator[Thing]:
    """One to four, none of which touches another; a full image has fewer than were drawn lots for."""
    before: list[Thing] = []
    for _ in range(rng.choice(len(HOW_MANY), p=HOW_MANY) + 1):
        again_shape, again_color = rng.random(2) < (AGAIN_SHAPE, AGAIN_COLOR)
        shape = _any(rng, tuple(one.shape for one in before) if before and again_shape else SHAPES)
        color = _any(rng, tuple(one.color for one in before) if before and again_color else tuple(COLORS))
        for _ in range(TRIES):
            radius = RADIUS[0] + (RADIUS[1] - RADIUS[0]) * rng.random() ** LEANING
            x, y = rng.uniform(radius, SIDE - radius, 2)
            if all(math.hypot(x - one.x, y - one.y) > radius + one.radius + GAP for one in before):
                before.append(Thing(shape, color, x, y, radius))
                yield before[-1]
                break


def _add_thing(rng: np.random.Generator, image: Array, thing: Thing) -> Array:
    """Draws it -> how much of each pixel it covers, [96, 96] in 0..1."""
    window = _around(thing.x, thing.y, thing.radius + 1)
    y, x = _AXES[0][window[0]] - thing.y, _AXES[1][:, window[1]] - thing.x
    angle, slope = rng.uniform(0, 2 * math.pi), rng.uniform(0, 0.15)
    shade = rng.uniform(0.85, 1.05) + slope * (x * math.cos(angle) + y * math.sin(angle)) / thing.radius
    turn = rng.uniform(-TURNS[thing.shape], TURNS[thing.shape])
    u, v = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    alpha = np.clip(0.5 - _distance(thing.shape, u, v, thing.radius) / EDGE, 0, 1).astype(np.float32)
    color = np.array(COLORS[thing.color]) + rng.normal(0, 6, 3)
    _blend(image[window], alpha, color * shade[..., None])
    cover = np.zeros((SIDE, SIDE), np.float32)
    cover[window] = alpha
    return cover


TURNS = {"circle": 0.0, "ring": 0.0, "square": 0.2, "cross": 0.2, "triangle": math.pi / 3, "star": math.pi / 5}
"""radians to either side"""


def _distance(shape: str, x: Any, y: Any, radius: float) -> Any:
    """Pixels to the edge, negative inside, of an upright shape with this circle around it."""
    if shape == "circle":
        return np.hypot(x, y) - radius
    if shape == "ring":
        return np.abs(np.hypot(x, y) - 0.76 * radius) - 0.24 * radius
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - radius / math.sqrt(2)
    if shape == "cross":
        long, wide = np.maximum(np.abs(x), np.abs(y)), np.minimum(np.abs(x), np.abs(y))
        return np.maximum(long - 0.95 * radius, wide - 0.29 * radius)
    if shape == "triangle":
        sides = [x * math.cos(turn) + y * math.sin(turn) for turn in (math.pi / 2, -math.pi / 6, 7 * math.pi / 6)]
        return np.max(sides, axis=0) - radius / 2
    tip, dent = math.pi / 5, 0.38 * radius  # a star is one wedge from a tip to a dent, ten times
    turned = np.abs((np.arctan2(x, -y) + tip) % (2 * tip) - tip)
    far = np.hypot(x, y)
    across, down = dent * math.sin(tip), radius - dent * math.cos(tip)
    return ((far * np.cos(turned) - radius) * across + far * np.sin(turned) * down) / math.hypot(across, down)


# --- pixels


def _blend(part: Array, alpha: npt.NDArray[np.floating], color: npt.NDArray[np.float64]) -> None:
    part += (alpha[..., None] * (color - part)).astype(np.float32)


def _around(x: float, y: float, reach: float) -> tuple[slice, slice]:
    """The rows and the columns of the image that are as near as that."""
    rows, columns = (slice(max(0, math.floor(at - reach)), max(0, math.ceil(at + reach))) for at in (y, x))
    return rows, columns


def _any(rng: np.random.Generator, names: tuple[str, ...]) -> str:
    return names[rng.integers(len(names))]


def _interpolation(cells: int) -> npt.NDArray[np.float64]:
    """[96, cells]: the weights of linear interpolation between that many values."""
    at = np.linspace(0, cells - 1, SIDE)[:, None]
    weights: npt.NDArray[np.float64] = np.clip(1 - np.abs(at - np.arange(cells)), 0, 1)
    return weights


_CENTRES = np.arange(SIDE) + 0.5
_AXES = _CENTRES[:, None], _CENTRES[None, :]
