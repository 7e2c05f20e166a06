"""LLaVA-1.5: feature layer, dropped [CLS] and projector are those of transformers' get_image_features."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders import Encoder
from edgeprune.errors import ModelError
from edgeprune.pruners import none
from edgeprune.reference import OfficialEncoder
from edgeprune.trace import PrunedEncoder
from tests.encoders.kinds import CROPPED, LLAVA_CLIP, LLAVA_SIGLIP, SQUARE, Kind, processor

KINDS = {
    "llava clip": Kind(
        "LlavaForConditionalGeneration",
        processor("CLIP", **CROPPED),
        config=LLAVA_CLIP,
        family="llava",
        tower="a CLIP tower",
        exported="zoo received mmtok covipal",
    ),
    "llava clip layers": Kind(
        "LlavaForConditionalGeneration",
        processor("CLIP", **CROPPED),
        config={**LLAVA_CLIP, "vision_feature_layer": [-1, 0, -2], "vision_feature_select_strategy": "default"},
    ),
    "llava siglip": Kind(
        "LlavaForConditionalGeneration",
        processor("Siglip", **SQUARE),
        prefix=0,
        config=LLAVA_SIGLIP,
        family="llava",
        tower="a SigLIP tower",
        exported="lrcp aim pitome_behind otprune",
    ),
}
MakeFolder = Callable[..., Path]
PIXELS = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("path", [PrunedEncoder, OfficialEncoder])
def test_a_siglip_tower_gives_all_its_tokens(made: Callable[[str], tuple[Path, Encoder]], path: type) -> None:
    folder, encoder = made("llava siglip")
    with torch.inference_mode():
        tokens = path(encoder, none.Method(36))(PIXELS)[0]
    torch.testing.assert_close(tokens, image_features(folder), rtol=1e-4, atol=1e-4)


def test_a_siglip_tower_may_not_lose_its_first_patch(made: Callable[[str], tuple[Path, Encoder]]) -> None:
    checkpoint = open_checkpoint(str(made("llava siglip")[0]))
    checkpoint.config["vision_feature_select_strategy"] = "default"
    with pytest.raises(ModelError, match=r"must be 'full' \(all tokens; there is no \[CLS\] to drop\), got 'default'"):
        encoders.load(checkpoint)


def test_a_family_that_cannot_be_a_tower_is_refused(made: Callable[[str], tuple[Path, Encoder]]) -> None:
    checkpoint = open_checkpoint(str(made("llava siglip")[0]))
    checkpoint.config["vision_config"] = {"model_type": "vit"}
    with pytest.raises(ModelError, match="has a vit as vision tower, which edgeprune cannot trace"):
        encoders.load(checkpoint)


def image_features(folder: Path) -> torch.Tensor:
    from transformers import LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype="float32")
    layer, strategy = model.config.vision_feature_layer, model.config.vision_feature_select_strategy
    with torch.inference_mode():
        features = model.get_image_features(PIXELS, layer, strategy).pooler_output
    return torch.stack(list(features))


@pytest.mark.parametrize("kind", [PrunedEncoder, OfficialEncoder])
def test_unpruned_tokens_are_the_models_own_image_features(
    llava_folder: MakeFolder, tmp_path: Path, kind: type
) -> None:
    folder = llava_folder(tmp_path / "llava")
    encoder = encoders.load(open_checkpoint(str(folder)))
    assert encoder.layer == 3  # of 4: vision_feature_layer is -2
    with torch.inference_mode():
        tokens = kind(encoder, none.Method(36))(PIXELS)[0]
    torch.testing.assert_close(tokens, image_features(folder), rtol=1e-4, atol=1e-4)


def test_it_loads_without_the_language_models_shards(llava_folder: MakeFolder, tmp_path: Path) -> None:
    folder = llava_folder(tmp_path / "llava", max_shard_size="30KB")
    expected = image_features(folder)
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    needed = {file for name, file in index.items() if "vision_tower" in name or "multi_modal_projector" in name}
    absent = set(index.values()) - needed
    assert absent, "the checkpoint must have shards with nothing but the language model"
    for name in absent:
        (folder / name).unlink()
    encoder = encoders.load(open_checkpoint(str(folder)))
    with torch.inference_mode():
        tokens = PrunedEncoder(encoder, none.Method(36))(PIXELS)[0]
    torch.testing.assert_close(tokens, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("vision_feature_select_strategy", "full", "must be 'default' .* got 'full'"),
    ],
)
def test_feature_settings_it_cannot_keep_are_refused(
    llava_folder: MakeFolder, tmp_path: Path, field: str, value: object, says: str
) -> None:
    checkpoint = open_checkpoint(str(llava_folder(tmp_path / "llava")))
    checkpoint.config[field] = value
    with pytest.raises(ModelError, match=says):
        encoders.load(checkpoint)


def test_a_projector_of_another_size_is_refused(llava_folder: MakeFolder, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(llava_folder(tmp_path / "llava")))
    checkpoint.config["text_config"]["hidden_size"] = 64
    with pytest.raises(ModelError, match=r"LlavaMultiModalProjector of config.json has \[64\]"):
        encoders.load(checkpoint)
