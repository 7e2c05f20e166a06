"""Gemma 4: the mean of 3x3 patches is one token, normalised inside; clamps, and standardised features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders import Encoder
from edgeprune.errors import ModelError, RequestError
from edgeprune.export import Request, export_bundle
from edgeprune.export.processor import read_processor
from edgeprune.pruners import divprune, none
from edgeprune.reference import OfficialEncoder
from edgeprune.trace import PrunedEncoder
from tests.encoders.kinds import LANGUAGE, SIZES, Kind, processor

VISION: dict[str, Any] = {
    **SIZES,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "patch_size": 2,
    "pooling_kernel_size": 3,
    "position_embedding_size": 24,
}
TEXT: dict[str, Any] = {
    **LANGUAGE,
    "num_hidden_layers": 2,
    "head_dim": 24,
    "global_head_dim": 24,
    "layer_types": ["sliding_attention", "full_attention"],
    "sliding_window": 16,
    "vocab_size_per_layer_input": 64,
    "hidden_size_per_layer_input": 8,
}
TOKENS: dict[str, Any] = {
    **{"image_token_id": 3, "video_token_id": 60, "audio_token_id": 61},
    **{"boi_token_id": 4, "eoi_token_id": 11, "boa_token_id": 62, "eoa_token_index": 63},
}


def given(pixels: Tensor) -> dict[str, Any]:
    """As the image processor hands patches over: raster order, each (row, column, channel), and their places."""
    _, _, height, width = pixels.shape
    patches = pixels.reshape(1, 3, height // 2, 2, width // 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(1, -1, 12)
    places = torch.cartesian_prod(torch.arange(height // 2), torch.arange(width // 2)).flip(1)
    return {"pixel_values": patches, "image_position_ids": places[None]}


KINDS = {
    "gemma4": Kind(
        "Gemma4ForConditionalGeneration",
        processor("Gemma4", patch_size=2, max_soft_tokens=70, pooling_kernel_size=3),
        prefix=0,
        config={"vision_config": VISION, "text_config": TEXT, **TOKENS},
        grid=(24, 24),
        family="gemma4",
        exported="divprune",
        unread=("model.language_model.", "lm_head."),
        given=given,
    )
}
KINDS["gemma4 both ways"] = replace(
    KINDS["gemma4"],
    config={
        "vision_config": VISION,
        "text_config": {**TEXT, "hidden_size_per_layer_input": 0, "use_bidirectional_attention": "vision"},
        **TOKENS,
    },
    family="",
)
"""of the language models of 26 and 31 billion weights"""
Made = Callable[[str], tuple[Path, Encoder]]
GRID = (6, 12)
PIXELS = torch.rand(1, 3, 12, 24, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def large(kind: Callable[[str], Any], model_folder: Callable[..., Path], tmp_path_factory: Any) -> tuple[Path, Any]:
    """(folder, transformers' own model) of a tower whose products are clamped, and whose features are standardised."""
    from transformers import Gemma4ForConditionalGeneration

    one, folder = kind("gemma4"), tmp_path_factory.mktemp("gemma4")
    vision = {**VISION, "use_clipped_linears": True, "standardize": True}
    model_folder(folder, one.architecture, one.processor, **{**one.config, "vision_config": vision})
    model: Any = Gemma4ForConditionalGeneration.from_pretrained(folder)
    torch.manual_seed(1)
    for name, buffer in model.model.vision_tower.named_buffers():
        if name.endswith(("_min", "_max")):
            buffer.fill_(1.0 if name.endswith("_max") else -0.75)
        elif name.endswith(("std_bias", "std_scale")):
            buffer.normal_()
        if name.startswith("encoder.layers.1.mlp.up_proj.output"):  # as where nothing is clamped
            buffer.fill_(torch.inf if name.endswith("_max") else -torch.inf)
        elif name.endswith("layers.1.self_attn.q_proj.input_min"):  # or only from above
            buffer.fill_(-torch.inf)
    model.save_pretrained(folder)
    return folder, model.eval()


def test_clamps_and_standardised_features_are_the_models_own(large: tuple[Path, Any]) -> None:
    folder, model = large
    encoder = encoders.load(open_checkpoint(str(folder)), grid=GRID)
    assert (encoder.grid, encoder.unit) == ((2, 4), 9)
    with torch.inference_mode():
        expected = model.get_image_features(**given(PIXELS)).pooler_output[0]
        for path in (PrunedEncoder, OfficialEncoder):
            found = path(encoder, none.Method(8))(PIXELS)[0][0]
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        model.model.vision_tower.encoder.layers[0].mlp.up_proj.input_max.fill_(0.1)
        assert not torch.allclose(model.get_image_features(**given(PIXELS)).pooler_output[0], expected, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_clamps_are_exported_and_verified(large: tuple[Path, Any], tmp_path: Path, precision: str) -> None:
    how: dict[str, Any] = {"model": str(large[0]), "grid": "6x12", "precision": precision, "baselines": False}
    exported = export_bundle(Request("divprune", "cpu", keep=4, output=tmp_path / "bundle", **how))
    assert exported.reports
    assert all(report.passed for report in exported.reports)
    clamped = {
        node.name or "" for node in ir.load(exported.folder / "encoder.onnx").graph if node.op_type in ("Min", "Max")
    }
    assert any("layers.0.self_attn.o_proj.2/" in name for name in clamped)
    assert not any("layers.1.mlp.up_proj.2/" in name for name in clamped)


def test_a_bound_that_is_no_number_is_refused(large: tuple[Path, Any], tmp_path: Path) -> None:
    for path in large[0].glob("*.json"):
        (tmp_path / path.name).write_text(path.read_text())
    tensors = load_file(large[0] / "model.safetensors")
    tensors["model.vision_tower.encoder.layers.0.mlp.up_proj.input_min"].fill_(torch.nan)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"layers\.0\.mlp\.up_proj\.input_min must be a number"):
        encoders.load(open_checkpoint(str(tmp_path)), grid=GRID)


def test_the_tower_at_another_grid_is_the_models_own(made: Made, kind: Callable[[str], Any]) -> None:
    own = kind("gemma4").own(made("gemma4")[0]).model
    encoder = encoders.load(open_checkpoint(str(made("gemma4")[0])), grid=GRID)
    with torch.inference_mode():
        expected = own.get_image_features(**given(PIXELS)).pooler_output[0]
        found = PrunedEncoder(encoder, none.Method(8))(PIXELS)[0][0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_layer_that_is_asked_for_is_averaged_too(made: Made, kind: Callable[[str], Any]) -> None:
    own, seen = kind("gemma4").own(made("gemma4")[0]).model, []
    hook = own.vision_tower.encoder.layers[0].register_forward_hook(lambda module, inputs, out: seen.append(out))
    encoder = encoders.load(open_checkpoint(str(made("gemma4")[0])), 1, grid=GRID)
    with torch.inference_mode():
        own.get_image_features(**given(PIXELS))
        places = given(PIXELS)["image_position_ids"]
        pooled, _ = own.vision_tower.pooler(seen[0], places, torch.zeros(1, 72, dtype=torch.bool), 8)
        found = PrunedEncoder(encoder, none.Method(8))(PIXELS)[0]
        torch.testing.assert_close(found, own.embed_vision(pooled), rtol=1e-4, atol=1e-4)
    hook.remove()


def test_half_precision_does_not_overflow_behind_the_mean(made: Made) -> None:
    encoder = encoders.load(open_checkpoint(str(made("gemma4")[0])), grid=GRID)
    features = torch.full((1, 8, 9 * 32), 30000.0)
    features[..., ::2] = -20000.0
    with torch.inference_mode():
        expected = encoder.projector(features)
        found = encoder.projector.half()(features.half())
    assert found.isfinite().all()
    torch.testing.assert_close(found.float(), expected, rtol=0.01, atol=0.01)


@pytest.mark.parametrize(
    ("grid", "says"),
    [
        (None, "such as 30x30 for 60x60 pixels; it is missing"),
        ((10, 12), "a multiple of 3x3 patches, .*, got 10x12; 9x12 or 12x12 would be"),
        ((27, 3), "at most 24 rows and columns, for which .* has positions, got 27x3"),
    ],
)
def test_a_grid_that_it_cannot_take_is_refused(made: Made, grid: tuple[int, int] | None, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        encoders.load(open_checkpoint(str(made("gemma4")[0])), grid=grid)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "gemma4_unified"}, "without a vision tower.*take another Gemma 4"),
        ({"vision_config": None}, "config.json has no vision_config"),
    ],
)
def test_a_model_without_a_tower_is_refused(made: Made, changes: dict[str, Any], says: str) -> None:
    checkpoint = open_checkpoint(str(made("gemma4")[0]))
    checkpoint.config.update(changes)
    with pytest.raises(ModelError, match=says):
        encoders.load(checkpoint, grid=GRID)


def test_heads_that_share_keys_are_refused(made: Made) -> None:
    checkpoint = open_checkpoint(str(made("gemma4")[0]))
    checkpoint.config["vision_config"]["num_key_value_heads"] = 1
    with pytest.raises(ModelError, match=r"num_key_value_heads of .* must be num_attention_heads 2, got 1"):
        encoders.load(checkpoint, grid=GRID)


def test_the_names_of_older_checkpoints_are_read(made: Made, tmp_path: Path) -> None:
    folder, _ = made("gemma4")
    for path in folder.glob("*.json"):
        (tmp_path / path.name).write_text(path.read_text())
    tensors = load_file(folder / "model.safetensors")
    save_file({name.removeprefix("model."): value for name, value in tensors.items()}, tmp_path / "model.safetensors")
    with torch.inference_mode():
        found, expected = (
            PrunedEncoder(encoders.load(open_checkpoint(str(one)), grid=GRID), divprune.Method(3))(PIXELS)[0]
            for one in (tmp_path, folder)
        )
    assert torch.equal(found, expected)


def test_images_are_resized_to_the_grid_as_the_processor_resizes_to_its_own(made: Made) -> None:
    from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

    checkpoint = open_checkpoint(str(made("gemma4")[0]))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 99, 3), dtype=np.uint8))
    own = Gemma4ImageProcessorPil(**checkpoint.processor)(image, return_tensors="pt")
    places = own["image_position_ids"][0]
    rows, columns = int(places[:, 1].max()) + 1, int(places[:, 0].max()) + 1
    found = given(torch.from_numpy(read_processor(checkpoint.processor, (2 * rows, 2 * columns))(image))[None])
    assert torch.equal(found["pixel_values"][0], own["pixel_values"][0, : rows * columns])
    assert torch.equal(found["image_position_ids"][0], places[: rows * columns])
