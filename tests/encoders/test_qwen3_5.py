"""Qwen3.5: Qwen3-VL's tower without DeepStack, of dense models and of experts, in front of recurrent layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.encoders.kinds import LANGUAGE, Kind
from tests.encoders.test_qwen import DEEP, PROCESSOR, TOWER, WIDTHS, flattened

TEXT: dict[str, Any] = {
    **LANGUAGE,
    "num_hidden_layers": 2,
    "layer_types": ["linear_attention", "full_attention"],
    "head_dim": 24,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 1e4,
        "partial_rotary_factor": 1.0,
        "mrope_section": [4, 4, 4],
    },
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
}
EXPERTS: dict[str, Any] = {
    "num_experts": 2,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}


def given(pixels: Tensor) -> dict[str, Any]:
    """2x2 by 2x2 patches of 4 pixels, each of two equal frames"""
    grid = pixels.shape[2] // 4, pixels.shape[3] // 4
    return {"pixel_values": flattened(pixels, grid), "image_grid_thw": torch.tensor([[1, *grid]])}


def declare(stem: str, family: str, **text: Any) -> Kind:
    vision = {**TOWER, **WIDTHS, "intermediate_size": 64, "num_position_embeddings": DEEP["num_position_embeddings"]}
    tokens = {name: at for at, name in enumerate(("image_token_id", "video_token_id", "vision_start_token_id"), 3)}
    return Kind(
        f"{stem}ForConditionalGeneration",
        PROCESSOR,
        prefix=0,
        config={"vision_config": vision, "text_config": {**TEXT, **text}, **tokens},
        grid=(12, 12),
        family=family,
        exported="divprune",
        unread=("model.language_model.", "lm_head."),
        given=given,
    )


KINDS = {"qwen3.5": declare("Qwen3_5", "qwen3_5"), "qwen3.5 moe": declare("Qwen3_5Moe", "", **EXPERTS)}
