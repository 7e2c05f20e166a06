"""Qwen3-VL's vision tower: that of Qwen2-VL with learned positions too, and features of three more layers, DeepStack
(Qwen3VLForConditionalGeneration).

The learned positions are resampled to the grid once, here. `deepstack_0` and on are the kept tokens of the layers in
deepstack_visual_indexes, each behind a merger of its own, whose norm sees the patches of a token together; the language
model adds them to its first layers at the places of the tokens. Grid and positions are as in `qwen2_vl`.

Source  QwenLM/Qwen3-VL, transformers Qwen3VLVisionModel (get_vision_interpolation_indices_and_weights)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from edgeprune.checkpoint import Checkpoint
from edgeprune.encoders import Encoder
from edgeprune.encoders._grid import Merger, checked, merged, visual
from edgeprune.encoders._load import settings
from edgeprune.errors import ModelError

MODEL_TYPES = ("qwen3_vl",)
OPTIONS = ("grid",)
HAS = {"": ()}


def load(checkpoint: Checkpoint, layer: int | None, grid: tuple[int, int] | None = None) -> Encoder:
    """Raises RequestError when the grid is missing or no multiple of 2x2."""
    from transformers.models.qwen3_vl import modeling_qwen3_vl as modeling
    from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig
    from transformers.vision_utils import get_vision_interpolation_indices_and_weights

    config = settings(Qwen3VLVisionConfig, checkpoint.config["vision_config"])
    merge = config.spatial_merge_size
    for at in config.deepstack_visual_indexes:
        if not 0 <= at < config.depth:
            raise ModelError(
                f"{checkpoint.id}: deepstack_visual_indexes of config.json must be in 0..{config.depth - 1}, got {at}; "
                "is the file damaged?"
            )
    grid = checked(checkpoint.id, grid, config.patch_size, merge)
    own = visual(checkpoint, modeling.Qwen3VLVisionModel, config)
    near, weights = get_vision_interpolation_indices_and_weights(
        torch.tensor([[1, *grid]]),
        own.num_grid_per_side,
        mode=own.interpolation_mode,
        align_corners=own.interpolation_align_corners,
        spatial_merge_size=merge,
    )
    positions = (own.pos_embed(near) * weights[:, :, None]).sum(dim=1)
    extras = {
        f"deepstack_{number}": (at + 1, _merger(own.deepstack_merger_list[number], merge * merge))
        for number, at in enumerate(config.deepstack_visual_indexes)
    }
    merger = _merger(own.merger, merge * merge)
    return merged("qwen3_vl", modeling, own, grid, layer, merger, positions=positions, extras=extras)


def _merger(own: Any, patches: int) -> Merger:
    mlp = nn.Sequential(own.linear_fc1, own.act_fn, own.linear_fc2)
    return Merger(own.norm, mlp, 1 if own.use_postshuffle_norm else patches)
