"""One annotated image, whatever it was read from or drawn by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Sample"]


@dataclass(frozen=True)
class Sample:
    """An image with M objects; M may be 0."""

    image: npt.NDArray[np.uint8]
    """[H, W, 3], RGB"""
    boxes: npt.NDArray[np.float32]
    """[M, 4], x0, y0, x1, y1 in pixels; the edges of pixels, so that x1 - x0 is the width"""
    labels: npt.NDArray[np.int64]
    """[M], which class"""
    masks: npt.NDArray[np.bool_] | None
    """[M, H, W], the visible pixels of each object; None where only boxes are known"""
    name: str
    """what messages call it"""

    @property
    def size(self) -> tuple[int, int]:
        """height and width"""
        height, width = self.image.shape[:2]
        return height, width

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sample):
            return NotImplemented
        pairs: list[tuple[Any, Any]] = [
            (self.image, other.image),
            (self.boxes, other.boxes),
            (self.labels, other.labels),
            (self.masks, other.masks),
        ]
        return self.name == other.name and all(np.array_equal(a, b) for a, b in pairs)
