"""Aya Vision: SigLIP's tower, 2x2 patches are one token by pixel shuffle, and a gated projector
(AyaVisionForConditionalGeneration).

    token[r, c] = W2 (silu(gate) * up),  up | gate = W1 norm(patches of square [r, c], row by row, side by side)

The features are hidden_states[vision_feature_layer], in front of SigLIP's final norm. Where the image processor says
`crop_to_patches`, a run is of the tiles of one image, cut as InternVL's ("squeezed"); each has a tag of its own in the
prompt, and so a budget of its own.

Source  transformers AyaVisionModel.get_image_features
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from edgeprune.checkpoint import Checkpoint
from edgeprune.encoders import Encoder, internvl
from edgeprune.encoders._grid import in_squares
from edgeprune.encoders._load import with_projector
from edgeprune.encoders._settings import cuts_tiles
from edgeprune.errors import ModelError

MODEL_TYPES = ("aya_vision",)
HAS = {"": ()}


def load(checkpoint: Checkpoint, layer: int | None) -> Encoder:
    """Raises ModelError when the patches cannot be shuffled to tokens."""
    from transformers import AyaVisionConfig
    from transformers.models.aya_vision.modeling_aya_vision import AyaVisionMultiModalProjector

    config = cast(Any, AyaVisionConfig(**checkpoint.config))
    encoder = with_projector("aya_vision", checkpoint, config, AyaVisionMultiModalProjector, layer)
    side, (rows, columns) = config.downsample_factor, encoder.tower.grid
    if encoder.beside or rows != columns or rows % side:
        raise ModelError(
            f"{checkpoint.id}: a token is {side}x{side} patches of one layer, which must divide a square grid, got "
            f"{rows}x{columns} of {encoder.features}; is config.json damaged?"
        )
    in_squares(encoder.tower.embeddings, encoder.tower.grid, side)
    groups = torch.arange(rows * columns).reshape(-1, side * side)
    encoder = replace(encoder, projector=_Gated(encoder.projector), groups=groups)
    return replace(encoder, tiled=True, tagged=True, layout=internvl.LAYOUT) if cuts_tiles(checkpoint) else encoder


class _Gated(nn.Module):
    """[B, N, g * C] -> [B, N, D], the projector of transformers behind its pixel shuffle."""

    def __init__(self, own: Any) -> None:
        super().__init__()
        self.layernorm, self.linear_1, self.act, self.linear_2 = own.layernorm, own.linear_1, own.act, own.linear_2

    def forward(self, x: Tensor) -> Tensor:
        up, gate = self.linear_1(self.layernorm(x)).chunk(2, dim=-1)
        projected: Tensor = self.linear_2(self.act(gate) * up)
        return projected
