"""Qwen2.5-VL's vision tower: that of Qwen2-VL with gated MLPs and RMS norms, whose blocks attend in windows
(Qwen2_5_VLForConditionalGeneration).

Only the blocks of fullatt_block_indexes (8, 16, 24 and 32 of 32, counted from 1) attend to the whole image, the others
in windows of 112 pixels; what stands beyond the last whole window is a smaller one. The tower runs window after window;
its tokens come out in raster order. Grid and positions are as in `qwen2_vl`.

Source  QwenLM/Qwen2.5-VL, transformers Qwen2_5_VisionTransformerPretrainedModel (get_vision_window_index)
"""

from __future__ import annotations

import torch

from edgeprune.checkpoint import Checkpoint
from edgeprune.encoders import Encoder
from edgeprune.encoders._grid import Merger, checked, merged, visual
from edgeprune.encoders._load import settings

MODEL_TYPES = ("qwen2_5_vl",)
OPTIONS = ("grid",)
HAS = {"": ()}


def load(checkpoint: Checkpoint, layer: int | None, grid: tuple[int, int] | None = None) -> Encoder:
    """Raises RequestError when the grid is missing or no multiple of 2x2."""
    from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as modeling
    from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
    from transformers.vision_utils import get_vision_window_index

    config = settings(Qwen2_5_VLVisionConfig, checkpoint.config["vision_config"])
    merge, patch = config.spatial_merge_size, config.patch_size
    grid = checked(checkpoint.id, grid, patch, merge)
    own = visual(checkpoint, modeling.Qwen2_5_VisionTransformerPretrainedModel, config)
    order, ends = get_vision_window_index(torch.tensor([[1, *grid]]), merge, config.window_size, patch)
    windows = dict.fromkeys(set(range(config.depth)) - set(config.fullatt_block_indexes), ends.diff().tolist())
    merger = Merger(own.merger.ln_q, own.merger.mlp, merge * merge)
    return merged("qwen2_5_vl", modeling, own, grid, layer, merger, token_order=order, windows=windows)
