"""Learned positions at another image size than they were trained at: a constant, made once by the model's own code.

transformers resamples the table in every run (interpolate_pos_encoding=True; DINOv2 and InternVL always do), bicubic,
each family in its own way. The graph of one size holds what that gives.
"""

from __future__ import annotations

import inspect
from math import ceil, floor
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune.errors import ModelError, RequestError

__all__ = ["resample", "whole_patches"]

Size = tuple[int, int]


def resample(embeddings: Any, size: Size, special: int, id: str) -> None:
    """Bring the embeddings of a transformers model to one size of images, in place.

    size: (height, width), pixels
    special: how many of the positions are of special tokens
    id: of the checkpoint, for the message

    Raises ModelError when its table is of no square of patches, which transformers cannot resample.
    """
    convolution = next(part for part in embeddings.modules() if isinstance(part, nn.Conv2d))
    (height, width), (down, right) = size, convolution.kernel_size
    like = torch.empty(1, special + (height // down) * (width // right), convolution.out_channels)
    try:
        with torch.no_grad():
            table = embeddings.interpolate_pos_encoding(like, height, width)
    except RuntimeError:  # of a reshape
        raise ModelError(f"{id}: its positions must be of a square grid to be resampled to {height}x{width}") from None
    if hasattr(embeddings, "position_embedding"):
        embeddings.position_embedding.weight = nn.Parameter(table[0], requires_grad=False)
    else:
        embeddings.position_embeddings = nn.Parameter(table, requires_grad=False)
    kind: Any = type(embeddings)
    methods: dict[str, Any] = {"interpolate_pos_encoding": _table}
    if "interpolate_pos_encoding" in inspect.signature(kind.forward).parameters:
        methods["forward"] = lambda self, pixel_values, **_: kind.forward(
            self, pixel_values, interpolate_pos_encoding=True
        )
    embeddings.__class__ = type(kind.__name__, (kind,), methods)  # of the object, so that a copy has it, too


def whole_patches(size: Size, patch: int) -> Size:
    """The size that was asked for. Raises RequestError when it is no multiple of the patch."""
    if any(side % patch for side in size):
        down, up = ([max(1, turn(side / patch)) * patch for side in size] for turn in (floor, ceil))
        near = " or ".join("x".join(map(str, one)) for one in ((down, up) if down != up else (up,)))
        given = "x".join(map(str, size))
        raise RequestError(f"--size must be a multiple of the {patch} pixels of a patch, got {given}; {near}")
    return size


def _table(embeddings: Any, *_: Any) -> Tensor:
    if hasattr(embeddings, "position_embedding"):
        table: Tensor = embeddings.position_embedding.weight[None]
        return table
    table = embeddings.position_embeddings
    return table
