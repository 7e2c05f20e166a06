"""Images with what is kept of them, and a slider over the budget where kept sets nest."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["Gallery", "Shown", "data_url", "ranks"]

LONGEST = 448
"""pixels of a picture's longer side; ten of them make a report of half a megabyte"""


@dataclass(frozen=True)
class Shown:
    name: str
    url: str
    """of the image as the encoder sees it, as data"""
    ranks: Sequence[int]
    """of each patch, its place among the picks; -1 of one that is dropped"""


@dataclass(frozen=True)
class Gallery:
    rows: int
    columns: int
    keep: int
    nested: bool
    """whether the first k of the picks are what a budget of k keeps: then there is a slider"""
    shown: Sequence[Shown]
    title: str = ""
    kind: str = "gallery"

    def dropped(self, one: Shown) -> str:
        """The patches that are dropped at the whole budget, as the path of an SVG of a unit a patch."""
        return "".join(
            f"M{at % self.columns} {at // self.columns}h1v1h-1z"
            for at, rank in enumerate(one.ranks)
            if not 0 <= rank < self.keep
        )


def ranks(patches: int, picks: Iterable[int]) -> list[int]:
    """
    >>> ranks(5, [3, 0])
    [1, -1, -1, 0, -1]
    """
    places = [-1] * patches
    for place, patch in enumerate(picks):
        if patch < patches:  # in a pool of tiles, one of another tile
            places[patch] = place
    return places


def data_url(pixels: NDArray[np.uint8]) -> str:
    """[H, W, 3] uint8 RGB -> a JPEG in text; what is small is enlarged by a whole factor, so that pixels stay sharp."""
    image = Image.fromarray(pixels)
    if (factor := LONGEST // max(image.size)) > 1:
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    elif max(image.size) > LONGEST:
        image.thumbnail((LONGEST, LONGEST))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode("ascii")
