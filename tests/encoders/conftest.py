"""One tiny checkpoint per kind of encoder, each with the image processor of its family, made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders import Encoder
from edgeprune.pruners._scorer import Scorer, ScorerConfig
from tests.encoders.kinds import CROPPED, SQUARE, Kind, declared, processor

SIZES: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
TEXT: dict[str, Any] = {**SIZES, "num_hidden_layers": 1, "vocab_size": 64}
LANGUAGE: dict[str, Any] = {**TEXT, "hidden_size": 48, "num_key_value_heads": 2}
SIGLIP: dict[str, Any] = {
    **SIZES,
    "model_type": "siglip_vision_model",
    "num_hidden_layers": 2,
    "image_size": 48,
    "patch_size": 8,
}
LLAVA: dict[str, Any] = {
    "vision_config": {**SIGLIP, "vision_use_head": False, "num_hidden_layers": 3},
    "text_config": {"model_type": "llama", **LANGUAGE},
    "image_token_index": 3,
    "vision_feature_select_strategy": "full",
}
DINO: dict[str, Any] = {"image_size": 64}  # trained at another size than it is used at


BIT = processor("Bit", size={"shortest_edge": 56}, crop_size={"height": 48, "width": 48})
DINOV3 = processor(
    "DINOv3ViT",
    **SQUARE,
    do_resize=True,
    resample=2,
    do_center_crop=None,
    do_rescale=True,
    do_normalize=True,
    image_mean=[0.485, 0.456, 0.406],
    image_std=[0.229, 0.224, 0.225],
)


QWEN = processor(
    "Qwen2VL",
    min_pixels=3136,
    max_pixels=12845056,
    patch_size=4,
    temporal_patch_size=2,
    merge_size=2,
    image_mean=[0.48145466, 0.4578275, 0.40821073],
    image_std=[0.26862954, 0.26130258, 0.27577711],
)
"""as the hub has it: no size, it goes by the image"""
QWEN_VISION: dict[str, Any] = {"depth": 2, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2}
QWEN_WIDTHS: dict[str, Any] = {"hidden_size": 32, "out_hidden_size": 48}


BOTH = {"vision_config": SIGLIP, "text_config": TEXT}
CLIP: dict[str, Any] = {
    "vision_config": {**SIGLIP, "model_type": "clip_vision_model"},
    "text_config": {"model_type": "llama", **LANGUAGE},
    "image_token_index": 3,
    "vision_feature_layer": -1,
}
TILES: dict[str, Any] = {"image_grid_pinpoints": [[48, 96], [96, 48]]}
KINDS = {
    **declared(),
    "clip": Kind("CLIPVisionModel", processor("CLIP", **CROPPED)),
    "siglip vision": Kind("SiglipVisionModel", processor("Siglip", **SQUARE), prefix=0),
    "siglip": Kind("SiglipModel", processor("Siglip", **SQUARE), "vision_model", 0, BOTH),
    "vit": Kind("ViTModel", processor("ViT", **SQUARE)),
    "vit classifier": Kind("ViTForImageClassification", processor("ViT", **SQUARE), "vit"),
    "deit": Kind("DeiTModel", processor("DeiT", size=56, crop_size=48), prefix=2),
    "deit with teacher": Kind(
        "DeiTForImageClassificationWithTeacher", processor("DeiT", size=56, crop_size=48), "deit", 2
    ),
    "dinov2": Kind("Dinov2Model", BIT, config=DINO),
    "dinov2 giant": Kind("Dinov2ForImageClassification", BIT, "dinov2", 1, {**DINO, "use_swiglu_ffn": True}),
    "dinov2 registers": Kind("Dinov2WithRegistersModel", BIT, "", 5, DINO),
    "dinov3": Kind("DINOv3ViTModel", DINOV3, "", 5, {**DINO, "num_register_tokens": 4}),
    "dinov3 gated": Kind("DINOv3ViTModel", DINOV3, "", 4, {**DINO, "num_register_tokens": 3, "use_gated_mlp": True}),
}
"""the encoders without a projector, first those that their own tests declare"""

CONNECTED = {
    "llava clip": Kind("LlavaForConditionalGeneration", processor("CLIP", **CROPPED), config=CLIP),
    "llava next": Kind(
        "LlavaNextForConditionalGeneration", processor("LlavaNext", **CROPPED, **TILES), config={**CLIP, **TILES}
    ),
    "llava next siglip": Kind(
        "LlavaNextForConditionalGeneration",
        processor("LlavaNext", **CROPPED, **TILES),
        prefix=0,
        config={**LLAVA, **TILES},
    ),
    "llava next granite": Kind(
        "LlavaNextForConditionalGeneration",
        processor("LlavaNext", **CROPPED, **TILES),
        prefix=0,
        config={**LLAVA, **TILES, "vision_feature_layer": [-3, 1, -1]},
    ),
    "llava clip layers": Kind(
        "LlavaForConditionalGeneration",
        processor("CLIP", **CROPPED),
        config={**CLIP, "vision_feature_layer": [-1, 0, -2], "vision_feature_select_strategy": "default"},
    ),
    "video llava": Kind(
        "VideoLlavaForConditionalGeneration",
        processor("VideoLlava", **CROPPED),
        config={**CLIP, "video_token_index": 4},
    ),
    "llava siglip": Kind("LlavaForConditionalGeneration", processor("Siglip", **SQUARE), prefix=0, config=LLAVA),
    "llava onevision": Kind(
        "LlavaOnevisionForConditionalGeneration",
        processor("LlavaOnevision", **SQUARE, do_pad=True, image_grid_pinpoints=[[48, 48]]),
        prefix=0,
        config={
            **LLAVA,
            "text_config": {"model_type": "qwen2", **LANGUAGE},
            "image_grid_pinpoints": [[48, 48]],
            "image_token_index": 3,
            "video_token_index": 4,
        },
    ),
    "internvl": Kind(
        "InternVLForConditionalGeneration",
        processor("GotOcr2", **SQUARE, crop_to_patches=False),
        config={
            "vision_config": {**SIZES, "num_hidden_layers": 2, "image_size": 48, "patch_size": 4},
            "text_config": {"model_type": "qwen2", **LANGUAGE},
            "image_token_id": 3,
        },
    ),
}


def qwen(stem: str, **vision: Any) -> Kind:
    """12x12 patches, 6x6 tokens"""
    tokens = {name: at for at, name in enumerate(("image_token_id", "video_token_id", "vision_start_token_id"), 3)}
    text = {**LANGUAGE, "head_dim": 24, "bos_token_id": None, "eos_token_id": None}
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 4, 4]}
    config = {"vision_config": {**QWEN_VISION, **vision}, "text_config": text, **tokens}
    return Kind(f"{stem}ForConditionalGeneration", QWEN, prefix=0, config=config, grid=(12, 12))


GRIDDED = {
    "siglip2": Kind(
        "Siglip2VisionModel", processor("Siglip2", patch_size=8), prefix=0, config={"num_patches": 25}, grid=(6, 6)
    ),
    "qwen2 vl": qwen("Qwen2VL", embed_dim=32, hidden_size=48, mlp_ratio=2),
    "qwen2.5 vl": qwen(
        "Qwen2_5_VL", **QWEN_WIDTHS, intermediate_size=48, window_size=24, fullatt_block_indexes=[1]
    ),  # windows of 3x3 tokens
    "qwen3 vl": qwen(
        "Qwen3VL", **QWEN_WIDTHS, intermediate_size=64, num_position_embeddings=25, deepstack_visual_indexes=[0, 1]
    ),
}
"""the encoders whose tower is ours, around the layers of transformers"""

DETECTORS = {
    "yolos": Kind(
        "YolosForObjectDetection",
        processor("Yolos", **SQUARE, do_pad=False),
        config={"num_hidden_layers": 3, "image_size": [48, 48], "num_detection_tokens": 5, "num_labels": 3},
    )
}
"""the encoders with logits and pred_boxes instead of tokens"""
ALL = KINDS | CONNECTED | GRIDDED | DETECTORS


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `bare` runs on every encoder without projector whose tower is transformers' own, `own` on
    every such tower, `every` on all that have tokens."""
    tokens = [*KINDS, *CONNECTED, *GRIDDED]
    for name, values in {"bare": [*KINDS], "own": [*KINDS, *CONNECTED], "every": tokens}.items():
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, values)


@pytest.fixture(scope="session")
def kind() -> Callable[[str], Kind]:
    return lambda name: ALL[name]


@pytest.fixture(scope="session")
def made(
    model_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, Encoder]]:
    """(name) -> the checkpoint's folder and the encoder in it; not to be changed."""
    found: dict[str, tuple[Path, Encoder]] = {}

    def make(name: str) -> tuple[Path, Encoder]:
        if name not in found:
            one = ALL[name]
            config = one.config if "vision_config" in one.config else {"num_hidden_layers": 2, **one.config}
            folder = model_folder(tmp_path_factory.mktemp("kind"), one.architecture, one.processor, **config)
            if name in DETECTORS:
                _noisy(one, folder)
            found[name] = folder, encoders.load(open_checkpoint(str(folder)), grid=one.grid)
        return found[name]

    return make


def _noisy(kind: Kind, folder: Path) -> None:
    """The checkpoint with noise in every tensor, so that boxes hang on every patch and every position."""
    model: Any = kind.own(folder)
    torch.manual_seed(1)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    model.save_pretrained(folder)


@pytest.fixture(scope="session")
def scorer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seeded scorer in front of encoders of 6x6 patches of 8 pixels, trained for other pixels than theirs."""
    torch.manual_seed(3)
    scorer = Scorer(ScorerConfig("front", 1, 16, 2, 32, 8, (5, 7), (0.4, 0.5, 0.6), (0.3, 0.2, 0.25)))
    for parameter in scorer.parameters():
        nn.init.normal_(parameter, std=0.3)
    path = tmp_path_factory.mktemp("scorer") / "scorer.safetensors"
    scorer.save(path)
    return path
