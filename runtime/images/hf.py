"""What a Hugging Face image processor's file says, in all its spellings, as plain steps.

    {"size": 224, "crop_size": 224}                      transformers 4, first years
    {"size": {"shortest_edge": 224}, "do_resize": ...}   preprocessor_config.json
    {"image_processor": {...}, "image_token": ...}       processor_config.json, transformers 5

What a file leaves out is the default of its class, as transformers fills it in; `null` is not left out, it switches a
step off. A class not listed here has no defaults: its file must say everything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["pinpoints", "steps"]

_CLIP: dict[str, Any] = {
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
_SIGLIP = _CLIP | {
    "size": {"height": 224, "width": 224},
    "do_center_crop": False,
    "image_mean": (0.5, 0.5, 0.5),
    "image_std": (0.5, 0.5, 0.5),
}
_VIT = _SIGLIP | {"default_to_square": True, "resample": 2, "do_convert_rgb": False}
_DEIT = _VIT | {"size": {"height": 256, "width": 256}, "resample": 3, "do_center_crop": True}
_NEXT = _CLIP | {"image_grid_pinpoints": [(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)]}
_ONEVISION = _CLIP | {
    "size": {"height": 384, "width": 384},
    "do_center_crop": False,
    "image_grid_pinpoints": [(384 * rows, 384 * columns) for rows in range(1, 7) for columns in range(1, 7)],
}
_QWEN = _CLIP | {"do_center_crop": False}
_SIGLIP2 = _SIGLIP | {"resample": 2, "do_convert_rgb": False}
_YOLOS = _SIGLIP | {
    "size": {"shortest_edge": 800, "longest_edge": 1333},
    "resample": 2,
    "image_mean": (0.485, 0.456, 0.406),
    "image_std": (0.229, 0.224, 0.225),
}
_GOT = _CLIP | {"size": {"height": 384, "width": 384}, "do_center_crop": False}
_ANY_SIZE = ("Qwen2VL", "Siglip2", "Yolos")
"""classes that choose the size by the image; a graph has one size, to which its images are resized"""
_UNKNOWN = {"default_to_square": True, "do_convert_rgb": False, "rescale_factor": 1 / 255}
_DEFAULTS = {
    **dict.fromkeys(("CLIP", "Llava", "VideoLlava", "Bit"), _CLIP),
    "LlavaNext": _NEXT,
    "Siglip": _SIGLIP,
    "ViT": _VIT,
    "DeiT": _DEIT,
    "Qwen2VL": _QWEN,
    "Siglip2": _SIGLIP2,
    "GotOcr2": _GOT,
    "Yolos": _YOLOS,
    "LlavaOnevision": _ONEVISION,
}
_STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb")


def steps(config: Mapping[str, Any], size: tuple[int, int] | None = None) -> dict[str, Any]:
    """The keyword arguments of `Preprocessing` except size and tiles. Raises ValueError, TypeError or KeyError."""
    kind, name, given = _read(config)
    if name in _ANY_SIZE and size is not None:
        given["size"] = {"height": size[0], "width": size[1]}
    if name in ("LlavaNext", "LlavaOnevision", "Yolos"):
        given.pop("do_pad", None)  # pads the list of tiles, or images to the largest of a batch: not these pixels
    if name == "Yolos":
        given.pop("do_convert_annotations", None)
    if others := sorted(key for key in given if key.startswith("do_") and given[key] and key not in _STEPS):
        raise ValueError(f"{kind} does {', '.join(others)}, which changes the pixels in a way edgeprune does not know")
    settings = _DEFAULTS.get(name, _UNKNOWN) | given

    def setting(key: str) -> Any:
        if key not in settings:
            raise ValueError(f"{kind} has defaults that edgeprune does not know, and its file does not say {key}")
        if settings[key] is None and not key.startswith("do_"):
            raise ValueError(f"{key} is null, but {kind} has the step on")
        return settings[key]

    return {
        "resize": _resize(setting("size"), settings["default_to_square"]) if setting("do_resize") else None,
        "resample": int(setting("resample")) if setting("do_resize") else 0,
        "crop": _crop(setting("crop_size")) if setting("do_center_crop") else None,
        "rescale": float(setting("rescale_factor")) if setting("do_rescale") else 1.0,
        "mean": _triple(setting("image_mean")) if setting("do_normalize") else (0.0, 0.0, 0.0),
        "std": _triple(setting("image_std")) if setting("do_normalize") else (1.0, 1.0, 1.0),
        "convert_rgb": bool(settings["do_convert_rgb"]),
    }


def pinpoints(config: Mapping[str, Any]) -> list[tuple[int, int]]:
    """(height, width) of the sizes that an image may be scaled to before it is cut into tiles. Raises as `steps`."""
    kind, name, given = _read(config)
    found = (_DEFAULTS.get(name, _UNKNOWN) | given).get("image_grid_pinpoints")
    if found is None:
        raise ValueError(f"{kind} cuts no tiles: its file does not say image_grid_pinpoints")
    return [(int(height), int(width)) for height, width in found]


def _read(config: Mapping[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """The class as the file has it, its name without endings, and what the file says."""
    given = dict(config.get("image_processor") or config)
    kind = str(given.get("image_processor_type") or given.get("feature_extractor_type") or "CLIPImageProcessor")
    return kind, re.sub(r"(ImageProcessor|FeatureExtractor)(Fast|Pil)?$", "", kind), given


def _resize(size: Any, default_to_square: bool) -> dict[str, int]:
    if isinstance(size, int):
        return {"height": size, "width": size} if default_to_square else {"shortest_edge": size}
    if isinstance(size, (list, tuple)):
        height, width = size
        return {"height": height, "width": width}
    return {name: value for name, value in dict(size).items() if value is not None}


def _crop(size: Any) -> tuple[int, int]:
    given = _resize(size, default_to_square=True)
    if set(given) != {"height", "width"}:
        raise ValueError(f"crop_size must have height and width; it has {', '.join(sorted(given))}")
    return given["height"], given["width"]


def _triple(given: Any) -> tuple[float, float, float]:
    if isinstance(given, (int, float)):
        return float(given), float(given), float(given)
    red, green, blue = given
    return float(red), float(green), float(blue)
