"""Qwen-VL's decoders, as the model builder of onnxruntime-genai is given them.

    checkpoint    class that the builder has
    qwen2_vl      Qwen2_5_VLForConditionalGeneration: the decoders are the same, the towers are not
    qwen2_5_vl    Qwen2_5_VLForConditionalGeneration
    qwen3_vl      Qwen3VLForConditionalGeneration, without DeepStack (`deepstack` adds it)
    cosmos3_omni  the same

The builder opens the whole model. Its tower would be read for nothing, so it gets one without layers. That keeps it
from taking a layer of the tower for the head, too, if it is as wide as the vocabulary.
"""

from __future__ import annotations

from typing import Any

from edgeprune.checkpoint import Files, weights
from edgeprune.errors import ModelError
from edgeprune.export.assemble.decoder import Causal

__all__ = ["MODEL_TYPES", "causal_of"]

CLASSES = {
    "qwen2_vl": ("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration"),
    "qwen2_5_vl": ("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration"),
    "qwen3_vl": ("qwen3_vl", "Qwen3VLForConditionalGeneration"),
    "cosmos3_omni": ("qwen3_vl", "Qwen3VLForConditionalGeneration"),
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
INSIDE, HEAD = "model.language_model.", "lm_head."
OLDER = ("embed_tokens.", "layers.", "norm.")
"""what stands behind `model.` where an older transformers saved the checkpoint, and bare in files of Cosmos3-Omni"""

OMNI = {
    **{f"to_{one}": f"{one}_proj" for one in ("q", "k", "v")},
    **{"to_out": "o_proj", "norm_q": "q_norm", "norm_k": "k_norm"},
}
"""as files of Cosmos3-Omni have the parts of an attention"""


def causal_of(files: Files, config: Any) -> Causal:
    """The decoder of a checkpoint, as a model without tower.

    config: of transformers, the whole one

    Raises ModelError when a tensor is not there.
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    given = _config(config.to_dict())
    loader: Any = AutoModelForImageTextToText
    with torch.device("meta"):
        alone = loader.from_config(AutoConfig.for_model(**given))
    own = {name for name in alone.state_dict() if name.startswith((INSIDE, HEAD))}
    if config.tie_word_embeddings:
        own.discard("lm_head.weight")
    shards = {_name(name): (shard, name) for name, shard in weights(files).items() if _name(name) in own}
    if missing := sorted(own - set(shards)):
        raise ModelError(f"{files.id} has no tensor {missing[0]} of its language model; is the checkpoint whole?")
    return Causal(given["architectures"][0], given, shards, 1.0, f"{INSIDE}embed_tokens.weight")


def _config(given: dict[str, Any]) -> dict[str, Any]:
    """config.json of the folder that the builder reads."""
    model_type, architecture = CLASSES[given["model_type"]]
    apart = ("vision_config", "quantization_config", "dtype")
    return {
        **{name: value for name, value in given.items() if name not in apart},
        "model_type": model_type,
        "architectures": [architecture],
        "text_config": {**given["text_config"], "model_type": f"{model_type}_text"},
        "vision_config": NO_TOWER,
    }


def _name(stored: str) -> str:
    """As transformers saves it now."""
    behind = stored.removeprefix("model.")
    if not behind.startswith(OLDER):
        return stored
    for theirs, ours in OMNI.items():
        behind = behind.replace(f".self_attn.{theirs}.", f".self_attn.{ours}.")
    return f"{INSIDE}{behind}"
