"""Image processors as families declare them: the class of transformers, what its files leave out, what its steps mean.

    PROCESSORS = {"DeiT": Processor(VIT | {"size": {"height": 256, "width": 256}, ...}, models=("deit",))}

The name is that of the class without ImageProcessor. A class is declared by one family, and any family's checkpoint may
name it: a LLaVA often comes with CLIP's. How a file is read is in `_settings`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["CLIP", "COMMON", "SIGLIP", "VIT", "Processor"]


@dataclass(frozen=True)
class Processor:
    """An image processor's class of transformers."""

    defaults: Mapping[str, Any]
    """what the class takes where its file says nothing, in the file's own words; `image_grid_pinpoints` among them
    where it cuts images into tiles"""
    models: Sequence[str] = ()
    """model_types whose files may leave the class out"""
    any_size: bool = False
    """whether it chooses the size by the image; a graph has one size, to which its images are resized"""
    reads: Sequence[str] = ()
    """settings of its own, beside COMMON, each of them followed, or without a say in the pixels of an image or tile"""
    ignores: Sequence[str] = ()
    """those of COMMON that have no say in the pixels of an image or tile, or that it does not read"""
    fills: Sequence[str] = ()
    """settings of which null means the default; of others it switches their step off"""
    refuses: Mapping[str, str] = field(default_factory=dict)
    """those of `reads` that do what no graph does where they are on, and what to do instead"""
    squares: bool = False
    """whether do_pad is a square of the mean colour around the image, in front of every other step"""
    splits: bool = False
    """whether images are scaled to a longest edge, and then squeezed into squares of max_image_size, as Idefics 3's"""
    parts: bool = False
    """whether large images are squeezed into squares of tile_size, without the whole image among them, as LFM2-VL's"""
    torchvision: bool = False
    """whether that is its only backend, and it resizes 8 bits first, and then rescales and normalises them in one step:
    both round otherwise than Pillow and numpy"""


COMMON = (
    *("do_resize", "size", "default_to_square", "resample", "do_center_crop", "crop_size", "do_pad", "pad_size"),
    *("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std", "do_convert_rgb"),
)
"""the settings that every class has unless it says otherwise, and that change pixels"""

CLIP: dict[str, Any] = {
    "do_resize": True,
    "size": {"shortest_edge": 224},
    "default_to_square": False,
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_pad": False,
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
    "crop_size": None,
    "image_mean": (0.5, 0.5, 0.5),
    "image_std": (0.5, 0.5, 0.5),
}
VIT: dict[str, Any] = SIGLIP | {"default_to_square": True, "resample": 2, "do_convert_rgb": False}
