"""Qwen-VL's decoders, as the model builder of onnxruntime-genai is given them.

    checkpoint    builder's class
    qwen2_vl      Qwen2_5_VLForConditionalGeneration: their decoders are the same, the towers are not
    qwen2_5_vl    the same
    qwen3_vl      Qwen3VLForConditionalGeneration, without DeepStack (`deepstack`)

The builder opens the whole model. Its tower would be read for nothing, so it gets one without layers. That keeps it
from taking a layer of the tower for the head, too, if it is as wide as the vocabulary.
"""

from __future__ import annotations

from typing import Any

__all__ = ["MODEL_TYPES", "builder_config"]

CLASSES = {
    "qwen2_vl": ("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration"),
    "qwen2_5_vl": ("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration"),
    "qwen3_vl": ("qwen3_vl", "Qwen3VLForConditionalGeneration"),
}
MODEL_TYPES = tuple(CLASSES)
NO_TOWER: dict[str, Any] = {
    "depth": 0,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_heads": 1,
    "out_hidden_size": 8,
    "patch_size": 1,
    "spatial_merge_size": 1,
    "temporal_patch_size": 1,
    "fullatt_block_indexes": [],
    "deepstack_visual_indexes": [],
    "num_position_embeddings": 1,
}


def builder_config(config: dict[str, Any]) -> dict[str, Any]:
    """config.json of a checkpoint -> that of the folder which the builder reads, with the decoder's tensors in it.

    They are named as transformers saves them: model.language_model.* and lm_head.weight.
    """
    model_type, architecture = CLASSES[config["model_type"]]
    text = {**config["text_config"], "model_type": f"{model_type}_text"}
    return {
        **{name: value for name, value in config.items() if name not in ("vision_config", "quantization_config")},
        "model_type": model_type,
        "architectures": [architecture],
        "text_config": text,
        "vision_config": NO_TOWER,
    }
