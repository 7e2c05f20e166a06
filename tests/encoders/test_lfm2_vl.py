"""LFM2-VL: at one grid, its tokens are those that transformers computes of patches, mask and shapes; its tiles those
that its processor cuts, and what is said of them and the thumbnail what is said of the reference's."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial, wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from edgeprune import encoders, targets
from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders import Encoder
from edgeprune.errors import ModelError, RequestError
from edgeprune.export import Request, export_bundle
from edgeprune.export.opening import opened
from edgeprune.export.processor import read_processor
from edgeprune.integrations.transformers import generation_inputs
from edgeprune.pruners import divprune, none
from edgeprune.reference import OfficialEncoder
from edgeprune.runtime import TokenEncoder, load, show
from edgeprune.runtime.images.resize import PILLOW, TORCH, resizer
from edgeprune.runtime.images.tiles import Tiles
from edgeprune.trace import PrunedEncoder
from tests.encoders.kinds import LANGUAGE, SIZES, Kind, processor

GRID = (12, 12)
CONFIG: dict[str, Any] = {
    "vision_config": {
        **SIZES,
        "model_type": "siglip2_vision_model",
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_patches": 25,
        "patch_size": 4,
        "vision_use_head": False,
    },
    "text_config": {
        "model_type": "lfm2",
        **LANGUAGE,
        "num_hidden_layers": 2,
        "layer_types": ["conv", "full_attention"],
        "block_auto_adjust_ff_dim": False,
    },
    "image_token_id": 3,
    "projector_hidden_size": 40,
}


def given(pixels: Tensor) -> dict[str, Any]:
    """As the image processor hands patches over: raster order, each (row, column, channel)."""
    batch, _, height, width = pixels.shape
    rows, columns = height // 4, width // 4
    patches = pixels.reshape(batch, 3, rows, 4, columns, 4).permute(0, 2, 4, 3, 5, 1)
    return {
        "pixel_values": patches.reshape(batch, rows * columns, -1),
        "spatial_shapes": torch.tensor([[rows, columns]] * batch),
        "pixel_attention_mask": torch.ones(batch, rows * columns, dtype=torch.int64),
    }


def padded(tiles: Tensor, thumbnail: Tensor) -> dict[str, Any]:
    """Tiles and a smaller thumbnail as transformers runs them: one batch, the smaller one padded and masked."""
    both = [given(tiles), given(thumbnail)]
    most, short = (one["pixel_values"].shape[1] for one in both)
    for name in ("pixel_values", "pixel_attention_mask"):
        shape = (1, most, *both[1][name].shape[2:])
        both[1][name] = torch.cat((both[1][name], both[1][name].new_zeros(shape)[:, short:]), dim=1)
    return {name: torch.cat([one[name] for one in both]) for name in both[0]}


KIND = Kind(
    "Lfm2VlForConditionalGeneration",
    processor("Lfm2Vl", encoder_patch_size=4),
    prefix=0,
    config=CONFIG,
    grid=GRID,
    family="lfm2_vl",
    exported="divprune",
    unread=("language_model.", "model.language_model.", "lm_head."),
    given=given,
)
Made = Callable[[str], tuple[Path, Encoder]]
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 3e-4}


@pytest.mark.parametrize("grid", [(8, 14), (4, 6)], ids=str)
@pytest.mark.parametrize(
    "more", [{}, {"projector_use_layernorm": False, "projector_bias": False}], ids=["norm", "bare"]
)
def test_unpruned_tokens_are_the_models_own_at_every_grid(
    model_folder: Callable[..., Path], tmp_path: Path, grid: tuple[int, int], more: dict[str, Any]
) -> None:
    from transformers import Lfm2VlForConditionalGeneration

    folder = model_folder(tmp_path, KIND.architecture, KIND.processor, **{**CONFIG, **more})
    model: Any = Lfm2VlForConditionalGeneration.from_pretrained(folder)
    encoder = encoders.load(open_checkpoint(str(folder)), grid=grid)
    assert (encoder.grid, encoder.unit) == ((grid[0] // 2, grid[1] // 2), 4)
    pixels = torch.randn(2, 3, 4 * grid[0], 4 * grid[1], generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = torch.stack(model.eval().get_image_features(**given(pixels)).pooler_output)
        for path in (PrunedEncoder, OfficialEncoder):
            torch.testing.assert_close(path(encoder, none.Method(encoder.patches))(pixels)[0], expected, **CLOSE)


def test_a_thumbnail_among_padded_tiles_has_the_tokens_of_its_own_grid(made: Made, kind: Callable[[str], Any]) -> None:
    folder = made("lfm2_vl")[0]
    tile, thumbnail = (
        torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1)) for size in ((48, 48), (32, 40))
    )
    with torch.inference_mode():
        expected = kind("lfm2_vl").own(folder).get_image_features(**padded(tile, thumbnail))
        for pixels, grid, wanted in zip((tile, thumbnail), (GRID, (8, 10)), expected.pooler_output, strict=True):
            encoder = encoders.load(open_checkpoint(str(folder)), grid=grid)
            found = PrunedEncoder(encoder, none.Method(encoder.patches))(pixels)[0]
            torch.testing.assert_close(found[0], wanted, **CLOSE)


@pytest.mark.parametrize("grid", [None, (11, 12)])
def test_a_grid_is_asked_for_that_its_squares_divide(made: Made, grid: tuple[int, int] | None) -> None:
    with pytest.raises(RequestError, match=r"--grid must say|a multiple of 2x2 patches.* got 11x12; 10x12 or 12x12"):
        encoders.load(open_checkpoint(str(made("lfm2_vl")[0])), grid=grid)


def test_the_names_of_older_checkpoints_are_read(made: Made, tmp_path: Path) -> None:
    folder, expected = made("lfm2_vl")
    for path in folder.glob("*.json"):
        (tmp_path / path.name).write_text(path.read_text())
    parts = ("vision_tower.", "multi_modal_projector.")
    tensors = load_file(folder / "model.safetensors")
    names = {old: old[old.index(part) :] for old in tensors for part in parts if part in old}
    older = {old: new.replace("vision_tower.", "vision_tower.vision_model.") for old, new in names.items()}
    save_file({f"model.{new}": tensors[old] for old, new in older.items()}, tmp_path / "model.safetensors")
    pixels = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found, wanted = (
            PrunedEncoder(one, none.Method(36))(pixels)[0]
            for one in (encoders.load(open_checkpoint(str(tmp_path)), grid=GRID), expected)
        )
    assert torch.equal(found, wanted)


def test_images_are_resized_to_the_grid_in_one_step(made: Made) -> None:
    steps = read_processor(open_checkpoint(str(made("lfm2_vl")[0])).processor, (48, 48))
    assert (steps.resize, steps.resample, steps.resizer) == ({"height": 48, "width": 48}, 2, TORCH)
    assert (steps.rescale, steps.mean, steps.std) == (1.0, (127.5,) * 3, (127.5,) * 3)  # in one step


def test_a_filter_that_torch_has_not_is_refused() -> None:
    assert read_processor(FILE | {"resample": 3}, (48, 48)).resample == 3
    with pytest.raises(ModelError, match=r"resizer torch takes resample 2 \(bilinear\) or 3 \(bicubic\), got 1"):
        read_processor(FILE | {"resample": 1}, (48, 48))
    assert read_processor(FILE | {"do_resize": False}, (48, 48)).resizer == PILLOW


@pytest.fixture
def processor_of_transformers(of_torchvision: Callable[[str], Any]) -> Any:
    return of_torchvision("lfm2_vl").Lfm2VlImageProcessor


SMALL: dict[str, int] = {"encoder_patch_size": 4, "tile_size": 48, "min_image_tokens": 4, "max_image_tokens": 36}
FILE = processor("Lfm2Vl", **SMALL)
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.5)


def photo(size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8))


def spoken(model: Any, **inputs: Any) -> list[int]:
    found = model.generate(**inputs, max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)
    return found[0, inputs["input_ids"].shape[1] :].tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("size", [(40, 57), (20, 150), (130, 170), (200, 90), (96, 97)], ids=str)
def test_an_image_its_tiles_and_its_thumbnail_have_the_pixels_of_the_processor(
    processor_of_transformers: Any, size: tuple[int, int]
) -> None:
    """The image or thumbnail by a bundle of its grid; the tiles by one of theirs."""
    image = photo(size)
    own = processor_of_transformers(**SMALL)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    fields = ("downsample_factor", "min_tiles", "max_tiles", "use_thumbnail", "min_image_tokens", "max_image_tokens")
    given = {name: getattr(own, name) for name in (*fields, "encoder_patch_size", "tile_size", "max_pixels_tolerance")}
    (parts,), (rows,), (columns,), _ = own.resize_and_split(pixels, **given, resample=own.resample)
    wanted = [one.permute(1, 2, 0).numpy() for one in parts]
    normalised = [own.rescale_and_normalize(one[None], True, 1 / 255, True, MEAN, STD)[0].numpy() for one in parts]
    file = FILE | {"image_mean": MEAN, "image_std": STD}
    whole = read_processor(file, wanted[-1].shape[:2])
    assert np.array_equal(whole.pixels(image), wanted[-1])
    assert whole(image).tobytes() == normalised[-1].tobytes()
    assert len(wanted) == (1 if rows * columns == 1 else rows * columns + 1)
    if len(wanted) > 1:
        steps = read_processor(file, (48, 48), rows * columns)
        assert steps.tile_shape(image) == (rows, columns)
        np.testing.assert_array_equal(steps.tiled_pixels(image), wanted[:-1])
        assert steps.tiled(image).tobytes() == np.stack(normalised[:-1]).tobytes()


@pytest.mark.parametrize(("least", "most"), [(2, 10), (1, 6), (3, 12)])
def test_tiles_have_the_shape_that_the_processor_chooses(processor_of_transformers: Any, least: int, most: int) -> None:
    """Sides of 16 to 400 pixels in steps of 16, so of many ratios that lie between two shapes, small and large."""
    own, seen = processor_of_transformers(**SMALL), set()
    for height, width in itertools.product(range(16, 401, 16), repeat=2):
        columns, rows, *_ = own._get_grid_layout(height, width, least, most, 48)
        if (count := rows * columns) > 1:
            tiles = read_processor(FILE | {"min_tiles": least, "max_tiles": most}, (48, 48), count).tiles
            assert tiles is not None
            assert tiles.shape((height, width)) == (rows, columns), (height, width)
            seen.add(count)
    assert seen == {*range(max(least, 2), most + 1)}


@pytest.mark.parametrize(
    ("said", "tiles", "says"),
    [
        ({}, 11, r"can make \(2, 3, 4, 5, 6, 7, 8, 9, 10\), got 11"),
        ({"min_tiles": 12}, 3, r"min_tiles\.\.max_tiles must lie in 1\.\.256, got 12\.\.10"),
        ({"max_tiles": "ten"}, 3, "cannot be used"),
    ],
    ids=str,
)
def test_tiles_that_the_processor_never_makes_are_refused(said: dict[str, Any], tiles: int, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        read_processor(FILE | said, (48, 48), tiles)


@pytest.fixture(scope="module")
def splitting(model_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose tiles have 48x48 pixels, 12x12 patches."""
    return model_folder(tmp_path_factory.mktemp("splitting"), KIND.architecture, FILE, **CONFIG)


def test_several_images_of_the_size_of_tiles_are_those_of_one(splitting: Path, made: Made) -> None:
    """Not where the grid is another one, nor where no image is split."""
    checkpoint = open_checkpoint(str(splitting))
    tile, other = (encoders.load(checkpoint, grid=grid) for grid in (GRID, (8, 10)))
    tiles = tile.in_tiles(3)
    assert (tiles.tiled, tiles.tagged, tiles.pools) == (True, True, False)
    assert "row by row" in tiles.layout
    checkpoint.processor["do_image_splitting"] = False
    for images in (tile, other.in_tiles(3), made("lfm2_vl")[1].in_tiles(3), encoders.load(checkpoint, grid=GRID)):
        assert (images.tiled, images.layout) == (False, "")


def test_a_bundle_of_tiles_shares_the_budget_of_an_image(splitting: Path) -> None:
    request = Request("divprune", "cpu", keep=18, tiles=2, model=str(splitting), grid="12x12", baselines=False)
    tiles, alone = (opened(one, targets.load("cpu")) for one in (request, replace(request, tiles=1)))
    assert (tiles.method.keep, alone.method.keep) == (9, 18)
    assert tiles.preprocessing.tiles == Tiles(2, 48, ((96, 48), (48, 96)), squeezed=True, whole=False)
    assert alone.preprocessing == replace(tiles.preprocessing, tiles=None)


WIDE = (60, 130)
"""of which the processor makes two tiles, side by side, and a thumbnail of 32x64 pixels, 8x16 patches"""


@pytest.fixture(scope="module")
def parts(splitting: Path, tmp_path_factory: pytest.TempPathFactory) -> list[TokenEncoder]:
    """The bundles of two tiles, with 9 tokens of each, and of the thumbnail, with 7."""
    made = []
    for fields in ({"keep": 18, "tiles": 2, "grid": "12x12"}, {"keep": 7, "grid": "8x16"}):
        output = tmp_path_factory.mktemp("parts") / "bundle"
        request: Any = partial(Request, "divprune", "cpu", model=str(splitting), output=output, baselines=False)
        exported = export_bundle(request(**fields))
        assert all(report.passed for report in exported.reports)
        assert not exported.warnings
        made.append(load(exported.folder, kind=TokenEncoder))
    return made


@pytest.mark.slow
def test_the_manifest_says_that_the_whole_image_is_no_tile(parts: list[TokenEncoder]) -> None:
    tiles, thumbnail = (one.manifest for one in parts)
    said = {"count": 2, "pinpoints": [[96, 48], [48, 96]], "squeezed": True, "whole": False}
    assert (tiles.preprocessing["tiles"], tiles.tiled, tiles.pooled) == (said, True, False)
    assert ("tiles" in thumbnail.preprocessing, thumbnail.layout) == (False, "")
    assert "9 of each of 2 tiles" in tiles.budget


@pytest.mark.slow
def test_all_tiles_are_shown_as_they_lie_in_the_image(parts: list[TokenEncoder]) -> None:
    image = photo(WIDE)
    pixels, cells = show._seen(parts[0], image)
    np.testing.assert_array_equal(pixels, resizer(TORCH, 2)(image, (48, 96)))
    assert cells.reshape(2, 6, 6)[:, :2, :2].tolist() == [[[0, 1], [12, 13]], [[6, 7], [18, 19]]]
    drawn = show.draw(parts[0], image)
    assert drawn.width > 3 * drawn.height


def prompt_of(rows: int, columns: int, thumbnail: int, tagged: bool = True) -> list[int]:
    """What its processor writes for an image in tiles of 36 tokens: 3 for each, the tags from 20 on."""
    from transformers.models.lfm2_vl.processing_lfm2_vl import Lfm2VlProcessor

    own: Any = SimpleNamespace(
        image_token="<image>", image_start_token="<start>", image_end_token="<end>", image_thumbnail_token="<thumbnail>"
    )
    text = Lfm2VlProcessor._build_image_tokens(own, rows, columns, 36, thumbnail, True, tagged)
    ids: dict[str, int] = {"<image>": 3}
    return [ids.setdefault(token, 19 + len(ids)) for token in re.findall("<.+?>", text)]


@pytest.mark.slow
def test_a_model_says_of_tiles_and_thumbnail_what_it_says_of_the_references(
    parts: list[TokenEncoder], splitting: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = photo(WIDE)
    prompt = torch.tensor([[5, *prompt_of(1, 2, thumbnail=32), 6]])
    model: Any = KIND.own(splitting)
    inputs = generation_inputs(model, parts, image, prompt)
    kept = [5, 20, 21, *[3] * 9, 22, *[3] * 9, 23, *[3] * 7, 24, 6]
    assert inputs["input_ids"].tolist() == [kept]
    untagged = torch.tensor([[5, *prompt_of(1, 2, 32, tagged=False), 6]])
    assert generation_inputs(model, parts, image, untagged)["input_ids"].tolist() == [[5, *[3] * 25, 6]]

    tiles, thumbnail = (torch.from_numpy(one.prepare(image)) for one in parts)
    own = padded(tiles, thumbnail)
    with torch.inference_mode():
        out, rows = model.model.get_image_features(**own, return_dict=True), []
        for pixels, grid, keep in ((tiles, GRID, 9), (thumbnail, (8, 16), 7)):
            encoder = encoders.load(open_checkpoint(str(splitting)), grid=grid)
            rows += OfficialEncoder(encoder, divprune.Method(keep))(pixels)[1].long()
    out.pooler_output = [every[index] for every, index in zip(out.pooler_output, rows, strict=True)]
    features = model.model.get_image_features  # `generate` looks at its parameters
    monkeypatch.setattr(model.model, "get_image_features", wraps(features)(lambda *_, **__: out))
    assert spoken(model, **inputs) == spoken(model, input_ids=inputs["input_ids"], **own)
    with torch.inference_mode():  # a model that says the same of every image would prove nothing
        other = generation_inputs(model, parts, image.rotate(180), prompt)
        assert (model(**other).logits[0, -1] - model(**inputs).logits[0, -1]).abs().max() > 0.001


@pytest.mark.slow
def test_a_prompt_of_another_number_of_tiles_is_refused(parts: list[TokenEncoder], splitting: Path) -> None:
    model = KIND.own(splitting)
    with pytest.raises(RequestError, match=r"one image placeholder .* got 5 for 1"):
        generation_inputs(model, parts, photo(WIDE), torch.tensor([prompt_of(2, 2, thumbnail=32)]))
