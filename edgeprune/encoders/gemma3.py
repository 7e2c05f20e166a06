"""Gemma 3: a SigLIP tower, of which the mean of 4x4 patches is one token, behind a norm and one product
(Gemma3ForConditionalGeneration).

    token[r, c] = W norm(mean of the patches [4r .. 4r + 3, 4c .. 4c + 3])

The mean stands in front of the norm, so that it belongs to the projector; methods see the 16 patches side by side. Its
tower takes 896x896 pixels, 4096 patches: one attention map is 1 GiB, so that a column mean takes it in parts (`taps`).
The features are last_hidden_state, behind post_layernorm. In the language model the tokens of an image see each other
both ways; the kept ones are one run of placeholders, as the whole image's are.

Source  google/gemma-3, transformers Gemma3MultiModalProjector, Gemma3Model.get_image_features
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
from torch import nn

from edgeprune.checkpoint import Checkpoint
from edgeprune.encoders import Encoder, siglip
from edgeprune.encoders._grid import Mean, in_squares
from edgeprune.encoders._load import part_of, without_projector
from edgeprune.encoders._processor import SIGLIP, Processor
from edgeprune.errors import ModelError

MODEL_TYPES = ("gemma3",)
HAS = {"": ()}
PROCESSORS = {
    "Gemma3": Processor(
        SIGLIP | {"default_to_square": True, "resample": 2},
        models=("gemma3",),
        reads=(
            *("do_pan_and_scan", "pan_and_scan_min_crop_size", "pan_and_scan_max_num_crops"),
            "pan_and_scan_min_ratio_to_activate",
        ),
        ignores=("do_center_crop", "do_pad"),
        refuses={"do_pan_and_scan": "switch it off, and give crops as images of their own"},
    )
}


def load(checkpoint: Checkpoint, layer: int | None) -> Encoder:
    """Raises ModelError when the patches cannot be averaged to tokens."""
    from transformers import Gemma3Config
    from transformers.models.gemma3.modeling_gemma3 import Gemma3MultiModalProjector

    config = cast(Any, Gemma3Config(**checkpoint.config))
    tower = siglip.tower(
        checkpoint,
        checkpoint.config["vision_config"],
        *("model.vision_tower.vision_model.", "vision_tower.vision_model.", "model.vision_tower.", "vision_tower."),
    )
    rows, columns = tower.grid
    across = round(config.mm_tokens_per_image**0.5)
    if across**2 != config.mm_tokens_per_image or rows != columns or rows % across:
        raise ModelError(
            f"{checkpoint.id}: mm_tokens_per_image of config.json must be a square whose side divides the grid of "
            f"{rows}x{columns} patches, got {config.mm_tokens_per_image}; is the file damaged?"
        )
    merge = rows // across
    in_squares(tower.embeddings, tower.grid, merge)
    stored = checkpoint.tensors("model.multi_modal_projector.", "multi_modal_projector.")
    own = cast(Any, part_of(Gemma3MultiModalProjector, config, stored, checkpoint.id))
    return replace(
        without_projector("gemma3", tower, layer),
        projector=Mean(own.mm_soft_emb_norm, _linear(own.mm_input_projection_weight), merge * merge),
        groups=torch.arange(rows * columns).reshape(-1, merge * merge),
    )


def _linear(weight: nn.Parameter) -> nn.Linear:
    """[C, D] -> the product with it"""
    linear = nn.Linear(weight.shape[0], weight.shape[1], bias=False, device="meta")
    linear.weight = nn.Parameter(weight.T.contiguous(), requires_grad=False)
    return linear
