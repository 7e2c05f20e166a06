"""LLaVA-OneVision: the tokens of tiles and of frames are those that transformers packs, without its newlines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders import Encoder
from edgeprune.errors import RequestError
from edgeprune.export import Request, export_bundle
from edgeprune.export.cost import formula
from edgeprune.pruners import Method, divprune, forestprune, none, pool, random, uniform
from edgeprune.reference import OfficialEncoder
from edgeprune.runtime import load
from edgeprune.runtime.images.tiles import packed
from edgeprune.trace import PrunedEncoder
from tests.encoders.kinds import LANGUAGE, LLAVA_SIGLIP, SIZES, SQUARE, Kind, processor

KINDS = {
    "llava onevision": Kind(
        "LlavaOnevisionForConditionalGeneration",
        processor("LlavaOnevision", **SQUARE, do_pad=True, image_grid_pinpoints=[[48, 48]]),
        prefix=0,
        config={
            **LLAVA_SIGLIP,
            "text_config": {"model_type": "qwen2", **LANGUAGE},
            "image_grid_pinpoints": [[48, 48]],
            "image_token_index": 3,
            "video_token_index": 4,
        },
        family="llava_onevision",
        exported="pool dart aim aot forestprune",
    ),
}
SIDE, GRID, PATCHES, WIDTH = 56, 7, 49, 48
POOLED = 16
"""4 x 4 of 7 x 7: an odd side, so that pooling is not the mean of four patches"""
CONFIG: dict[str, Any] = {
    "vision_config": {
        **SIZES,
        "model_type": "siglip_vision_model",
        "num_hidden_layers": 2,
        "image_size": SIDE,
        "patch_size": 8,
        "vision_use_head": False,
    },
    "text_config": {
        **SIZES,
        "model_type": "qwen2",
        "hidden_size": WIDTH,
        "num_key_value_heads": 2,
        "num_hidden_layers": 1,
        "vocab_size": 64,
    },
    "image_token_index": 3,
    "video_token_index": 4,
    "image_grid_pinpoints": [[SIDE * rows, SIDE * columns] for rows in (1, 2) for columns in (1, 2)],
}
PROCESSOR: dict[str, Any] = {
    "image_processor_type": "LlavaOnevisionImageProcessor",
    "size": {"height": SIDE, "width": SIDE},
    "image_grid_pinpoints": CONFIG["image_grid_pinpoints"],
    "do_pad": True,
}
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 3e-4}


@pytest.fixture(scope="module")
def folder(model_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("onevision")
    return model_folder(made, "LlavaOnevisionForConditionalGeneration", PROCESSOR, **CONFIG)


@pytest.fixture(scope="module")
def both(folder: Path) -> dict[bool, Encoder]:
    """By whether it is for video."""
    return {video: encoders.load(open_checkpoint(str(folder)), video=video) for video in (False, True)}


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    from transformers import LlavaOnevisionForConditionalGeneration

    return LlavaOnevisionForConditionalGeneration.from_pretrained(folder).model.eval()


def pixels(images: int) -> torch.Tensor:
    return torch.randn(images, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(images))


@pytest.mark.parametrize("shape", [(1, 2), (2, 2)])
def test_unpruned_tokens_of_tiles_are_the_models_own_without_newlines_in_the_order_it_packs_them(
    model: Any, both: dict[bool, Encoder], shape: tuple[int, int]
) -> None:
    (down, across), tiles = shape, shape[0] * shape[1] + 1
    with torch.inference_mode():
        size = torch.tensor([[down * SIDE, across * SIDE]])  # fills its tiles: there is no padding to cut off
        found = model.get_image_features(pixels(tiles)[None], size).pooler_output[0]
        grid = found[PATCHES:].reshape(GRID * down, GRID * across + 1, WIDTH)[:, :-1]
        expected = torch.cat((found[:PATCHES], grid.reshape(-1, WIDTH)))
        for path in (PrunedEncoder, OfficialEncoder):
            tokens, indices, _ = path(both[False], none.Method(PATCHES))(pixels(tiles))
            ours = packed(tokens.numpy(), indices.numpy(), both[False].grid, shape)
            torch.testing.assert_close(torch.from_numpy(ours), expected, **CLOSE)


def test_unpruned_tokens_of_frames_are_the_models_own_in_front_of_the_newline(
    model: Any, both: dict[bool, Encoder]
) -> None:
    encoder = both[True]
    assert (encoder.grid, encoder.patches, encoder.tiled) == ((4, 4), POOLED, False)
    assert encoder.layout.endswith("no image_newline")
    with torch.inference_mode():
        expected = model.get_video_features(pixels(3)[None]).pooler_output[0, :-1].reshape(3, POOLED, WIDTH)
        for path in (PrunedEncoder, OfficialEncoder):
            tokens = path(encoder, none.Method(POOLED))(pixels(3))[0]
            torch.testing.assert_close(tokens, expected, **CLOSE)


@pytest.mark.parametrize("kind", [divprune, pool, uniform, random])
@pytest.mark.parametrize("video", [False, True], ids=["tiles", "frames"])
def test_both_paths_agree(both: dict[bool, Encoder], kind: Any, video: bool) -> None:
    method: Method = kind.Method(9)
    with torch.inference_mode():
        found, expected = (path(both[video], method)(pixels(3)) for path in (PrunedEncoder, OfficialEncoder))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)
    assert found[0].shape == ((1, 9, WIDTH) if kind is divprune and not video else (3, 9, WIDTH))


def test_frames_are_one_pool_for_a_method_that_goes_over_them(both: dict[bool, Encoder]) -> None:
    """Of a scene that stands still for two frames of three, the half of the second one joins that of the first."""
    frames = pixels(2)[[0, 0, 1]]
    with torch.inference_mode():
        found, expected = (
            path(both[True], forestprune.Method(20))(frames) for path in (PrunedEncoder, OfficialEncoder)
        )
    assert [list(one.shape) for one in found] == [[1, 20, WIDTH], [1, 20], [1, 48], [1, 20], [1, 96], [1, 48]]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)
    tree, patch = found[4][0, : 2 * POOLED], torch.arange(2 * POOLED)
    assert (tree[:POOLED] == patch[:POOLED]).all()
    assert (tree[POOLED:] == patch[:POOLED]).sum() == POOLED // 2


def test_only_the_vision_tower_and_the_projector_are_read(folder: Path) -> None:
    checkpoint = open_checkpoint(str(folder))
    wanted = ("model.vision_tower.", "model.multi_modal_projector.", "vision_tower.", "multi_modal_projector.")
    shards = {name: file if name.startswith(wanted) else "absent" for name, file in checkpoint.shards.items()}
    assert {"absent"} < set(shards.values())
    with torch.inference_mode():
        one, other = (
            PrunedEncoder(encoders.load(each), none.Method(PATCHES))(pixels(1))[0]
            for each in (checkpoint, replace(checkpoint, shards=shards))
        )
    assert torch.equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "tiles"),
    [("divprune", 3), *(pytest.param(*one, marks=pytest.mark.slow) for one in (("pool", 1), ("uniform", 5)))],
)
def test_tiles_are_exported_and_an_image_is_cut_into_them(folder: Path, tmp_path: Path, name: str, tiles: int) -> None:
    request = Request(name, "cpu", keep=6 * tiles, tiles=tiles, model=str(folder), output=tmp_path / "out")
    done = export_bundle(replace(request, baselines=False))
    assert done.reports[0].passed
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 100 if tiles == 3 else 70, 3), np.uint8))
    run = load(done.folder)
    tokens, indices, _ = run(image)
    assert tokens.shape == ((1, 18, WIDTH) if name == "divprune" else (tiles, 6, WIDTH))
    assert packed(tokens, indices, run.grid, run.preprocessing.tile_shape(image)).shape == (6 * tiles, WIDTH)


@pytest.mark.slow
def test_frames_that_are_one_pool_are_exported_with_the_whole_budget(folder: Path, tmp_path: Path) -> None:
    request = Request("forestprune", "cpu", keep=20, tiles=3, video=True, model=str(folder), output=tmp_path / "out")
    done = export_bundle(replace(request, baselines=False))
    assert done.reports[0].passed
    assert done.manifest.pooled
    assert done.manifest.budget == "20 of 48 tokens (42%), one pool of 3 frames"
    page = (done.folder / "README.md").read_text()
    assert "which of the 4 x 4 patches of all 3 frames the tokens are, `frame * 16 + row * 4 + column`" in page
    frames = np.random.default_rng(0).integers(0, 256, (3, 60, 80, 3), np.uint8)
    tokens, indices, scores = load(done.folder)(list(frames))
    assert (tokens.shape, indices.shape, scores.shape) == ((1, 20, WIDTH), (1, 20), (1, 48))
    with pytest.raises(RequestError, match="forestprune makes one pool of all frames of llava_onevision: --tiles must"):
        export_bundle(replace(request, tiles=1, dynamic_batch=True, output=tmp_path / "other"))


@pytest.mark.slow
def test_frames_are_exported_as_images_and_every_patch_is_projected(
    folder: Path, both: dict[bool, Encoder], tmp_path: Path
) -> None:
    request = Request("uniform", "cpu", keep=5, tiles=2, video=True, model=str(folder), output=tmp_path / "out")
    done = export_bundle(replace(request, baselines=False))
    assert done.reports[0].passed
    assert done.manifest.grid == (4, 4)
    assert "tiles" not in done.manifest.preprocessing
    patch_embedding = PATCHES * both[True].tower.patch_embedding.weight.numel()
    pooling = 5 * PATCHES * WIDTH
    expected = 2 * (formula(both[True], uniform.Method(5)) + patch_embedding + pooling)
    assert done.manifest.cost["graph"] == pytest.approx(expected, rel=0.02)
    frames = np.random.default_rng(0).integers(0, 256, (2, 60, 80, 3), np.uint8)
    assert load(done.folder)(list(frames)).tokens.shape == (2, 5, WIDTH)
