"""Tiny vision-language models with their processors: real transformers classes, seeded, every word a token.

Widths differ from the size of the vocabulary: the builder of onnxruntime-genai takes any linear layer of that width for
the head.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

__all__ = ["DECODERS", "IMAGE", "KINDS", "STOP", "WORDS", "Kind", "write"]

IMAGE, VIDEO, STOP, SIZE = 3, 4, 2, 101
SPECIAL = (
    "<pad>",
    "<s>",
    "</s>",
    "<image>",
    "<video>",
    "<vision>",
    "</vision>",
    "<turn>",
    "</turn>",
    "user",
    "assistant",
)
WORDS = tuple(f"w{number}" for number in range(len(SPECIAL), SIZE))
TEMPLATE = (
    "{% for m in messages %}<turn> {{ m['role'] }} {% for c in m['content'] %}{% if c['type'] == 'image' %}"
    "{IMAGE}{% else %}{{ c['text'] }} {% endif %}{% endfor %}</turn> {% endfor %}<turn> assistant "
)
TEXT: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "vocab_size": SIZE,
    "max_position_embeddings": 600,
    "bos_token_id": 1,
    "eos_token_id": STOP,
    "pad_token_id": 0,
}
ROTARY = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 4, 4]}
THREE_AXES = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 24, "rope_parameters": ROTARY}
ONE_AXIS = {"num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 16}
"""GroupQueryAttention turns heads on the CPU itself only if they are a multiple of 16 wide"""
TOWER: dict[str, Any] = {"depth": 2, "num_heads": 2, "patch_size": 8, "spatial_merge_size": 2, "temporal_patch_size": 2}
DEEP: dict[str, Any] = {"num_position_embeddings": 25, "deepstack_visual_indexes": [0, 1]}
WIDE: dict[str, Any] = {"hidden_size": 32, "out_hidden_size": 48, "intermediate_size": 64}


CLIP: dict[str, Any] = {
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_hidden_layers": 3,
    "image_size": 48,
    "patch_size": 8,
}
SIGLIP = {**CLIP, "model_type": "siglip_vision_model", "vision_use_head": False}
CROPPED: dict[str, Any] = {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}}
SQUARE: dict[str, Any] = {"size": {"height": 48, "width": 48}}
TALL: dict[str, Any] = {"image_grid_pinpoints": [[96, 48], [48, 96]]}
QWEN = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "patch_size": 8,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "min_pixels": 64 * 96,
    "max_pixels": 64 * 96,
}


@dataclass(frozen=True)
class Kind:
    architecture: str
    text: str
    vision: dict[str, Any]
    config: dict[str, Any]
    processor: dict[str, Any]
    around: tuple[str, str] = ("", "user ")
    """what the chat template writes around an image; two images must not touch for generation_inputs"""
    own: dict[str, Any] | None = None
    """further arguments of its processor; None where that needs torchvision, and there is but a tokenizer"""
    special: dict[str, str] = field(default_factory=dict)
    """tokens that the processor asks the tokenizer for"""
    method: str = "divprune"
    keep: int = 9
    request: dict[str, Any] = field(default_factory=dict)


def _qwen(architecture: str, text: str, **vision: Any) -> Kind:
    config = {"image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": 5, "vision_end_token_id": 6}
    return Kind(
        architecture, text, {**TOWER, **vision}, config, QWEN, ("<vision> ", "</vision> "), request={"grid": "8x12"}
    )


def _split(architecture: str) -> Kind:
    vision = {**{name: CLIP[name] for name in CLIP if name != "model_type"}, "patch_size": 4}
    longest = {"size": {"longest_edge": 96}, "max_image_size": {"longest_edge": 48}}
    processor = {"image_processor_type": f"{architecture}ImageProcessor", **longest}
    special = {"fake_image_token": "<vision>", "global_image_token": "</vision>"}
    return Kind(architecture, "llama", vision, {"image_token_id": IMAGE, "scale_factor": 2}, processor, special=special)


KINDS = {
    "llava": Kind(
        "Llava",
        "llama",
        CLIP,
        {"image_token_id": IMAGE},
        {"image_processor_type": "CLIPImageProcessor", **CROPPED},
        own={"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
        method="fastervlm",
    ),
    "llava next": Kind(
        "LlavaNext",
        "mistral",
        CLIP,
        {"image_token_id": IMAGE, **TALL},
        {"image_processor_type": "LlavaNextImageProcessor", **CROPPED, **TALL},
        own={"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
        method="fastervlm",
        keep=27,
        request={"tiles": 3},
    ),
    "llava onevision": Kind(
        "LlavaOnevision",
        "qwen2",
        SIGLIP,
        {"image_token_id": IMAGE, "video_token_id": VIDEO, "vision_feature_select_strategy": "full", **TALL},
        {"image_processor_type": "LlavaOnevisionImageProcessor", **SQUARE, **TALL},
        keep=27,
        request={"tiles": 3},
    ),
    "internvl": Kind(
        "InternVL",
        "qwen3",
        {**{name: CLIP[name] for name in CLIP if name != "model_type"}, "patch_size": 4},
        {"image_token_id": IMAGE},
        {"image_processor_type": "GotOcr2ImageProcessor", **SQUARE, "crop_to_patches": False},
        special={"start_image_token": "<vision>", "end_image_token": "</vision>", "context_image_token": "<image>"},
    ),
    "internvl tiles": Kind(
        "InternVL",
        "qwen2",
        {**{name: CLIP[name] for name in CLIP if name != "model_type"}, "patch_size": 4},
        {"image_token_id": IMAGE},
        {"image_processor_type": "GotOcr2ImageProcessor", **SQUARE, "crop_to_patches": True, "max_patches": 4},
        special={"start_image_token": "<vision>", "end_image_token": "</vision>", "context_image_token": "<image>"},
        keep=27,
        request={"tiles": 3},
    ),
    "qwen2 vl": _qwen("Qwen2VL", "qwen2_vl_text", embed_dim=32, hidden_size=48, mlp_ratio=2),
    "qwen2.5 vl": _qwen("Qwen2_5_VL", "qwen2_5_vl_text", **WIDE, window_size=48, fullatt_block_indexes=[1]),
    "qwen3 vl": _qwen("Qwen3VL", "qwen3_vl_text", **WIDE, **DEEP),
    "cosmos3 omni": _qwen("Cosmos3Omni", "qwen3_vl_text", **WIDE, **DEEP),
    "vipllava": Kind(
        "VipLlava",
        "llama",
        CLIP,
        {"image_token_id": IMAGE, "vision_feature_layers": [-2, 1, -1]},
        {"image_processor_type": "CLIPImageProcessor", **CROPPED},
        own={"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
        method="fastervlm",
    ),
    "lighton ocr": Kind(
        "LightOnOcr",
        "qwen3",
        {**CLIP, "model_type": "pixtral", "head_dim": 16, "patch_size": 4, "image_size": 64},
        {"image_token_id": IMAGE},
        {"image_processor_type": "PixtralImageProcessor", "patch_size": 4, "size": {"longest_edge": 64}},
        own={"patch_size": 4},
        special={"image_break_token": "<vision>", "image_end_token": "</vision>"},
        request={"grid": "12x8"},
    ),
    "smolvlm": _split("SmolVLM"),
    "idefics3": _split("Idefics3"),
}
"""4x6 tokens of Qwen, so that rows and columns differ"""
DECODERS = {
    f"llava, {text}": replace(KINDS["llava"], text=text) for text in ("qwen2", "qwen3", "mistral", "gemma", "gemma2")
}
"""the same with another language model"""


def write(kind: Kind, make: Callable[..., Path], folder: Path) -> Any:
    """The checkpoint with its processor, into the folder; the whole model.

    make: the fixture `model_folder`
    """
    import transformers

    text = {**TEXT, "model_type": kind.text, **(THREE_AXES if kind.text.endswith("_text") else ONE_AXIS)}
    architecture = f"{kind.architecture}ForConditionalGeneration"
    make(folder, architecture, kind.processor, vision_config=kind.vision, text_config=text, **kind.config)
    words = tokenizer(image_token="<image>", video_token="<video>", **kind.special)
    words.chat_template = TEMPLATE.replace("{IMAGE}", f"{kind.around[0]}<image> {kind.around[1]}")
    words.save_pretrained(folder)
    if kind.own is not None:
        loader: Any = transformers.AutoImageProcessor
        image = loader.from_pretrained(folder)
        made: Any = getattr(transformers, f"{kind.architecture}Processor", transformers.LlavaProcessor)
        made(image, words, **kind.own, chat_template=words.chat_template).save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": STOP}), encoding="utf-8")
    model: Any = getattr(transformers, architecture).from_pretrained(folder)
    _talkative(model)
    model.save_pretrained(folder)
    return model.eval()


def _talkative(model: Any) -> None:
    """Weights with which an answer hangs on the image and on the whole prompt, and seldom ends or repeats one word."""
    import torch

    torch.manual_seed(1)
    with torch.no_grad():
        text = getattr(model.model, "language_model", None) or model.model.text_model
        for name, value in (*text.named_parameters(), *model.lm_head.named_parameters()):
            if value.dim() == 1:
                value.normal_(std=0.1).add_(0 if name.endswith("bias") else 1)
            else:
                value.normal_(std=1 if "embed" in name else 1.5 / value.shape[1] ** 0.5)
        model.lm_head.weight[STOP] *= 0.5
        for name, value in model.model.named_parameters():
            if value.dim() > 1:
                value.mul_(4 if "merger" in name or "modality" in name else 1.5 if "projector" in name else 1)


def tokenizer(**special: str) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {word: at for at, word in enumerate((*SPECIAL, *WORDS))}
    made = Tokenizer(models.WordLevel(ids, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens([*SPECIAL[:9]])
    fast: Any = PreTrainedTokenizerFast
    return fast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", bos_token="<s>", extra_special_tokens=special
    )
