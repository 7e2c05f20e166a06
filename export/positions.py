"""The weights that attention is taken times, as an export asks for them: `--option position=fitted`, `padding=HxW`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from edgeprune.encoders import Encoder
from edgeprune.errors import RequestError
from edgeprune.export.images import drawn_warning, images_of
from edgeprune.export.options import pair
from edgeprune.pruners import Method
from edgeprune.runtime.images.preprocess import Preprocessing
from edgeprune.traits import WEIGHTING
from edgeprune.weighting import fitted, stored, unpadded

__all__ = ["weighed"]


def weighed(
    encoder: Encoder, method: Method, options: Mapping[str, str], calibrate: str | None, preprocessing: Preprocessing
) -> tuple[Encoder, dict[str, Any], tuple[str, ...]]:
    """The encoder with the weights; what they were made of, as the manifest keeps it; warnings.

    options: of the method, as text; calibrate: a folder of images, or SCENES; None: SCENES

    Raises RequestError where no weight of a position can be.
    """
    if not method.traits.attends:
        return encoder, {}, ()
    position, padding = (options.get(name, default) for name, default in WEIGHTING.items())
    layers, learned, warnings = method.layers(encoder.layer), dict[str, Any](), tuple[str, ...]()
    weighting = {layer: torch.ones(encoder.patches) for layer in layers}
    if position != WEIGHTING["position"]:
        pixels, data, count = images_of(calibrate, preprocessing)
        weighting = fitted(encoder, method, pixels)
        learned["position"] = {"images": count, "data": data, "weights": stored(weighting)}
        if calibrate is None:
            warnings = (drawn_warning("the weights of positions were taken", count),)
    if padding != WEIGHTING["padding"]:
        if encoder.tiled:
            raise RequestError(
                f"option padding is of images that are put into a square whole; {encoder.family} cuts them into tiles, "
                f"got padding={padding}; leave it out"
            )
        size = pair("option padding", padding, "none, or height x width of the images, as 480x640")
        assert size is not None
        mask = unpadded(encoder.grid, size)
        weighting = {layer: one * mask for layer, one in weighting.items()}
        learned["padding"] = {"image": list(size), "patches": int(mask.sum())}
    return (dataclasses.replace(encoder, weighting=weighting) if learned else encoder), learned, warnings
