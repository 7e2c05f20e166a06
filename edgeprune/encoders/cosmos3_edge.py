"""Cosmos3-Edge: the tower of SigLIP 2 NaFlex, of which 2x2 patches are one token; at one grid
(Cosmos3EdgeForConditionalGeneration).

transformers runs over the patches of all images as one packed sequence, 2x2 by 2x2; the layers of Siglip2VisionModel,
whose names its own have, compute the same of one image. The features are last_hidden_state, behind post_layernorm. Grid
and positions are as in `qwen2_vl`; the language model has rotary positions of three axes and none of the sequence.

Source  nvidia/Cosmos3-Edge, transformers Cosmos3EdgeModel.get_image_features (Cosmos3EdgePatchMerger)
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch

from edgeprune.checkpoint import Checkpoint
from edgeprune.encoders import Encoder
from edgeprune.encoders._grid import merger_of, token_places
from edgeprune.encoders._load import part_of, renamed, settings, without_projector
from edgeprune.encoders._processor import SIGLIP, Processor
from edgeprune.encoders.siglip2 import tower_at

MODEL_TYPES = ("cosmos3_edge",)
OPTIONS = ("grid",)
HAS = {"": ()}
PROCESSORS = {
    "Cosmos3Edge": Processor(
        SIGLIP,
        models=("cosmos3_edge",),
        any_size=True,
        reads=("patch_size", "temporal_patch_size", "merge_size"),
        ignores=("do_center_crop", "do_pad"),
    )
}
NAMES = {
    **{f".self_attn.to_{one}.": f".self_attn.{one}_proj." for one in ("q", "k", "v", "out")},
    ".mlp.up_proj.": ".mlp.fc1.",
    ".mlp.down_proj.": ".mlp.fc2.",
}
"""as save_pretrained writes the tower's layers, with the names that the files of nvidia have for the language model"""


def load(checkpoint: Checkpoint, layer: int | None, grid: tuple[int, int] | None = None) -> Encoder:
    """Raises RequestError when the grid is missing or no multiple of 2x2."""
    from transformers import Cosmos3EdgeConfig, Siglip2VisionConfig
    from transformers.models.cosmos3_edge.modeling_cosmos3_edge import Cosmos3EdgePatchMerger

    config: Any = Cosmos3EdgeConfig(**checkpoint.config)
    vision = settings(Siglip2VisionConfig, checkpoint.config["vision_config"], vision_use_head=False)
    merge = config.vision_config.spatial_merge_size
    tensors = renamed(checkpoint.tensors("model.visual.", "visual."), NAMES)
    tower = tower_at(vision, tensors, checkpoint.id, grid, merge)
    assert grid is not None
    stored = checkpoint.tensors("model.projector.", "projector.")
    merger = cast(Any, part_of(Cosmos3EdgePatchMerger, config, stored, checkpoint.id))
    return replace(
        without_projector("cosmos3_edge", replace(tower, batched=False), layer),  # positions are of one image
        projector=merger_of(merger, merge * merge),
        groups=torch.arange(grid[0] * grid[1]).reshape(-1, merge * merge),
        positions=token_places(grid, merge),
    )
