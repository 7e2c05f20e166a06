"""Qwen3.5's vision tower: that of Qwen3-VL without DeepStack (Qwen3_5ForConditionalGeneration, also of experts).

Three of four layers of its language model are recurrent and know no positions: they read the kept tokens in the order
in which they come, which is that of the raster. Grid and positions are as in `qwen2_vl`.

Source  QwenLM/Qwen3.5, transformers Qwen3_5VisionModel (Qwen3_5MoeVisionModel is the same), Qwen3_5Model
"""

from __future__ import annotations

from edgeprune.checkpoint import Checkpoint
from edgeprune.encoders import Encoder
from edgeprune.encoders._grid import checked, learned, merged, merger_of, visual
from edgeprune.encoders._load import settings

MODEL_TYPES = ("qwen3_5", "qwen3_5_moe")
OPTIONS = ("grid",)
HAS = {"": ()}


def load(checkpoint: Checkpoint, layer: int | None, grid: tuple[int, int] | None = None) -> Encoder:
    """Raises RequestError when the grid is missing or no multiple of 2x2."""
    from transformers.models.qwen3_5 import modeling_qwen3_5 as modeling
    from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5VisionConfig

    config = settings(Qwen3_5VisionConfig, checkpoint.config["vision_config"])
    merge = config.spatial_merge_size
    grid = checked(checkpoint.id, grid, config.patch_size, merge)
    own = visual(checkpoint, modeling.Qwen3_5VisionModel, config)
    merger = merger_of(own.merger, merge * merge)
    return merged("qwen3_5", modeling, own, grid, layer, merger, positions=learned(own, grid))
