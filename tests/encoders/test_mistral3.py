"""Mistral 3: every 2x2 patches are one token, as get_image_features unfolds and projects them; rows end in breaks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
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
from edgeprune.errors import ModelError, RequestError
from edgeprune.export.cost import formula
from edgeprune.integrations.transformers import generation_inputs
from edgeprune.pruners import divprune, none
from edgeprune.reference import OfficialEncoder
from edgeprune.runtime import TokenEncoder, load
from edgeprune.trace import PrunedEncoder
from tests.encoders.kinds import LANGUAGE, Kind
from tests.encoders.test_pixtral import PROCESSOR, TOWER

KIND = Kind(
    "Mistral3ForConditionalGeneration",
    PROCESSOR,
    prefix=0,
    config={
        "vision_config": {**TOWER, "patch_size": 4},
        "text_config": {"model_type": "mistral", **LANGUAGE, "num_hidden_layers": 2},
        "image_token_index": 3,
    },
    grid=(12, 12),
    family="mistral3",
    exported="divprune",
    unread=("language_model.", "model.language_model.", "lm_head."),
    given=lambda pixels: {"pixel_values": pixels, "image_sizes": torch.tensor([pixels.shape[2:]])},
)
KINDS = {
    "mistral3": KIND,
    "lighton ocr": replace(
        KIND,
        architecture="LightOnOcrForConditionalGeneration",
        config={
            **{name: value for name, value in KIND.config.items() if name != "image_token_index"},
            "text_config": {"model_type": "qwen3", **LANGUAGE, "num_hidden_layers": 2, "head_dim": 24},
            "image_token_id": 3,
        },
        family="",
    ),
}
"""LightOnOCR's prompt has no breaks"""
Made = Callable[[str], tuple[Path, Encoder]]
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 3e-4}


@pytest.mark.parametrize("layer", [-1, 1])
@pytest.mark.parametrize("grid", [(12, 12), (4, 14)], ids=str)
def test_unpruned_tokens_are_the_models_own(
    made: Made, kind: Callable[[str], Any], layer: int, grid: tuple[int, int]
) -> None:
    folder = made("mistral3")[0]
    encoder = encoders.load(open_checkpoint(str(folder)), layer, grid=grid)
    pixels = torch.randn(1, 3, 4 * grid[0], 4 * grid[1], generator=torch.Generator().manual_seed(0))
    given = kind("mistral3").given(pixels)
    with torch.inference_mode():
        expected = kind("mistral3").own(folder).get_image_features(**given, vision_feature_layer=layer).pooler_output
        for path in (PrunedEncoder, OfficialEncoder):
            found = path(encoder, none.Method(encoder.patches))(pixels)[0]
            torch.testing.assert_close(found[0], expected[0], **CLOSE)


def test_a_grid_that_its_squares_do_not_divide_is_refused(made: Made) -> None:
    with pytest.raises(RequestError, match=r"a multiple of 2x2 patches.* got 12x7; 12x6 or 12x8"):
        encoders.load(open_checkpoint(str(made("mistral3")[0])), grid=(12, 7))


def test_several_layers_are_refused_as_transformers_norms_one(made: Made) -> None:
    checkpoint = open_checkpoint(str(made("mistral3")[0]))
    checkpoint.config["vision_feature_layer"] = [-2, -1]
    with pytest.raises(ModelError, match="of a mistral3 must be one layer"):
        encoders.load(checkpoint, grid=(12, 12))


def test_the_names_of_older_checkpoints_are_read(made: Made, tmp_path: Path) -> None:
    folder, expected = made("mistral3")
    for path in folder.glob("*.json"):
        (tmp_path / path.name).write_text(path.read_text())
    parts = ("vision_tower.", "multi_modal_projector.")
    tensors = load_file(folder / "model.safetensors")
    names = {old: old[old.index(part) :] for old in tensors for part in parts if part in old}
    pixels = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    for at, root in enumerate(("", "model.")):
        place = tmp_path / str(at)
        place.mkdir()
        for path in folder.glob("*.json"):
            (place / path.name).write_text(path.read_text())
        save_file({root + new: tensors[old] for old, new in names.items()}, place / "model.safetensors")
        with torch.inference_mode():
            found, wanted = (
                PrunedEncoder(one, none.Method(36))(pixels)[0]
                for one in (encoders.load(open_checkpoint(str(place)), grid=(12, 12)), expected)
            )
        assert torch.equal(found, wanted)


def test_the_graph_costs_what_the_formula_says(made: Made, cell: Callable[..., Any]) -> None:
    encoder, manifest = made("mistral3")[1], cell("mistral3", "divprune", 12).manifest
    embedding = 144 * encoder.tower.patch_embedding.weight.numel()
    greedy = divprune.Method(12).multiply_adds(36)
    expected = formula(encoder, divprune.Method(12)) + embedding
    assert expected <= manifest.cost["graph"] <= 1.01 * expected + 36 * 36 * 48 + greedy


def test_it_says_of_ragged_rows_what_it_says_of_the_references(
    made: Made, kind: Callable[[str], Any], cell: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prompt is the processor's: six tokens and a break in each of six rows, the end behind the last."""
    folder, encoder = made("mistral3")
    model = kind("mistral3").own(folder)
    bundle = load(cell("mistral3", "divprune", 12).folder, kind=TokenEncoder)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8))
    row = [3] * 6
    prompt = [5, *row, 20, *row, 20, *row, 20, *row, 20, *row, 20, *row, 21, 6]
    inputs = generation_inputs(model, bundle, image, torch.tensor([prompt]))

    pixels = torch.from_numpy(bundle.prepare(image))
    given = kind("mistral3").given(pixels)
    with torch.inference_mode():
        kept = OfficialEncoder(encoder, divprune.Method(12))(pixels)[1][0].long()
        out = model.model.get_image_features(**given, return_dict=True)
        out.pooler_output = [out.pooler_output[0][kept]]
    ragged = [[3] * int((kept // 6 == at).sum()) for at in range(6)]
    expected = [5, *(token for at, one in enumerate(ragged) for token in (*one, 21 if at == 5 else 20)), 6]
    assert inputs["input_ids"].tolist() == [expected]
    assert len(expected) == 12 + 6 + 2
    features = model.model.get_image_features  # `generate` looks at its parameters
    monkeypatch.setattr(model.model, "get_image_features", wraps(features)(lambda *_, **__: out))
    new: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    found = model.generate(**inputs, **new)
    assert found.tolist() == model.generate(input_ids=inputs["input_ids"], **given, **new).tolist()
