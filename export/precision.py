"""What the graph computes in, and what it is given: float16 weights, raw pixels with the normalisation folded in.

The reference keeps its own weights: what is changed here is a copy.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from edgeprune.encoders import Encoder
from edgeprune.errors import ModelError
from edgeprune.pruners import Method
from edgeprune.pruners._scorer import Scorer
from edgeprune.runtime.images.preprocess import Preprocessing

__all__ = ["RawPixels", "fold_normalisation", "in_precision"]


def in_precision(
    encoder: Encoder, method: Method, preprocessing: Preprocessing, precision: str, uint8: bool, id: str
) -> tuple[Encoder, Method]:
    """Encoder and method in the form that the graph has; those given stay as they are.

    precision: float32 or float16; uint8: whether the graph takes raw pixels; id: of the checkpoint, for the message

    Raises ModelError when a weight is beyond the range of float16.
    """
    if precision == "float32" and not uint8:
        return encoder, method
    # One copy of all: attention modules, blocks and the patch embedding are parts of the tower's module.
    encoder, scorer = copy.deepcopy((encoder, method.scorer))
    tower = encoder.tower
    if uint8:
        own = [scorer.patch_embedding] if isinstance(scorer, Scorer) and scorer.config.kind != "trunk" else []
        for convolution in (tower.patch_embedding, *own):
            fold_normalisation(convolution, preprocessing.rescale, preprocessing.mean, preprocessing.std)
    if precision == "float16":
        if scorer is not None:
            scorer.half()
        beside = (projector for _, projector in encoder.extras.values())
        joint = (part for part in (encoder.aligner, encoder.keyer) if part is not None)
        for part in (tower.module, encoder.projector, *beside, *joint):
            part.half()
            for name, value in part.named_parameters():
                if not torch.isfinite(value).all():
                    raise ModelError(f"{id}: {name} is beyond the range of float16; export with --precision float32")
    return encoder, method if scorer is None else replace(method, scorer=scorer)  # type: ignore[type-var]


class RawPixels(nn.Module):
    """[B, H, W, 3] uint8 -> [B, 3, H, W] float, 0..255; for a patch embedding that holds the normalisation."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype

    def forward(self, images: Tensor) -> Tensor:
        return images.to(self._dtype).permute(0, 3, 1, 2)  # TensorRT moves no bytes, it casts them


def fold_normalisation(
    patch_embedding: nn.Conv2d, rescale: float, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    """Make the convolution take raw 0..255 pixels, in place: conv((rescale * x - mean) / std) = conv'(x).

    Exact, because a patch embedding has no padding: w' = w * rescale / std, b' = b - sum(w * mean / std).
    """
    weight = patch_embedding.weight.detach()
    centre, spread = weight.new_tensor(mean).view(1, -1, 1, 1), weight.new_tensor(std).view(1, -1, 1, 1)
    shift = (weight * centre / spread).sum(dim=(1, 2, 3))
    bias = -shift if patch_embedding.bias is None else patch_embedding.bias.detach() - shift
    patch_embedding.weight = nn.Parameter(weight * rescale / spread, requires_grad=False)
    patch_embedding.bias = nn.Parameter(bias, requires_grad=False)
