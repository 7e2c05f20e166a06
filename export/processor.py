"""The settings of a Hugging Face image processor as the plain steps that the runtime takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from edgeprune.encoders._settings import Settings, settings_of
from edgeprune.errors import ModelError
from edgeprune.runtime.images.preprocess import Preprocessing
from edgeprune.runtime.images.resize import PILLOW, TORCH
from edgeprune.runtime.images.tiles import Tiles

__all__ = ["read_processor"]

Size = tuple[int, int]
Triple = tuple[float, float, float]
MOST_TILES = 256
"""that a processor may say it makes, in some 1500 shapes"""


def read_processor(
    config: Mapping[str, Any],
    size: Size,
    tiles: int | None = None,
    *,
    model_type: str = "",
    resized: bool = False,
) -> Preprocessing:
    """From the content of `preprocessor_config.json`, or of `processor_config.json` (transformers 5).

    size: (height, width) that the encoder takes, pixels
    tiles: how many tiles it takes of one image, all that its processor makes of one size; None where images are not
        cut up
    model_type: of the checkpoint, for a file that does not say its class
    resized: whether the size was asked for: a processor of another size is brought to it

    Raises ModelError when the steps do not end at that size, when one of them is not of the kind that `Preprocessing`
    takes, or when the processor never makes that many tiles.
    """
    try:
        settings = settings_of(config, model_type)
        for name, instead in settings.processor.refuses.items():
            if settings.values.get(name):
                raise ValueError(f"{settings.kind} has {name} on, which makes no image of one size; {instead}")
        whole = _steps(settings, size, resized, tiles is not None)
        if settings.processor.splits:
            if tiles is None:
                raise ValueError(f"{settings.kind} cuts images into tiles, which this encoder takes whole")
            longest = settings.longest()
            shapes = _splits(longest, size[0]) if settings.value("do_image_splitting") else []
            return replace(whole, tiles=Tiles.among(tiles, size[0], shapes, True, longest))
        if tiles is not None and settings.part:
            shapes = _parts(settings)
            return replace(whole, tiles=Tiles.among(tiles, size[0], shapes, squeezed=True, whole=False))
        if tiles is not None:
            squeezed = settings.tiled
            pinpoints = _canvases(settings, size[0]) if squeezed else _pinpoints(settings) if tiles > 1 else []
            return replace(whole, tiles=Tiles.among(tiles, size[0], pinpoints, squeezed))
        if settings.tiled:
            raise ValueError(
                f"{settings.kind} cuts images into tiles (crop_to_patches), which this encoder takes whole"
            )
        return whole
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(f"the image processor cannot be used: {error}; use a checkpoint like CLIP's") from None


def _steps(settings: Settings, size: Size, resized: bool, tiled: bool) -> Preprocessing:
    """tiled: whether they are those of a tile, which is a square. Raises ValueError, TypeError or KeyError."""
    resize, crop = _fitted(settings, size, resized, tiled)
    rescale, mean, std = _scales(settings)
    square = _levels(settings.value("image_mean")) if settings.on("do_pad") and settings.processor.squares else None
    return Preprocessing(
        size=size,
        resize=resize,
        resample=0 if resize is None else int(settings.value("resample")),
        crop=crop,
        rescale=rescale,
        mean=mean,
        std=std,
        convert_rgb=bool(settings.values["do_convert_rgb"]),
        square=square,
        resizer=TORCH if settings.processor.torchvision and resize else PILLOW,
        pad=settings.padded() is not None and (crop or resize) not in (size, {"height": size[0], "width": size[1]}),
    )


def _fitted(settings: Settings, size: Size, resized: bool, tiled: bool) -> tuple[dict[str, int] | None, Size | None]:
    """Resize and crop, brought to the size where images of another one are resized to it.

    A square crop keeps the share that it has of the image, and images their shape; for any other size there is no
    telling what should be cut off, so that nothing is.
    """
    exact = {"height": size[0], "width": size[1]}
    if settings.processor.any_size:
        return (exact if settings.on("do_resize") else None), None
    resize, crop = settings.resize(), settings.crop()
    if tiled and resize and set(resize) == {"shortest_edge"}:
        return {"height": resize["shortest_edge"], "width": resize["shortest_edge"]}, crop
    if (padded := settings.padded()) is not None:
        if padded == size or not resize:
            return resize, crop
        if resized and "max_height" in resize:
            return {"max_height": size[0], "max_width": size[1]}, None
        if not resized:
            raise ValueError(
                f"{settings.kind} pads images to {padded[0]}x{padded[1]}, the encoder takes {size[0]}x{size[1]}"
            )
    if not resized and resize and not settings.result():
        raise ValueError(
            f"a resize by {' and '.join(sorted(resize))} needs a crop, or the size would depend on the image; where "
            "the encoder takes any, --size HxW fixes it"
        )
    if not resized or settings.result() == size:
        return resize, crop
    if resize is None or crop is None or crop[0] != crop[1] or size[0] != size[1]:
        return exact, None
    return {name: value * size[0] // crop[0] for name, value in resize.items()}, size


def _pinpoints(settings: Settings) -> list[Size]:
    """(height, width) of the sizes that an image may be scaled to before it is cut into tiles. Raises as `_steps`."""
    if (sizes := settings.values.get("image_grid_pinpoints")) is None:
        raise ValueError(f"{settings.kind} cuts no tiles: its file does not say image_grid_pinpoints")
    return [(int(height), int(width)) for height, width in sizes]


def _canvases(settings: Settings, side: int) -> list[Size]:
    """The sizes that InternVL's processor squeezes an image into, in the order in which it tries them."""
    least, most = settings.value("min_patches"), settings.value("max_patches")
    every = [(rows, columns) for columns in range(1, most + 1) for rows in range(1, most + 1)]
    return [(rows * side, columns * side) for rows, columns in every if least <= rows * columns <= most]


def _splits(longest: int, side: int) -> list[Size]:
    """The sizes that Idefics 3's processor squeezes an image into: whole tiles, as many along the longer side."""
    along = -(-longest // side)
    wide = [(side * across, side * along) for across in range(1, along + 1)]
    return wide + [(width, height) for height, width in wide if height != width]


def _parts(settings: Settings) -> list[Size]:
    """The sizes that LFM2-VL's processor squeezes an image into, in the order in which it tries those of as many tiles:
    that of a set of (columns, rows), which decides between two that are as near. Raises as `_steps`."""
    side, least, most = settings.part, settings.value("min_tiles"), settings.value("max_tiles")
    if not 0 < least <= most <= MOST_TILES:
        raise ValueError(f"min_tiles..max_tiles must lie in 1..{MOST_TILES}, got {least}..{most}")
    shapes = {
        (columns, rows)
        for longer in range(least, most + 1)
        for columns in range(1, longer + 1)
        for rows in range(1, min(longer, most // columns) + 1)
        if columns * rows >= least
    }
    return [(rows * side, columns * side) for columns, rows in sorted(shapes, key=math.prod)]


def _levels(mean: Any) -> tuple[int, int, int]:
    """The colour that transformers pads with: the mean, of 255, rounded down."""
    red, green, blue = (int(value * 255) for value in _triple(mean))
    return red, green, blue


def _scales(settings: Settings) -> tuple[float, Triple, Triple]:
    """rescale, mean and std; as transformers' TorchvisionBackend has them, of levels as they are, and in float32."""
    rescale = float(settings.value("rescale_factor")) if settings.on("do_rescale") else 1.0
    torchvision = settings.processor.torchvision
    if not settings.on("do_normalize"):
        return float(np.float32(rescale)) if torchvision else rescale, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    mean, std = _triple(settings.value("image_mean")), _triple(settings.value("image_std"))
    if not torchvision or not rescale:
        return rescale, mean, std
    levels = np.float32(1.0 / rescale)
    return 1.0, _triple(levels * np.array(mean, np.float32)), _triple(levels * np.array(std, np.float32))


def _triple(given: Any) -> Triple:
    if isinstance(given, (int, float)):
        return float(given), float(given), float(given)
    red, green, blue = given
    return float(red), float(green), float(blue)
