"""SigLIP 2 NaFlex: no [CLS], learned positions resampled to any grid, pre-norm layers; at one grid
(Siglip2VisionModel, Siglip2Model).

A bare encoder: its tokens are last_hidden_state, which is behind post_layernorm. All patches are of the image, so that
nothing is masked. transformers cuts the patches in the image processor and embeds them with a Linear over (row, column,
channel); here that is the convolution it equals. The positions are resampled once, with the family's own code
(antialiased). The pooling head is neither read nor exported. SigLIP 2 checkpoints of one fixed size are `siglip`.

Source  google-research/big_vision models/proj/image_text/naflex_vit.py, transformers Siglip2VisionModel
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn

from edgeprune.checkpoint import Checkpoint
from edgeprune.encoders import Encoder, Tower
from edgeprune.encoders._grid import checked, convolution, squares
from edgeprune.encoders._load import pretrained, settings, tower_around, without, without_projector
from edgeprune.encoders._processor import SIGLIP, Processor

MODEL_TYPES = ("siglip2", "siglip2_vision_model")
OPTIONS = ("grid",)
HAS = {"": ()}
PROCESSORS = {
    "Siglip2": Processor(
        SIGLIP | {"resample": 2, "do_convert_rgb": False},
        models=("siglip2", "siglip2_vision_model"),
        any_size=True,
        reads=("patch_size", "max_num_patches"),
        ignores=("do_center_crop", "do_pad"),
    )
}


def load(checkpoint: Checkpoint, layer: int | None, grid: tuple[int, int] | None = None) -> Encoder:
    """Raises RequestError when the grid is missing."""
    from transformers import Siglip2VisionConfig

    given = checkpoint.config.get("vision_config", checkpoint.config)
    config = settings(Siglip2VisionConfig, given, vision_use_head=False)
    tensors = without(checkpoint, "head").tensors("vision_model.", "siglip2.vision_model.", "")
    return without_projector("siglip2", tower_at(config, tensors, checkpoint.id, grid), layer)


def tower_at(config: Any, tensors: dict[str, Tensor], id: str, grid: tuple[int, int] | None, merge: int = 1) -> Tower:
    """The tower of these tensors at one grid.

    merge: how many rows and columns of patches stand side by side in it, for a model that makes one token of them

    Raises RequestError when the grid is missing or does not divide into merge x merge.
    """
    from transformers import Siglip2VisionModel

    rows, columns = checked(id, grid, config.patch_size, merge)
    own = cast(Any, pretrained(Siglip2VisionModel, config, tensors, id))
    tower = _Tower(own, (rows, columns), merge)
    attention = [block.self_attn for block in tower.layers]
    size = rows * config.patch_size, columns * config.patch_size
    mlp = own.encoder.layers[0].mlp
    return tower_around(
        tower, attention, mlp, tower.patch_embedding, size, prefix=0, has_cls=False, blocks=tower.layers
    )


class _Tower(nn.Module):
    """pixel_values [B, 3, H, W] -> .hidden_states, .last_hidden_state, [B, P, C] in raster order, of squares of patches
    where merge is more than 1"""

    def __init__(self, own: Any, grid: tuple[int, int], merge: int) -> None:
        super().__init__()
        self.config = own.config
        self.patch_embedding = convolution(own.embeddings.patch_embedding, own.config.patch_size)
        side, patches = own.embeddings.position_embedding_size, grid[0] * grid[1]
        learned = own.embeddings.position_embedding.weight.reshape(side, side, -1)
        resampled = own.embeddings.resize_positional_embeddings(learned, torch.tensor([grid]), patches)
        order = squares(grid, merge)
        self.register_buffer("order", None if merge == 1 else order, persistent=False)
        self.position_embedding = nn.Parameter(resampled[:, order], requires_grad=False)
        self.layers, self.post_layernorm = own.encoder.layers, own.post_layernorm

    def forward(self, pixel_values: Tensor, output_hidden_states: bool = True) -> SimpleNamespace:
        patches = self.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
        if self.order is not None:
            patches = patches.index_select(1, cast(Tensor, self.order))
        hidden = [patches + self.position_embedding]
        for layer in self.layers:
            hidden.append(layer(hidden[-1], None))
        return SimpleNamespace(hidden_states=tuple(hidden), last_hidden_state=self.post_layernorm(hidden[-1]))
