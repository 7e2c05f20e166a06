"""Encoders at another size than they were trained at: what transformers gives with interpolate_pos_encoding=True."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from PIL import Image

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders import Encoder
from edgeprune.errors import ModelError, RequestError
from edgeprune.export import Request, export_bundle
from edgeprune.export.processor import read_processor
from edgeprune.pruners import fastervlm, none, received
from edgeprune.reference import OfficialEncoder
from edgeprune.runtime import load
from edgeprune.trace import PrunedEncoder
from tests.covering import always

Made = Callable[[str], tuple[Path, Encoder]]
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 3e-4}
SIZES = [(64, 64), (48, 96), (96, 32), (32, 72)]
"""larger, wider, higher, and as many patches as it was trained at (6x6) in another shape"""
ALWAYS = ("dinov2", "dinov2 giant", "dinov2 registers", "dinov3", "internvl")
"""which resample in every run, without being told"""
NAMES = ["clip", "siglip vision", "siglip", "vit", "vit classifier", "deit", "deit with teacher", *ALWAYS[:4]]


def pixels(size: tuple[int, int]) -> torch.Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "size"),
    [
        pytest.param(name, size, id=f"{name}-{size}", marks=() if (i + j) % 4 == 0 else pytest.mark.slow)
        for i, name in enumerate(NAMES)
        for j, size in enumerate(SIZES)
    ],  # each of them always at one size
)
def test_unpruned_tokens_are_those_of_transformers_at_every_size(
    made: Made, kind: Callable[..., Any], name: str, size: tuple[int, int]
) -> None:
    folder, one = made(name)[0], kind(name)
    encoder = encoders.load(open_checkpoint(str(folder)), size=size)
    assert (encoder.tower.image_size, encoder.grid) == (size, (size[0] // 8, size[1] // 8))
    told = {} if name in ALWAYS else {"interpolate_pos_encoding": True}
    with torch.inference_mode():
        expected = one.own(folder)(pixels(size), **told).last_hidden_state[:, one.prefix :]
        for path in (PrunedEncoder, OfficialEncoder):
            torch.testing.assert_close(path(encoder, none.Method(encoder.patches))(pixels(size))[0], expected, **CLOSE)


@pytest.mark.parametrize("name", ["llava clip", "llava siglip", "video llava", "internvl"])
def test_projected_tokens_are_those_of_transformers_at_another_size(
    made: Made, kind: Callable[..., Any], name: str
) -> None:
    folder, size = made(name)[0], (64, 64)
    encoder = encoders.load(open_checkpoint(str(folder)), size=size)
    told = {} if name in ALWAYS else {"interpolate_pos_encoding": True}
    with torch.inference_mode():
        expected = kind(name).own(folder).get_image_features(pixels(size), **told).pooler_output
        found = PrunedEncoder(encoder, none.Method(64))(pixels(size))[0]
    expected = torch.stack(list(expected))
    if name == "video llava":  # which gives [CLS] to the language model, too
        expected = expected[:, -64:]
    torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize("name", always(["clip", "dinov2"], "dinov2"))
def test_case_dino_nonsquare_the_graph_holds_the_resampled_table(made: Made, tmp_path: Path, name: str) -> None:
    model, output = str(made(name)[0]), tmp_path / "bundle"
    request = Request("fastervlm", "cpu", keep=9, size="48x96", model=model, output=output, baselines=False)
    exported = export_bundle(request)
    assert exported.reports[0].passed
    assert exported.manifest.grid == (6, 12)
    assert "Resize" not in {node.op_type for node in ir.load(exported.folder / "encoder.onnx").graph}
    run = load(exported.folder)
    assert run.prepare(Image.new("RGB", (70, 50))).shape == (1, 3, 48, 96)
    encoder = encoders.load(open_checkpoint(str(made(name)[0])), size=(48, 96))
    tokens, indices, _ = run(pixels((48, 96))[:1].numpy())
    with torch.inference_mode():
        expected = OfficialEncoder(encoder, fastervlm.Method(9))(pixels((48, 96))[:1])
    np.testing.assert_array_equal(indices, expected[1].numpy())
    np.testing.assert_allclose(tokens, expected[0].numpy(), **CLOSE)


def test_case_dino_nonsquare_the_image_processors_size_is_taken(
    made: Made, kind: Callable[..., Any], tmp_path: Path
) -> None:
    folder = made("dinov2")[0]
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    given = {"image_processor_type": "BitImageProcessor", "do_center_crop": False, "size": {"height": 48, "width": 96}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(given))
    encoder = encoders.load(open_checkpoint(str(tmp_path)))
    assert encoder.tower.image_size == (48, 96)
    with torch.inference_mode():
        expected = kind("dinov2").own(folder)(pixels((48, 96))).last_hidden_state[:, 1:]
        torch.testing.assert_close(PrunedEncoder(encoder, none.Method(72))(pixels((48, 96)))[0], expected, **CLOSE)


def test_tokens_are_dropped_inside_an_encoder_of_another_size(made: Made) -> None:
    encoder = encoders.load(open_checkpoint(str(made("vit")[0])), size=(48, 96))
    method = received.Method(9, layer=1)
    with torch.inference_mode():
        found, expected = (path(encoder, method)(pixels((48, 96))) for path in (PrunedEncoder, OfficialEncoder))
    assert torch.equal(found[1], expected[1])
    torch.testing.assert_close(found[0], expected[0], **CLOSE)


@pytest.mark.parametrize("name", ["clip", "dinov2", "dinov3", "llava clip", "siglip vision"])
def test_a_size_between_patches_is_refused_with_those_beside_it(made: Made, name: str) -> None:
    with pytest.raises(RequestError, match=r"multiple of the 8 pixels of a patch, got 50x96; 48x96 or 56x96"):
        encoders.load(open_checkpoint(str(made(name)[0])), size=(50, 96))


@pytest.mark.parametrize("name", ["aimv2", "llava next", "llava onevision"])
def test_a_family_of_one_size_says_so(made: Made, name: str) -> None:
    with pytest.raises(RequestError, match="takes no --size: its image size is fixed"):
        encoders.load(open_checkpoint(str(made(name)[0])), size=(64, 64))


def test_a_table_that_transformers_cannot_resample_is_refused(
    made: Made, kind: Callable[..., Any], model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = model_folder(tmp_path, "ViTModel", kind("vit").processor, image_size=[48, 64], num_hidden_layers=1)
    with pytest.raises(ModelError, match="its positions must be of a square grid to be resampled to 64x64"):
        encoders.load(open_checkpoint(str(folder)), size=(64, 64))


CROPPED = {"size": {"shortest_edge": 56}, "crop_size": {"height": 48, "width": 48}}


@pytest.mark.parametrize(
    ("given", "size", "same"),
    [
        (CROPPED, (96, 96), {"size": {"shortest_edge": 112}, "crop_size": {"height": 96, "width": 96}}),
        (CROPPED, (48, 48), CROPPED),
        (CROPPED, (48, 96), {"size": {"height": 48, "width": 96}, "do_center_crop": False}),
        ({"size": 48, "do_center_crop": False}, (64, 64), {"size": [64, 64], "do_center_crop": False}),
        ({"size": [48, 48], "do_center_crop": False}, (64, 32), {"size": [64, 32], "do_center_crop": False}),
    ],
    ids=["square crop", "its own size", "not square", "no crop", "squeezed"],
)
def test_a_square_crop_keeps_its_share_of_the_image_and_any_other_size_is_squeezed_into(
    given: dict[str, Any], size: tuple[int, int], same: dict[str, Any]
) -> None:
    assert read_processor(given, size, resized=True) == read_processor(same, size)
