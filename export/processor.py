"""What a Hugging Face image processor's file says, in all its spellings, as plain steps.

    {"size": 224, "crop_size": 224}                      transformers 4, first years
    {"size": {"shortest_edge": 224}, "do_resize": ...}   preprocessor_config.json
    {"image_processor": {...}, "image_token": ...}       processor_config.json, transformers 5

What a file leaves out is the default of its class, as transformers fills it in; `null` is not left out, it switches a
step off. Defaults are declared by the families, in PROCESSORS; a class that none of them declares has no defaults: its
file must say everything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from edgeprune.encoders import Processor, processors
from edgeprune.errors import ModelError
from edgeprune.runtime.images.preprocess import Preprocessing
from edgeprune.runtime.images.tiles import Tiles

__all__ = ["read_processor"]

_UNKNOWN = Processor({"default_to_square": True, "do_convert_rgb": False, "rescale_factor": 1 / 255})
_STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb")


def read_processor(config: Mapping[str, Any], size: tuple[int, int], tiles: int | None = None) -> Preprocessing:
    """From the content of `preprocessor_config.json`, or of `processor_config.json` (transformers 5).

    size: (height, width) that the encoder takes, pixels
    tiles: how many tiles it takes of one image, the whole image among them; None where images are not cut up

    Raises ModelError when the steps do not end at that size, when one of them is not of the kind that `Preprocessing`
    takes, or when the processor never makes that many tiles.
    """
    try:
        whole = Preprocessing(size=size, **_steps(config, size))
        if tiles is None:
            return whole
        return replace(whole, tiles=Tiles.among(tiles, size[0], _pinpoints(config) if tiles > 1 else ()))
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(f"the image processor cannot be used: {error}; use a checkpoint like CLIP's") from None


def _steps(config: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """The keyword arguments of `Preprocessing` except size and tiles. Raises ValueError, TypeError or KeyError."""
    kind, processor, given = _read(config)
    if processor.any_size:
        given["size"] = {"height": size[0], "width": size[1]}
    given = {key: value for key, value in given.items() if key not in processor.harmless}
    if others := sorted(key for key in given if key.startswith("do_") and given[key] and key not in _STEPS):
        raise ValueError(f"{kind} does {', '.join(others)}, which changes the pixels in a way edgeprune does not know")
    settings = {**processor.defaults, **given}

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


def _pinpoints(config: Mapping[str, Any]) -> list[tuple[int, int]]:
    """(height, width) of the sizes that an image may be scaled to before it is cut into tiles. Raises as `_steps`."""
    kind, processor, given = _read(config)
    sizes = {**processor.defaults, **given}.get("image_grid_pinpoints")
    if sizes is None:
        raise ValueError(f"{kind} cuts no tiles: its file does not say image_grid_pinpoints")
    return [(int(height), int(width)) for height, width in sizes]


def _read(config: Mapping[str, Any]) -> tuple[str, Processor, dict[str, Any]]:
    """The class as the file has it, what its family says of it, and what the file says."""
    given = dict(config.get("image_processor") or config)
    kind = str(given.get("image_processor_type") or given.get("feature_extractor_type") or "CLIPImageProcessor")
    stem = re.sub(r"(ImageProcessor|FeatureExtractor)(Fast|Pil)?$", "", kind)
    return kind, processors().get(stem, _UNKNOWN), given


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
