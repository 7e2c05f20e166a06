"""What a number becomes: ranges to scales, and a tensor through the integers and back, as ONNX rounds.

    u8       q = clamp(round(x / scale) + zero, 0, 255)       scale = (high - low) / 255, zero = round(-low / scale)
    s8       q = clamp(round(x / scale), -128, 127)           scale = max(|low|, |high|) / 127
    f8e4m3   q = float8(clamp(x / scale, -448, 448))          scale = max(|low|, |high|) / 448
    s7       q = clamp(round(x / scale), -64, 64)             scale = max(|x|) / 64
    weights  the symmetric ones, a scale for each output channel

Halves go to the even number, as in ONNX. A scale has the float of the graph: what is rounded here is divided by the
scale that stands there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

__all__ = ["LARGEST", "Affine", "affine_of", "fake", "fake_weight", "quantised_weight", "scales_of"]

LARGEST = {"u8": 255.0, "s8": 127.0, "s7": 64.0, "f8e4m3": 448.0}
"""the largest number of a type; of u8, the steps that a range has"""

Kind = Literal["u8", "s8", "s7", "f8e4m3"]


@dataclass(frozen=True)
class Affine:
    """x = (q - zero) * scale"""

    kind: Kind
    scale: float
    zero: int = 0


def affine_of(low: float, high: float, kind: Kind, dtype: torch.dtype = torch.float32) -> Affine:
    """The scale and zero of a range, which is made to hold 0.

    dtype: that the scale has in the graph

    >>> affine_of(-1.0, 1.55, "u8"), affine_of(-1.0, 1.27, "s8").zero
    (Affine(kind='u8', scale=0.009999999776482582, zero=100), 0)
    """
    low, high = min(low, 0.0), max(high, 0.0)
    width = high - low if kind == "u8" else max(-low, high)
    scale = float(_scale(torch.tensor(width), kind, dtype))
    return Affine(kind, scale, min(max(round(-low / scale), 0), 255) if kind == "u8" else 0)


def scales_of(weight: Tensor, kind: Kind, dtype: torch.dtype = torch.float32) -> Tensor:
    """[D, C] -> [D] float32, of each output channel; one that is all zeros may have any."""
    return _scale(weight.detach().abs().amax(dim=1), kind, dtype)


def _scale(width: Tensor, kind: Kind, dtype: torch.dtype) -> Tensor:
    scale = (width.float() / LARGEST[kind]).to(dtype)
    least = torch.finfo(dtype).tiny
    return torch.where(width > 0, scale.clamp_min(least), torch.ones_like(scale)).float()


def fake(x: Tensor, affine: Affine) -> Tensor:
    """Activations through the integers and back."""
    if affine.kind == "f8e4m3":
        return _float8(x / affine.scale).to(x.dtype) * affine.scale
    least, most = (0, 255) if affine.kind == "u8" else (-128, 127)
    return torch.fake_quantize_per_tensor_affine(x, affine.scale, affine.zero, least, most)


def fake_weight(weight: Tensor, kind: Kind, dtype: torch.dtype = torch.float32) -> Tensor:
    """[D, C] through the integers and back."""
    scales = scales_of(weight, kind, dtype)
    return quantised_weight(weight, scales, kind).float() * scales[:, None]


def quantised_weight(weight: Tensor, scales: Tensor, kind: Kind) -> Tensor:
    """[D, C] as it stands in the graph, int8 or float8_e4m3fn."""
    scaled = weight.detach().float() / scales[:, None]
    if kind == "f8e4m3":
        return _float8(scaled)
    return scaled.round_().clamp_(-LARGEST[kind], LARGEST[kind]).to(torch.int8)


def _float8(x: Tensor) -> Tensor:
    return x.clamp(-LARGEST["f8e4m3"], LARGEST["f8e4m3"]).to(torch.float8_e4m3fn)
