"""InternVL: every square of patches is one token, as get_image_features shuffles and projects them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders import Encoder
from edgeprune.errors import ModelError
from edgeprune.export import Request, export_bundle
from edgeprune.export.processor import read_processor
from edgeprune.pruners import divprune, fastervlm, none
from edgeprune.reference import OfficialEncoder
from edgeprune.runtime import load
from edgeprune.runtime.images.tiles import packed
from edgeprune.trace import PrunedEncoder
from tests.encoders.kinds import LANGUAGE, SIZES, SQUARE, Kind, processor

KIND = Kind(
    "InternVLForConditionalGeneration",
    processor("GotOcr2", **SQUARE, crop_to_patches=False),
    config={
        "vision_config": {**SIZES, "num_hidden_layers": 2, "image_size": 48, "patch_size": 4},
        "text_config": {"model_type": "qwen2", **LANGUAGE},
        "image_token_id": 3,
    },
    family="internvl",
    exported="fastervlm score",
)
Made = Callable[[str], tuple[Path, Encoder]]
PIXELS = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 3e-4}
LARGE: dict[str, Any] = {"use_qk_norm": True, "norm_type": "rms_norm", "use_mean_pooling": False}
"""what differs in the towers of six billion weights, and a final norm"""


@pytest.fixture(scope="module", params=[{}, LARGE], ids=["small", "large"])
def made_of(
    request: pytest.FixtureRequest, kind: Callable[[str], Any], model_folder: Callable[..., Path], tmp_path_factory: Any
) -> tuple[Path, Any]:
    """(folder, transformers' own model)"""
    from transformers import InternVLForConditionalGeneration

    one = kind("internvl")
    vision = {**one.config["vision_config"], **request.param}
    folder = tmp_path_factory.mktemp("internvl")
    model_folder(folder, one.architecture, one.processor, **{**one.config, "vision_config": vision})
    model: Any = InternVLForConditionalGeneration.from_pretrained(folder)
    return folder, model.eval()


@pytest.mark.parametrize("layer", [None, -1, -2, 1])
def test_unpruned_tokens_are_the_models_own(made_of: tuple[Path, Any], layer: int | None) -> None:
    folder, model = made_of
    encoder = encoders.load(open_checkpoint(str(folder)), layer)
    with torch.inference_mode():
        expected = model.get_image_features(PIXELS, vision_feature_layer=-1 if layer is None else layer).pooler_output
        for path in (PrunedEncoder, OfficialEncoder):
            torch.testing.assert_close(path(encoder, none.Method(36))(PIXELS)[0], expected, **CLOSE)


def test_the_grid_is_that_of_the_tokens(made: Made) -> None:
    encoder = made("internvl")[1]
    assert (encoder.tower.grid, encoder.grid, encoder.patches) == ((12, 12), (6, 6), 36)
    assert encoder.groups is not None
    assert encoder.groups[7].tolist() == [26, 27, 38, 39]  # row 1, column 1


def test_a_token_is_scored_by_the_mean_of_its_patches(made: Made) -> None:
    folder, encoder = made("internvl")
    from transformers import InternVLForConditionalGeneration

    model = InternVLForConditionalGeneration.from_pretrained(folder, attn_implementation="eager").model.eval()
    with torch.inference_mode():
        maps = model.vision_tower(PIXELS, output_attentions=True).attentions[-1].double().numpy()
        found = PrunedEncoder(encoder, fastervlm.Method(9))(PIXELS)[2]
    row = maps.mean(axis=1)[:, 0, 1:].reshape(2, 6, 2, 6, 2)
    np.testing.assert_allclose(found.numpy(), row.mean(axis=(2, 4)).reshape(2, 36), rtol=1e-3)


def test_the_tower_alone_is_an_encoder_of_patches(made_of: tuple[Path, Any], tmp_path: Path) -> None:
    folder, model = made_of
    model.model.vision_tower.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text((folder / "preprocessor_config.json").read_text())
    encoder = encoders.load(open_checkpoint(str(tmp_path)))
    with torch.inference_mode():
        expected = model.model.vision_tower(PIXELS).last_hidden_state[:, 1:]
        torch.testing.assert_close(PrunedEncoder(encoder, none.Method(144))(PIXELS)[0], expected, **CLOSE)


@pytest.mark.parametrize("prefix", ["", "model."])
def test_the_names_of_older_and_newer_checkpoints_are_read(made: Made, tmp_path: Path, prefix: str) -> None:
    folder, expected = made("internvl")
    for path in folder.glob("*.json"):
        (tmp_path / path.name).write_text(path.read_text())
    parts = ("vision_tower.", "multi_modal_projector.")
    tensors = load_file(folder / "model.safetensors")
    names = {name: name[name.index(part) :] for name in tensors for part in parts if part in name}
    save_file({prefix + new: tensors[old] for old, new in names.items()}, tmp_path / "model.safetensors")
    with torch.inference_mode():
        found, wanted = (
            PrunedEncoder(one, none.Method(36))(PIXELS)[0]
            for one in (encoders.load(open_checkpoint(str(tmp_path))), expected)
        )
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("size", [[48, 40], [44, 44]], ids=["not square", "odd"])
def test_patches_that_make_no_squares_are_refused(
    kind: Callable[[str], Any], model_folder: Callable[..., Path], tmp_path: Path, size: list[int]
) -> None:
    config = json.loads(json.dumps(kind("internvl").config))
    config["vision_config"]["image_size"] = size
    model_folder(tmp_path, "InternVLForConditionalGeneration", kind("internvl").processor, **config)
    got = f"{size[0] // 4}x{size[1] // 4}"
    with pytest.raises(ModelError, match=f"must be square and its side a multiple of 2, got {got}"):
        encoders.load(open_checkpoint(str(tmp_path)))


def test_an_image_is_prepared_as_its_processor_prepares_one_tile(made: Made) -> None:
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    checkpoint = open_checkpoint(str(made("internvl")[0]))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 99, 3), dtype=np.uint8))
    own = GotOcr2ImageProcessorPil(**checkpoint.processor)(image, return_tensors="pt")["pixel_values"][0]
    found = read_processor(checkpoint.processor, (48, 48))(image)
    torch.testing.assert_close(torch.from_numpy(found), own, rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def cropping(kind: Callable[[str], Any], model_folder: Callable[..., Path], tmp_path_factory: Any) -> Path:
    """A checkpoint whose image processor cuts images into tiles."""
    one, folder = kind("internvl"), tmp_path_factory.mktemp("cropping")
    return model_folder(folder, one.architecture, {**one.processor, "crop_to_patches": True}, **one.config)


@pytest.mark.parametrize(
    ("name", "keep"),
    [
        pytest.param("fastervlm", 21, id="each tile", marks=pytest.mark.slow),
        pytest.param("divprune", 20, id="one pool", marks=pytest.mark.slow),
    ],
)
def test_case_internvl_crops_an_image_is_cut_as_its_processor_cuts_it(
    cropping: Path, tmp_path: Path, name: str, keep: int
) -> None:
    from transformers import AutoImageProcessor, InternVLForConditionalGeneration

    request = Request(name, "cpu", keep=keep, tiles=3, model=str(cropping), output=tmp_path / "b", baselines=False)
    exported = export_bundle(request)
    assert exported.reports[0].passed
    assert "the whole image last" in exported.manifest.layout
    run, image = (
        load(exported.folder),
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 120, 3), np.uint8)),
    )
    auto: Any = AutoImageProcessor
    wanted = auto.from_pretrained(cropping)(image, return_tensors="pt")["pixel_values"]
    np.testing.assert_array_equal(run.prepare(image), wanted)
    tokens, indices, _ = run(image)
    encoder = encoders.load(open_checkpoint(str(cropping)))
    method = fastervlm.Method(7) if name == "fastervlm" else divprune.Method(20)
    model: Any = InternVLForConditionalGeneration.from_pretrained(cropping)
    with torch.inference_mode():
        assert torch.equal(OfficialEncoder(encoder, method)(wanted)[1], torch.from_numpy(indices))
        every = model.eval().get_image_features(wanted).pooler_output.reshape(-1, 48)
    place = (indices if name == "divprune" else indices + 36 * np.arange(3)[:, None]).ravel()
    order = packed(tokens, indices, run.grid, run.preprocessing.tile_shape(image), squeezed=True)
    torch.testing.assert_close(torch.from_numpy(order), every[place], **CLOSE)


@pytest.mark.slow
def test_case_internvl_crops_one_tile_is_the_whole_image_and_says_so(cropping: Path, tmp_path: Path) -> None:
    request = Request("fastervlm", "cpu", keep=4, model=str(cropping), output=tmp_path / "b", baselines=False)
    exported = export_bundle(request)
    assert "give --tiles" in exported.warnings[0]
    assert exported.manifest.preprocessing["tiles"] == {"count": 1, "pinpoints": [], "squeezed": True}
