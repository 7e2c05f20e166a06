"""The images that something of an export is taken of once: a folder's, or drawn ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgeprune.export.request import SCENES
from edgeprune.probes import folder_of
from edgeprune.probes.drawn import Scenes
from edgeprune.runtime.images.preprocess import ImageLike, Preprocessing

__all__ = ["drawn", "drawn_warning", "images_of"]

DRAWN, MOST = 16, 64
"""images: drawn ones, and those of a folder at most"""
SEED = 53
"""of drawn ones; not that of a probe, nor of what anything is judged on"""
SMALLEST = 32
"""pixels of a side, of a drawn one"""


def images_of(calibrate: str | None, preprocessing: Preprocessing) -> tuple[Tensor, str, int]:
    """[M, 3, H, W] float32 as the tower takes them, tiles one by one; what they are, in words, and how many images.

    calibrate: a folder, or SCENES; None: SCENES

    Raises ImageError where the folder has none, or one cannot be read.
    """
    images: list[ImageLike]
    if calibrate in (None, SCENES):
        scenes = drawn(preprocessing.size, DRAWN)
        images, data = [scenes[at].image for at in range(DRAWN)], "drawn scenes"
    else:
        folder = Path(str(calibrate))
        images, data = [*folder_of(folder, "--calibrate")[:MOST]], folder.resolve().name
    pixels = [
        preprocessing(image)[None] if preprocessing.tiles is None else preprocessing.tiled(image) for image in images
    ]
    return torch.from_numpy(np.concatenate(pixels)), data, len(images)


def drawn_warning(what: str, count: int, option: str = "--calibrate", of: str = "drawn scenes") -> str:
    """That something was taken of drawn images, since nobody said of which.

    what: it was, with the verb; option: that says it; of: what was drawn
    """
    return f"{what} of {count} {of}; {option} DIR takes images of yours, {option} {SCENES} these without this warning"


def drawn(size: tuple[int, int], count: int) -> Scenes:
    """Scenes of this (height, width), or of the smallest that is drawn."""
    height, width = (max(SMALLEST, side) for side in size)
    return Scenes(count, SEED, (height, width))
