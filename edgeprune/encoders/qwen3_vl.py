"""Qwen3-VL's vision tower: that of Qwen2-VL with learned positions too, and features of three more layers, DeepStack
(Qwen3VLForConditionalGeneration, also of experts, and Cosmos3OmniForConditionalGeneration).

The learned positions are resampled to the grid once, here. `deepstack_0` and on are the kept tokens of the layers in
deepstack_visual_indexes, each behind a merger of its own, whose norm sees the patches of a token together; the language
model adds them to its first layers at the places of the tokens. Grid and positions are as in `qwen2_vl`.

Source  QwenLM/Qwen3-VL, transformers Qwen3VLVisionModel (get_vision_interpolation_indices_and_weights), which
        Cosmos3OmniModel has as it is and Qwen3VLMoeModel as a copy
"""

from __future__ import annotations

from edgeprune.checkpoint import Checkpoint
from edgeprune.encoders import Encoder
from edgeprune.encoders._grid import checked, learned, merged, merger_of, visual
from edgeprune.encoders._load import settings
from edgeprune.errors import ModelError

MODEL_TYPES = ("qwen3_vl", "qwen3_vl_moe", "cosmos3_omni")
OPTIONS = ("grid",)
HAS = {"": ()}
FLAT = ("patch_embed", "pos_embed", "blocks", "merger", "deepstack_merger_list")
"""the parts of the tower, whose names have nothing in front of them in the files of Cosmos3"""


def load(checkpoint: Checkpoint, layer: int | None, grid: tuple[int, int] | None = None) -> Encoder:
    """Raises RequestError when the grid is missing or no multiple of 2x2."""
    from transformers.models.qwen3_vl import modeling_qwen3_vl as modeling
    from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig

    config = settings(Qwen3VLVisionConfig, checkpoint.config["vision_config"])
    merge = config.spatial_merge_size
    for at in config.deepstack_visual_indexes:
        if not 0 <= at < config.depth:
            raise ModelError(
                f"{checkpoint.id}: deepstack_visual_indexes of config.json must be in 0..{config.depth - 1}, got {at}; "
                "is the file damaged?"
            )
    grid = checked(checkpoint.id, grid, config.patch_size, merge)
    own = visual(checkpoint, modeling.Qwen3VLVisionModel, config, FLAT)
    extras = {
        f"deepstack_{number}": (at + 1, merger_of(own.deepstack_merger_list[number], merge * merge))
        for number, at in enumerate(config.deepstack_visual_indexes)
    }
    merger = merger_of(own.merger, merge * merge)
    return merged("qwen3_vl", modeling, own, grid, layer, merger, positions=learned(own, grid), extras=extras)
