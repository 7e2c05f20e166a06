"""Every class of transformers with a family's tower loads, whatever is beside it, with the weights that it saved."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders import Encoder
from edgeprune.errors import ModelError
from tests.covering import always

Made = Callable[[str], tuple[Path, Encoder]]
ModelFolder = Callable[..., Path]

SIZES: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
VISION = {**SIZES, "image_size": 48, "patch_size": 8}
TWO = {"vision_config": VISION, "text_config": {**SIZES, "vocab_size": 64}}
LLAVA = {
    "vision_config": {**VISION, "model_type": "clip_vision_model"},
    "text_config": {**SIZES, "model_type": "llama", "num_key_value_heads": 2, "vocab_size": 64},
    "image_token_index": 3,
}
CLASSES: dict[str, dict[str, Any]] = {
    "Aimv2Model": TWO,
    "CLIPModel": TWO,
    "CLIPForImageClassification": TWO,
    "CLIPVisionModelWithProjection": {},
    "DeiTForMaskedImageModeling": {},
    "Dinov2Backbone": {},
    "Dinov2WithRegistersForImageClassification": {},
    "DINOv3ViTBackbone": {},
    "LlavaModel": LLAVA,
    "LlavaNextModel": LLAVA,
    "SiglipForImageClassification": TWO,
    "ViTForMaskedImageModeling": {"encoder_stride": 8},
}
"""with heads, poolers, projections, mask tokens, or a language model without its head"""


def content(tensor: Tensor) -> bytes:
    return bytes(tensor.detach().contiguous().numpy().tobytes())


@pytest.mark.parametrize(
    "architecture", always(CLASSES, "CLIPModel", "Dinov2Backbone", "LlavaModel", "ViTForMaskedImageModeling")
)
def test_a_class_with_the_tower_loads(model_folder: ModelFolder, tmp_path: Path, architecture: str) -> None:
    folder = model_folder(tmp_path / "model", architecture, **CLASSES[architecture])
    encoder = encoders.load(open_checkpoint(str(folder)))
    stored = {content(value) for value in load_file(folder / "model.safetensors").values()}
    ours = dict(encoder.tower.module.named_parameters()) | dict(encoder.projector.named_parameters())
    changed = [name for name, value in ours.items() if content(value) not in stored]
    assert [name for name in changed if "position_embeddings" not in name] == []  # which may be resampled
    assert encoder.grid == (6, 6)


def test_heads_that_cannot_be_rotated_are_refused(made: Made, tmp_path: Path) -> None:
    folder = shutil.copytree(made("qwen3 vl")[0], tmp_path / "qwen")
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["num_heads"] = 16  # 2 wide each
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"num_heads of config.json must split a width of 32 into .*, got 16"):
        encoders.load(open_checkpoint(str(folder)), grid=(12, 12))
