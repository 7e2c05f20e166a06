"""Cosmos3: Edge has SigLIP 2's tower in squares of patches, Omni that of Qwen3-VL under flat names."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders import Encoder
from edgeprune.errors import RequestError
from edgeprune.export.processor import read_processor
from edgeprune.pruners import none
from edgeprune.trace import PrunedEncoder
from tests.encoders.kinds import LANGUAGE, SIZES, Kind, processor
from tests.encoders.test_qwen import KINDS as QWEN
from tests.encoders.test_qwen3_5 import given

VISION: dict[str, Any] = {**SIZES, "num_hidden_layers": 2, "patch_size": 4, "num_patches": 25}
TOKENS: dict[str, Any] = {"image_token_id": 3, "video_token_id": 4, "vision_start_token_id": 5}
TEXT: dict[str, Any] = {
    **LANGUAGE,
    "head_dim": 24,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 4, 4]},
}
EXPERTS: dict[str, Any] = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 32}


def flattened(pixels: Tensor) -> Tensor:
    """As the image processor hands patches over: 2x2 by 2x2, each (row, column, channel)."""
    _, _, height, width = pixels.shape
    squares = pixels[0].reshape(3, height // 8, 2, 4, width // 8, 2, 4).permute(1, 4, 2, 5, 3, 6, 0)
    return squares.reshape(-1, 4 * 4 * 3)


def given_edge(pixels: Tensor) -> dict[str, Any]:
    grid = torch.tensor([[1, pixels.shape[2] // 4, pixels.shape[3] // 4]])
    return {"pixel_values": flattened(pixels), "image_grid_thw": grid}


def like_qwen3(stem: str, **text: Any) -> Kind:
    one = QWEN["qwen3 vl"]
    config = {**one.config, "text_config": {**one.config["text_config"], **text}}
    return replace(
        one,
        architecture=f"{stem}ForConditionalGeneration",
        config=config,
        family="",
        exported="divprune",
        unread=("model.language_model.", "lm_head.", "layers.", "embed_tokens.", "norm."),
        given=given,
    )


KINDS = {
    "cosmos3 edge": Kind(
        "Cosmos3EdgeForConditionalGeneration",
        processor("Cosmos3Edge", patch_size=4, merge_size=2, temporal_patch_size=1),
        prefix=0,
        config={"vision_config": VISION, "text_config": TEXT, "projector_hidden_size": 80, **TOKENS},
        grid=(12, 12),
        family="cosmos3_edge",
        exported="divprune",
        unread=("model.language_model.", "lm_head.", "layers.", "embed_tokens.", "norm."),
        given=given_edge,
    ),
    "cosmos3 omni": like_qwen3("Cosmos3Omni"),
    "qwen3 vl moe": like_qwen3("Qwen3VLMoe", **EXPERTS),
}
Made = Callable[[str], tuple[Path, Encoder]]


@pytest.mark.parametrize("layer", [None, 1])
def test_the_tower_at_another_grid_is_the_models_own(made: Made, kind: Callable[[str], Any], layer: int | None) -> None:
    folder, grid = made("cosmos3 edge")[0], (6, 10)
    own = kind("cosmos3 edge").own(folder).model
    pixels = torch.randn(1, 3, 24, 40, generator=torch.Generator().manual_seed(0))
    encoder = encoders.load(open_checkpoint(str(folder)), layer, grid=grid)
    with torch.inference_mode():
        out = own.visual(flattened(pixels), torch.tensor([[1, *grid]]), output_hidden_states=True)
        expected = own.projector(out.last_hidden_state if layer is None else out.hidden_states[layer])
        found = PrunedEncoder(encoder, none.Method(15))(pixels)[0][0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=3e-4)


def test_case_a_grid_that_the_squares_do_not_divide_is_refused(made: Made) -> None:
    with pytest.raises(RequestError, match=r"a multiple of 2x2 patches, .*, got 5x6; 4x6 or 6x6 would be"):
        encoders.load(open_checkpoint(str(made("cosmos3 edge")[0])), grid=(5, 6))


def test_the_names_of_nvidias_files_are_read(made: Made, tmp_path: Path) -> None:
    """The tower's are those of transformers' module, the language model's are not."""
    folder, expected = made("cosmos3 edge")
    for path in folder.glob("*.json"):
        (tmp_path / path.name).write_text(path.read_text())
    tensors = load_file(folder / "model.safetensors")
    assert any(".self_attn.to_q." in name for name in tensors)
    own = {re.sub(r"\.to_(q|k|v|out)\.", r".\1_proj.", name): value for name, value in tensors.items()}
    own = {name.replace("up_proj", "fc1").replace("down_proj", "fc2"): value for name, value in own.items()}
    save_file(own, tmp_path / "model.safetensors")
    encoder = encoders.load(open_checkpoint(str(tmp_path)), grid=(12, 12))
    pixels = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found, wanted = (PrunedEncoder(one, none.Method(36))(pixels)[0] for one in (encoder, expected))
    assert torch.equal(found, wanted)


def test_the_flat_names_of_omnis_files_are_read(made: Made, tmp_path: Path) -> None:
    folder, expected = made("cosmos3 omni")
    for path in folder.glob("*.json"):
        (tmp_path / path.name).write_text(path.read_text())
    tensors = load_file(folder / "model.safetensors")
    tower = {name.partition("visual.")[2]: value for name, value in tensors.items() if "visual." in name}
    text = {"layers.0.self_attn.to_q.weight": torch.ones(2), "norm.weight": torch.ones(2)}
    save_file({**tower, **text} if tower else tensors, tmp_path / "model.safetensors")
    encoder = encoders.load(open_checkpoint(str(tmp_path)), grid=(12, 12))
    pixels = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found, wanted = (PrunedEncoder(one, none.Method(36))(pixels)[0] for one in (encoder, expected))
    assert torch.equal(found, wanted)


def test_images_are_resized_to_the_grid_as_the_processor_resizes_to_its_own(made: Made) -> None:
    from transformers.models.cosmos3_edge.image_processing_pil_cosmos3_edge import Cosmos3EdgeImageProcessorPil

    checkpoint = open_checkpoint(str(made("cosmos3 edge")[0]))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 99, 3), dtype=np.uint8))
    own = Cosmos3EdgeImageProcessorPil(**checkpoint.processor)(image, return_tensors="pt")
    rows, columns = own["image_grid_thw"][0, 1:].tolist()
    found = read_processor(checkpoint.processor, (4 * rows, 4 * columns))(image)
    assert torch.equal(flattened(torch.from_numpy(found)[None]), own["pixel_values"])
