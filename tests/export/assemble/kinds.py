"""Tiny vision-language models with their processors: real transformers classes, seeded, every word a token.

Widths differ from the size of the vocabulary: the builder of onnxruntime-genai takes any linear layer of that width for
the head.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["IMAGE", "KINDS", "STOP", "WORDS", "Kind", "write"]

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
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
    "vocab_size": SIZE,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": STOP,
    "pad_token_id": 0,
}
ROTARY = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 4, 4]}
TOWER: dict[str, Any] = {"depth": 2, "num_heads": 2, "patch_size": 8, "spatial_merge_size": 2, "temporal_patch_size": 2}
WIDE: dict[str, Any] = {"hidden_size": 32, "out_hidden_size": 48, "intermediate_size": 64}


PROCESSOR = {
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
    config: dict[str, Any] = field(default_factory=dict)
    method: str = "divprune"
    keep: int = 9
    request: dict[str, Any] = field(default_factory=dict)


def _qwen(architecture: str, text: str, **vision: Any) -> Kind:
    config = {"image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": 5, "vision_end_token_id": 6}
    return Kind(architecture, text, {**TOWER, **vision}, config, request={"grid": "8x12"})


KINDS = {
    "qwen2 vl": _qwen("Qwen2VL", "qwen2_vl_text", embed_dim=32, hidden_size=48, mlp_ratio=2),
    "qwen2.5 vl": _qwen("Qwen2_5_VL", "qwen2_5_vl_text", **WIDE, window_size=48, fullatt_block_indexes=[1]),
    "qwen3 vl": _qwen("Qwen3VL", "qwen3_vl_text", **WIDE, num_position_embeddings=25, deepstack_visual_indexes=[0, 1]),
}
"""4x6 tokens, so that rows and columns differ"""


def write(kind: Kind, make: Callable[..., Path], folder: Path) -> Any:
    """The checkpoint with its processor, into the folder; the whole model.

    make: the fixture `model_folder`
    """
    import transformers

    text = {**TEXT, "model_type": kind.text, "head_dim": 24, "rope_parameters": ROTARY}
    architecture = f"{kind.architecture}ForConditionalGeneration"
    make(folder, architecture, None, vision_config=kind.vision, text_config=text, **kind.config)
    words = tokenizer(image_token="<image>", video_token="<video>")
    words.chat_template = TEMPLATE.replace("{IMAGE}", "<vision> <image> </vision> ")
    words.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR), encoding="utf-8")
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
        for name, value in (*model.model.language_model.named_parameters(), *model.lm_head.named_parameters()):
            if value.dim() == 1:
                value.normal_(std=0.1).add_(0 if name.endswith("bias") else 1)
            else:
                value.normal_(std=1 if "embed" in name else 1.5 / value.shape[1] ** 0.5)
        model.lm_head.weight[STOP] *= 0.5
        for name, value in model.model.named_parameters():
            if ("merger" in name or "projector" in name) and value.dim() > 1:
                value.mul_(4)


def tokenizer(**special: str) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {word: at for at, word in enumerate((*SPECIAL, *WORDS))}
    made = Tokenizer(models.WordLevel(ids, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens([*SPECIAL[:9]])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", bos_token="<s>", extra_special_tokens=special
    )
