"""Pixtral's vision tower: no [CLS], axial rotary positions, gated MLPs and RMS norms; at one grid (PixtralVisionModel).

A bare encoder, or the tower of Mistral 3 (`mistral3`) and of a LLaVA (Pixtral 12B). There is no norm behind the last
layer. transformers packs images into one sequence with a mask of blocks; here is one image, so that nothing is masked,
and the angles of its grid are constants.

Source  mistralai/mistral-inference vision_encoder.py, transformers PixtralVisionModel
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn

from edgeprune.checkpoint import Checkpoint
from edgeprune.encoders import Encoder, Tower
from edgeprune.encoders._grid import checked, squares
from edgeprune.encoders._load import pretrained, settings, tower_around, without_projector
from edgeprune.encoders._positions import whole_patches
from edgeprune.encoders._processor import CLIP, Processor
from edgeprune.encoders._settings import pair

MODEL_TYPES = ("pixtral",)
OPTIONS = ("grid",)
HAS = {"": ()}
PROCESSORS = {
    "Pixtral": Processor(
        CLIP | {"size": {"longest_edge": 1024}, "default_to_square": True, "do_center_crop": False},
        models=("pixtral", "mistral3", "lighton_ocr"),
        any_size=True,
        reads=("patch_size",),
        ignores=("do_pad",),  # pads the images of a batch to the largest
        refuses={"do_center_crop": "give images that are cropped already"},
    )
}


def load(checkpoint: Checkpoint, layer: int | None, grid: tuple[int, int] | None = None) -> Encoder:
    """Raises RequestError when the grid is missing."""
    tower = tower_at(checkpoint, checkpoint.config, grid, 1, "")
    return replace(without_projector("pixtral", tower, layer), normed=False)


def tower(checkpoint: Checkpoint, config: dict[str, Any], *prefixes: str, size: tuple[int, int] | None = None) -> Tower:
    """At a size of images, or at that of the config, the largest that it was trained at."""
    from transformers import PixtralVisionConfig

    ours = cast(Any, settings(PixtralVisionConfig, config))
    height, width = whole_patches(size or pair(ours.image_size), ours.patch_size)
    return tower_at(checkpoint, config, (height // ours.patch_size, width // ours.patch_size), 1, *prefixes)


def tower_at(
    checkpoint: Checkpoint, config: dict[str, Any], grid: tuple[int, int] | None, merge: int, *prefixes: str
) -> Tower:
    """merge: how many rows and columns of patches stand side by side in it, for a model that makes one token of them

    Raises RequestError when the grid is missing or does not divide into merge x merge.
    """
    from transformers import PixtralVisionConfig, PixtralVisionModel

    ours = cast(Any, settings(PixtralVisionConfig, config))
    rows, columns = checked(checkpoint.id, grid, ours.patch_size, merge)
    own = cast(Any, pretrained(PixtralVisionModel, ours, checkpoint.tensors(*prefixes), checkpoint.id))
    module = _Tower(own, (rows, columns), merge)
    tower = tower_around(
        module,
        [layer.attention for layer in module.layers],
        module.layers[0].feed_forward,
        module.patch_conv,
        (rows * ours.patch_size, columns * ours.patch_size),
        prefix=0,
        has_cls=False,
        blocks=module.layers,
    )
    return replace(tower, batched=False, rotary=True)  # positions are of one image


class _Tower(nn.Module):
    """pixel_values [B, 3, H, W] -> .hidden_states, .last_hidden_state, [B, P, C] in raster order, of squares of patches
    where merge is more than 1"""

    def __init__(self, own: Any, grid: tuple[int, int], merge: int) -> None:
        super().__init__()
        self.config, self.patch_conv, self.ln_pre = own.config, own.patch_conv, own.ln_pre
        self.layers = own.transformer.layers
        order = squares(grid, merge)
        self.register_buffer("order", None if merge == 1 else order, persistent=False)
        places = torch.cartesian_prod(*map(torch.arange, grid))[order]
        cos, sin = own.patch_positional_embedding(torch.empty(0), places)
        self._rotation = cos, sin

    def forward(self, pixel_values: Tensor, output_hidden_states: bool = True) -> SimpleNamespace:
        patches = self.patch_conv(pixel_values).flatten(2).transpose(1, 2)
        if self.order is not None:
            patches = patches.index_select(1, cast(Tensor, self.order))
        hidden = [self.ln_pre(patches)]
        rotation = tuple(table.to(patches.dtype) for table in self._rotation)  # rounded as transformers rounds them
        for layer in self.layers:
            hidden.append(layer(hidden[-1], None, position_embeddings=rotation))
        return SimpleNamespace(hidden_states=tuple(hidden), last_hidden_state=hidden[-1])
