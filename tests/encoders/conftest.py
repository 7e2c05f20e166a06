"""One tiny checkpoint per kind of encoder, each with the image processor of its family, made once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from torch import nn

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders import Encoder

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
    "vision_config": {**SIGLIP, "vision_use_head": False},
    "text_config": {"model_type": "llama", **LANGUAGE},
    "image_token_index": 3,
    "vision_feature_select_strategy": "full",
}
DINO: dict[str, Any] = {"image_size": 64}  # trained at another size than it is used at
SQUARE: dict[str, Any] = {"size": {"height": 48, "width": 48}}


def processor(name: str, **steps: Any) -> dict[str, Any]:
    return {"image_processor_type": f"{name}ImageProcessor", **steps}


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


@dataclass(frozen=True)
class Kind:
    """What to make, and the part of the whole model that an encoder of ours should equal."""

    architecture: str
    processor: dict[str, Any]
    part: str = ""
    prefix: int = 1
    config: dict[str, Any] = field(default_factory=dict)

    def own(self, folder: Path) -> nn.Module:
        import transformers

        model = getattr(transformers, self.architecture).from_pretrained(folder).eval()
        return cast(nn.Module, getattr(model, self.part) if self.part else model)


BOTH = {"vision_config": SIGLIP, "text_config": TEXT}
KINDS = {
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
"""the encoders without a projector"""

CONNECTED = {
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
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `bare` runs on every encoder without projector, `every` on all."""
    for name, values in {"bare": list(KINDS), "every": [*KINDS, *CONNECTED]}.items():
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, values)


@pytest.fixture(scope="session")
def kind() -> Callable[[str], Kind]:
    return lambda name: (KINDS | CONNECTED)[name]


@pytest.fixture(scope="session")
def made(
    model_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, Encoder]]:
    """(name) -> the checkpoint's folder and the encoder in it; not to be changed."""
    found: dict[str, tuple[Path, Encoder]] = {}

    def make(name: str) -> tuple[Path, Encoder]:
        if name not in found:
            one = (KINDS | CONNECTED)[name]
            config = one.config if "vision_config" in one.config else {"num_hidden_layers": 2, **one.config}
            folder = model_folder(tmp_path_factory.mktemp("kind"), one.architecture, one.processor, **config)
            found[name] = folder, encoders.load(open_checkpoint(str(folder)))
        return found[name]

    return make
