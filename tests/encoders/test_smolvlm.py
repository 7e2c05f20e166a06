"""SmolVLM, Idefics 3: tokens are those that the connector shuffles and projects, tiles those of the processor."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders import Encoder
from edgeprune.errors import ModelError
from edgeprune.export import Request, export_bundle
from edgeprune.export.cost import formula
from edgeprune.export.processor import read_processor
from edgeprune.integrations.transformers import generation_inputs
from edgeprune.pruners import divprune, none, uniform
from edgeprune.reference import OfficialEncoder
from edgeprune.runtime import load
from edgeprune.trace import PrunedEncoder
from tests.encoders.kinds import LANGUAGE, SIZES, Kind, processor

SPLIT: dict[str, Any] = {"size": {"longest_edge": 96}, "max_image_size": {"longest_edge": 48}}
CONFIG: dict[str, Any] = {
    "vision_config": {**SIZES, "intermediate_size": 96, "num_hidden_layers": 2, "image_size": 48, "patch_size": 4},
    "text_config": {"model_type": "llama", **LANGUAGE},
    "scale_factor": 2,
    "image_token_id": 3,
}
KINDS = {
    "smolvlm": Kind(
        "SmolVLMForConditionalGeneration",
        processor("SmolVLM", **SPLIT),
        prefix=0,
        config=CONFIG,
        family="smolvlm",
        exported="uniform",
        unread=("language_model.", "model.language_model.", "model.text_model.", "lm_head."),
    ),
    "idefics3": Kind("Idefics3ForConditionalGeneration", processor("Idefics3", **SPLIT), prefix=0, config=CONFIG),
}
Made = Callable[[str], tuple[Path, Encoder]]
PIXELS = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 3e-4}
SIZES_OF_IMAGES = [(60, 120), (120, 60), (96, 96), (50, 99), (5, 90), (48, 48), (333, 331)]


def photo(size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))


@pytest.mark.parametrize("name", KINDS)
def test_unpruned_tokens_are_the_models_own(made: Made, kind: Callable[[str], Any], name: str) -> None:
    folder, encoder = made(name)
    assert (encoder.tower.grid, encoder.grid, encoder.unit, encoder.normed) == ((12, 12), (6, 6), 4, True)
    with torch.inference_mode():
        expected = torch.stack(kind(name).own(folder).get_image_features(PIXELS[:, None]).pooler_output)
        for path in (PrunedEncoder, OfficialEncoder):
            torch.testing.assert_close(path(encoder, none.Method(36))(PIXELS)[0], expected, **CLOSE)


@pytest.mark.parametrize(("scale", "patch", "side"), [(3, 4, 36), (4, 2, 24), (1, 8, 40)], ids=str)
def test_so_are_those_of_other_squares_and_positions(
    kind: Callable[[str], Any], model_folder: Callable[..., Path], tmp_path: Path, scale: int, patch: int, side: int
) -> None:
    """Where 1 / 5 is no binary number, transformers' buckets may give two patches one position."""
    vision = {**CONFIG["vision_config"], "patch_size": patch, "image_size": side}
    config = {**CONFIG, "vision_config": vision, "scale_factor": scale}
    steps = processor("SmolVLM", size={"longest_edge": 2 * side}, max_image_size={"longest_edge": side})
    folder = model_folder(tmp_path, KINDS["smolvlm"].architecture, steps, **config)
    encoder = encoders.load(open_checkpoint(str(folder)))
    pixels = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    assert (encoder.unit, encoder.patches) == (scale**2, (side // patch // scale) ** 2)
    with torch.inference_mode():
        expected = kind("smolvlm").own(folder).get_image_features(pixels[:, None]).pooler_output[0]
        for path in (PrunedEncoder, OfficialEncoder):
            torch.testing.assert_close(path(encoder, none.Method(encoder.patches))(pixels)[0][0], expected, **CLOSE)


def test_the_tower_alone_is_an_encoder_of_patches(made: Made, kind: Callable[[str], Any], tmp_path: Path) -> None:
    folder = made("smolvlm")[0]
    model = kind("smolvlm").own(folder)
    model.model.vision_model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text((folder / "preprocessor_config.json").read_text())
    encoder = encoders.load(open_checkpoint(str(tmp_path)))
    with torch.inference_mode():
        expected = model.model.vision_model(PIXELS).last_hidden_state
        torch.testing.assert_close(PrunedEncoder(encoder, none.Method(144))(PIXELS)[0], expected, **CLOSE)


def test_patches_that_make_no_squares_are_refused(made: Made, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(made("smolvlm")[0]))
    checkpoint.config["scale_factor"] = 5
    with pytest.raises(ModelError, match="a token is 5x5 patches, which must divide the grid, got 12x12"):
        encoders.load(checkpoint)


@pytest.mark.parametrize("size", SIZES_OF_IMAGES, ids=str)
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("longest", [48, 96, 150])
def test_an_image_is_cut_as_the_processor_cuts_it(name: str, size: tuple[int, int], longest: int) -> None:
    import transformers

    given = processor(name := {"smolvlm": "SmolVLM", "idefics3": "Idefics3"}[name], **SPLIT)
    given["size"] = {"longest_edge": longest}
    own = getattr(transformers, f"{name}ImageProcessorPil")(**given)(
        photo(size), return_row_col_info=True, return_tensors="np"
    )
    wanted = own["pixel_values"][0]
    steps = read_processor(given, (48, 48), len(wanted))
    np.testing.assert_array_equal(steps.tiled(photo(size)), wanted)
    assert steps.tile_shape(photo(size)) == (own["rows"][0][0], own["cols"][0][0])


def test_one_tile_is_the_image_that_is_not_split() -> None:
    from transformers import SmolVLMImageProcessorPil

    given = processor("SmolVLM", **SPLIT)
    wanted = SmolVLMImageProcessorPil(**given, do_image_splitting=False)(photo((60, 99)), return_tensors="np")
    for splitting in (True, False):
        steps = read_processor({**given, "do_image_splitting": splitting}, (48, 48), 1)
        np.testing.assert_array_equal(steps.tiled(photo((60, 99))), wanted["pixel_values"][0])


@pytest.mark.parametrize(
    ("given", "tiles", "says"),
    [
        ({}, 4, r"--tiles must be how many its image processor can make \(1, 3, 5\), got 4"),
        ({"do_image_splitting": False}, 3, r"can make \(1\), got 3"),
        ({"do_resize": False}, 3, "must scale images first"),
        ({"size": {"height": 96, "width": 96}}, 3, "size must have longest_edge; it has height, width"),
        ({"size": {"longest_edge": 5000}}, 3, "longest_edge of at most 4096, got 5000"),
        ({"max_image_size": {"longest_edge": 40}}, 3, "come out at 40x40, but the encoder takes 48x48"),
    ],
    ids=str,
)
def test_tiles_that_the_processor_cannot_give_are_refused(given: dict[str, Any], tiles: int, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        read_processor({**processor("SmolVLM", **SPLIT), **given}, (48, 48), tiles)


def test_an_image_of_another_shape_gets_the_nearest_of_as_many_tiles() -> None:
    steps = read_processor(processor("SmolVLM", **SPLIT), (48, 48), 3)
    assert steps.tile_shape(photo((60, 99))) == (1, 2)  # transformers would cut four and the whole
    assert steps.tiled(photo((60, 99))).shape == (3, 3, 48, 48)


def test_each_tile_keeps_its_own_share_whatever_the_method(made: Made) -> None:
    encoder = made("smolvlm")[1]
    assert (encoder.tiled, encoder.tagged, encoder.pools) == (True, True, False)
    with torch.inference_mode():
        for path in (PrunedEncoder, OfficialEncoder):
            assert path(encoder, divprune.Method(9))(PIXELS)[0].shape == (2, 9, 48)


def spoken(model: Any, **inputs: Any) -> list[int]:
    found = model.generate(**inputs, max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)
    return found[0, inputs["input_ids"].shape[1] :].tolist()  # type: ignore[no-any-return]


@pytest.mark.slow
def test_a_model_says_of_tagged_tiles_what_it_says_of_the_references(
    made: Made, kind: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three tiles, each behind a tag of its own, with nine tokens of each."""
    folder, encoder = made("smolvlm")
    request = Request("uniform", "cpu", keep=27, tiles=3, model=str(folder), output=tmp_path / "b", baselines=False)
    exported = export_bundle(request)
    patches = 144 * encoder.tower.patch_embedding.weight.numel()
    assert exported.manifest.cost["graph"] == pytest.approx(
        3 * (formula(encoder, uniform.Method(9)) + patches), rel=0.01
    )
    bundle, model = load(exported.folder), kind("smolvlm").own(folder)
    prompt = torch.tensor([[5, 20, *[3] * 36, 21, *[3] * 36, 22, *[3] * 36, 6]])
    inputs = generation_inputs(model, bundle, photo((60, 120)), prompt)
    assert inputs["input_ids"].tolist() == [[5, 20, *[3] * 9, 21, *[3] * 9, 22, *[3] * 9, 6]]

    pixels = torch.from_numpy(bundle.prepare(photo((60, 120))))
    with torch.inference_mode():
        kept = OfficialEncoder(encoder, uniform.Method(9))(pixels)[1].long()
        out = model.model.get_image_features(pixels[None], return_dict=True)
        every = out.pooler_output[0].reshape(3, 36, 48)
        out.pooler_output = [torch.cat([tile[rows] for tile, rows in zip(every, kept, strict=True)])]
    features = model.model.get_image_features  # `generate` looks at its parameters
    monkeypatch.setattr(model.model, "get_image_features", wraps(features)(lambda *_, **__: out))
    assert spoken(model, **inputs) == spoken(model, input_ids=inputs["input_ids"], pixel_values=pixels[None])
    with torch.inference_mode():  # a model that says the same of every image would prove nothing
        other = generation_inputs(model, bundle, photo((60, 120)).rotate(180), prompt)
        assert (model(**other).logits[0, -1] - model(**inputs).logits[0, -1]).abs().max() > 0.01


@pytest.mark.slow
def test_with_every_token_kept_it_says_what_the_model_says(
    made: Made, kind: Callable[[str], Any], tmp_path: Path
) -> None:
    folder = made("idefics3")[0]
    request = Request("none", "cpu", tiles=3, model=str(folder), output=tmp_path / "bundle", baselines=False)
    bundle, model = load(export_bundle(request).folder), kind("idefics3").own(folder)
    prompt = torch.tensor([[5, 20, *[3] * 36, 21, *[3] * 36, 22, *[3] * 36, 6]])
    inputs = generation_inputs(model, bundle, photo((60, 120)), prompt)
    pixels = torch.from_numpy(bundle.prepare(photo((60, 120))))[None]
    assert spoken(model, **inputs) == spoken(model, input_ids=prompt, pixel_values=pixels)


def test_the_processors_file_says_its_class_or_the_model_does(made: Made) -> None:
    given = json.loads((made("smolvlm")[0] / "preprocessor_config.json").read_text())
    del given["image_processor_type"]
    assert read_processor(given, (48, 48), 3, model_type="smolvlm") == read_processor(
        processor("SmolVLM", **SPLIT), (48, 48), 3
    )
