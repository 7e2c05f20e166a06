"""Options of a method that are averages over images: taken once, at export, where they are not given."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from edgeprune.encoders import Encoder
from edgeprune.export.images import drawn_warning, images_of
from edgeprune.pruners import Method
from edgeprune.reference import OfficialEncoder
from edgeprune.runtime.images.preprocess import Preprocessing

__all__ = ["averaged"]

TOGETHER = 8
"""images of one run"""
DIGITS = 6


def averaged(
    encoder: Encoder, method: Method, calibrate: str | None, preprocessing: Preprocessing
) -> tuple[Method, dict[str, Any], tuple[str, ...]]:
    """The method with them; what they were taken of, as the manifest keeps it; warnings.

    calibrate: a folder of images, or SCENES; None: SCENES
    """
    wanted = {option: name for option, name in method.traits.calibrates if not getattr(method, option)}
    if not wanted:
        return method, {}, ()
    pixels, data, count = images_of(calibrate, preprocessing)
    official, sums = OfficialEncoder(encoder, method).eval(), dict.fromkeys(wanted, 0.0)
    with torch.inference_mode():
        for part in torch.split(pixels, TOGETHER if encoder.tower.batched else 1):
            _, chosen = official.choose(part)
            for option, name in wanted.items():
                sums[option] += float(chosen.quantities[name].double().sum())
    values = {option: float(f"{total / len(pixels):.{DIGITS}g}") for option, total in sums.items()}
    learned = {option: {"images": count, "data": data, "value": value} for option, value in values.items()}
    said = ", ".join(f"{option} {value:g}" for option, value in values.items())
    warnings = (drawn_warning(f"{said} was taken", count),)
    return dataclasses.replace(method, **values), learned, warnings if calibrate is None else ()  # type: ignore[type-var]
