"""Qwen2-VL's vision tower: no [CLS], rotated positions, every 2x2 patches merged to one token; at one grid
(Qwen2VLForConditionalGeneration).

The grid counts patches before they are merged: 32x32 is 448x448 pixels and 256 tokens. `positions` are the places of
the tokens in the image (time, row, column) from 0, for the rotary positions of the language model; the caller adds the
place of the image in the text. Text goes on behind the whole grid, whatever was kept.

Source  QwenLM/Qwen2-VL, transformers Qwen2VisionTransformerPretrainedModel, Qwen2VLModel.get_image_features
"""

from __future__ import annotations

from edgeprune.checkpoint import Checkpoint
from edgeprune.encoders import Encoder
from edgeprune.encoders._grid import Merger, checked, merged, visual
from edgeprune.encoders._load import settings
from edgeprune.encoders._processor import CLIP, Processor

MODEL_TYPES = ("qwen2_vl",)
OPTIONS = ("grid",)
HAS = {"": ()}
PROCESSORS = {
    "Qwen2VL": Processor(
        CLIP,
        models=("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "cosmos3_omni", "qwen3_5", "qwen3_5_moe"),
        any_size=True,
        reads=("min_pixels", "max_pixels", "patch_size", "temporal_patch_size", "merge_size"),
        ignores=("do_center_crop", "do_pad"),
    )
}


def load(checkpoint: Checkpoint, layer: int | None, grid: tuple[int, int] | None = None) -> Encoder:
    """Raises RequestError when the grid is missing or no multiple of 2x2."""
    from transformers.models.qwen2_vl import modeling_qwen2_vl as modeling
    from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig

    config = settings(Qwen2VLVisionConfig, checkpoint.config["vision_config"])
    merge = config.spatial_merge_size
    grid = checked(checkpoint.id, grid, config.patch_size, merge)
    own = visual(checkpoint, modeling.Qwen2VisionTransformerPretrainedModel, config)
    return merged("qwen2_vl", modeling, own, grid, layer, Merger(own.merger.ln_q, own.merger.mlp, merge * merge))
