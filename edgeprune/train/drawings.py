"""Drawn scenes as the embedded model learns from them: images, what every patch shows, and questions as ids.

Each image is laid down in one of eight ways, drawn anew whenever it comes up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeprune.quality.questions import ask
from edgeprune.quality.scenes import COLORS, PATCH, SHAPES, SIDE, Scene, draw

__all__ = ["MOST_THINGS", "Drawings", "Sights", "laid", "pixel_values"]

CELLS = SIDE // PATCH
MOST_THINGS = 4
Array = NDArray[Any]


@dataclass(frozen=True)
class Sights:
    """A batch for the vision tower."""

    images: Array
    """[B, 96, 96, 3] uint8"""
    shapes: Tensor
    """[B, N] int64, of the object on each patch; one more than the last for none. colors: likewise"""
    colors: Tensor
    distances: Tensor
    """[B, N] float32, from the patch to the centre of its object, of the image's side; 0 for none"""
    pairs: Tensor
    """[B, shapes * colors] float32, 1 for those that are there"""
    counts: Tensor
    """[B, shapes + 1] int64: how many of each shape, and how many objects"""


class Drawings:
    """`count` scenes of a seed, drawn at once. show: called as show(done, total)"""

    def __init__(self, count: int, seed: int, show: Callable[[int, int], None] = lambda *_: None) -> None:
        self.images = np.empty((count, SIDE, SIDE, 3), np.uint8)
        self.questions: list[list[tuple[str, str]]] = []
        self._patches = np.empty((3, count, CELLS, CELLS), np.float32)
        self._pairs = np.zeros((count, len(SHAPES) * len(COLORS)), np.float32)
        self._counts = np.zeros((count, len(SHAPES) + 1), np.int64)
        for at in range(count):
            self._keep(at, draw(seed, at))
            show(at + 1, count)

    def __len__(self) -> int:
        return len(self.images)

    def _keep(self, at: int, scene: Scene) -> None:
        self.images[at] = scene.image
        self.questions.append([(question.text, question.answer) for question in ask(scene)])
        shapes = [SHAPES.index(thing.shape) for thing in scene.things]
        colors = [list(COLORS).index(thing.color) for thing in scene.things]
        for shape, color in zip(shapes, colors, strict=True):
            self._pairs[at, shape * len(COLORS) + color] = 1
            self._counts[at, [shape, -1]] += 1
        labels = scene.labels.reshape(CELLS, CELLS)
        self._patches[0, at] = np.array([*shapes, len(SHAPES)])[labels]
        self._patches[1, at] = np.array([*colors, len(COLORS)])[labels]
        centres = np.array([(thing.y, thing.x) for thing in scene.things] + [(0.0, 0.0)])[labels]
        middles = np.stack(np.meshgrid(*[(np.arange(CELLS) + 0.5) * PATCH] * 2, indexing="ij"), axis=-1)
        self._patches[2, at] = np.hypot(*np.moveaxis(centres - middles, -1, 0)) / SIDE * (labels >= 0)

    def sights(self, numbers: Sequence[int], ways: Sequence[int]) -> Sights:
        """Of each of these scenes, laid down in one of the ways 0..7."""
        patches = np.stack([laid(self._patches[:, at], way) for at, way in zip(numbers, ways, strict=True)], axis=1)
        shapes, colors, distances = torch.from_numpy(patches.reshape(3, len(patches[0]), -1))
        return Sights(
            self.laid_images(numbers, ways),
            shapes.long(),
            colors.long(),
            distances,
            torch.from_numpy(self._pairs[list(numbers)]),
            torch.from_numpy(self._counts[list(numbers)]),
        )

    def laid_images(self, numbers: Sequence[int], ways: Sequence[int]) -> Array:
        """[B, 96, 96, 3] uint8"""
        turned = (laid(self.images[at].transpose(2, 0, 1), way) for at, way in zip(numbers, ways, strict=True))
        return np.stack([one.transpose(1, 2, 0) for one in turned])


def laid(array: Array, way: int) -> Array:
    """[..., H, W] in one of eight ways: turned by right angles, and mirrored in four of them."""
    turned = np.rot90(array, way % 4, axes=(-2, -1))
    return turned[..., ::-1] if way >= 4 else turned


def pixel_values(images: Array, processor: Any) -> Tensor:
    """[B, H, W, 3] uint8 -> [B, 3, H, W] float32, normalised as the image processor says."""
    mean, std = (torch.tensor(one).view(3, 1, 1) for one in (processor.image_mean, processor.image_std))
    values: Tensor = (torch.from_numpy(images).permute(0, 3, 1, 2).float() * processor.rescale_factor - mean) / std
    return values
