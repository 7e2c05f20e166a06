"""Image processors as families declare them: the class of transformers, what its files leave out, what its steps mean.

    PROCESSORS = {"DeiT": Processor(VIT | {"size": {"height": 256, "width": 256}, ...})}

The name is that of the class without ImageProcessor. A class is declared by one family, and any family's checkpoint may
name it: a LLaVA often comes with CLIP's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeprune.checkpoint import Checkpoint
from edgeprune.errors import ModelError

__all__ = ["CLIP", "SIGLIP", "VIT", "Processor", "input_size", "pair"]


@dataclass(frozen=True)
class Processor:
    """An image processor's class of transformers."""

    defaults: Mapping[str, Any]
    """what the class takes where its file says nothing, in the file's own words; `image_grid_pinpoints` among them
    where it cuts images into tiles"""
    any_size: bool = False
    """whether it chooses the size by the image; a graph has one size, to which its images are resized"""
    harmless: Sequence[str] = ()
    """steps of its files, `do_...`, that leave the pixels of an image or of a tile alone"""


CLIP: dict[str, Any] = {
    "do_resize": True,
    "size": {"shortest_edge": 224},
    "default_to_square": False,
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": (0.48145466, 0.4578275, 0.40821073),
    "image_std": (0.26862954, 0.26130258, 0.27577711),
    "do_convert_rgb": True,
}
SIGLIP: dict[str, Any] = CLIP | {
    "size": {"height": 224, "width": 224},
    "do_center_crop": False,
    "image_mean": (0.5, 0.5, 0.5),
    "image_std": (0.5, 0.5, 0.5),
}
VIT: dict[str, Any] = SIGLIP | {"default_to_square": True, "resample": 2, "do_convert_rgb": False}


def input_size(checkpoint: Checkpoint, default: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) in which the image processor hands images over, for families that take any size.

    default: of the config; what it was trained at is often not what it is used at

    Raises ModelError when the image processor's size is of no kind that transformers writes.
    """
    processor = checkpoint.processor
    size = processor.get("crop_size") if processor.get("do_center_crop", True) else None
    size = size or processor.get("size") or default
    if isinstance(size, Mapping):
        size = [size["height"], size["width"]] if {"height", "width"} <= set(size) else default
    try:
        return pair(size)
    except (TypeError, ValueError):
        raise ModelError(f"{checkpoint.id}: its image processor must give height and width, got {size!r}") from None


def pair(size: int | Sequence[int]) -> tuple[int, int]:
    """
    >>> pair(224), pair([448, 224])
    ((224, 224), (448, 224))
    """
    height, width = (size, size) if isinstance(size, int) else size
    return height, width
