"""LLaVA-NeXT: tokens of every tile are transformers' own, and the tiles of an image share its budget."""

from __future__ import annotations

import signal
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
from edgeprune.cli import main
from edgeprune.encoders import Encoder
from edgeprune.errors import MethodError, RequestError
from edgeprune.export import Exported, Request, export_bundle
from edgeprune.export.cost import formula
from edgeprune.fit import build_method
from edgeprune.pruners import Method, dart, divprune, fastervlm, holov, none, pool, random, segpruner, uniform
from edgeprune.reference import OfficialEncoder
from edgeprune.runtime import load
from edgeprune.runtime.images.tiles import packed
from edgeprune.trace import PrunedEncoder
from tests.encoders.kinds import CROPPED, LLAVA_CLIP, LLAVA_SIGLIP, TILES, Kind, processor

TILING = processor("LlavaNext", **CROPPED, **TILES)
KINDS = {
    "llava next": Kind(
        "LlavaNextForConditionalGeneration",
        TILING,
        config={**LLAVA_CLIP, **TILES},
        family="llava_next",
        tower="a CLIP tower",
        exported="divprune bavit",
    ),
    "llava next siglip": Kind(
        "LlavaNextForConditionalGeneration",
        TILING,
        prefix=0,
        config={**LLAVA_SIGLIP, **TILES},
        family="llava_next",
        tower="a SigLIP tower",
        exported="idpruner",
    ),
    "llava next granite": Kind(
        "LlavaNextForConditionalGeneration",
        TILING,
        prefix=0,
        config={**LLAVA_SIGLIP, **TILES, "vision_feature_layer": [-3, 1, -1]},
    ),
}
SIDE, PATCHES, WIDTH = 48, 36, 48
CONFIG: dict[str, Any] = {
    "vision_config": {
        "model_type": "clip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 2,
        "num_hidden_layers": 3,
        "image_size": SIDE,
        "patch_size": 8,
    },
    "text_config": {
        "model_type": "llama",
        "hidden_size": WIDTH,
        "intermediate_size": 64,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "num_hidden_layers": 1,
        "vocab_size": 64,
    },
    "image_token_index": 3,
    "image_grid_pinpoints": [[48, 96], [96, 48], [96, 96]],
}
PROCESSOR: dict[str, Any] = {
    "image_processor_type": "LlavaNextImageProcessor",
    "size": {"shortest_edge": SIDE},
    "crop_size": {"height": SIDE, "width": SIDE},
    "image_grid_pinpoints": CONFIG["image_grid_pinpoints"],
    "do_pad": True,
}
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 3e-4}
MakeFolder = Callable[..., Path]


@pytest.fixture(scope="module")
def folder(model_folder: MakeFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("next"), "LlavaNextForConditionalGeneration", PROCESSOR, **CONFIG)


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    return encoders.load(open_checkpoint(str(folder)))


def pixels(tiles: int) -> torch.Tensor:
    return torch.randn(tiles, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(tiles))


@pytest.mark.parametrize("shape", [(1, 2), (2, 2)])
def test_unpruned_tokens_are_the_models_own_without_newlines_in_the_order_it_packs_them(
    folder: Path, encoder: Encoder, shape: tuple[int, int]
) -> None:
    from transformers import LlavaNextForConditionalGeneration

    assert encoder.layer == 2  # of 3: vision_feature_layer is -2
    assert "no image_newline, padding is not cut off" in encoder.layout
    (down, across), tiles = shape, shape[0] * shape[1] + 1
    model = LlavaNextForConditionalGeneration.from_pretrained(folder).model.eval()
    with torch.inference_mode():
        size = torch.tensor([[down * SIDE, across * SIDE]])  # fills its tiles: there is no padding to cut off
        found = model.get_image_features(pixels(tiles)[None], size).pooler_output[0]
        whole, grid = found[:PATCHES], found[PATCHES:].reshape(6 * down, 6 * across + 1, WIDTH)[:, :-1]
        expected = torch.cat((whole, grid.reshape(-1, WIDTH)))
        for path in (PrunedEncoder, OfficialEncoder):
            tokens, indices, _ = path(encoder, none.Method(PATCHES))(pixels(tiles))
            ours = packed(tokens.numpy(), indices.numpy(), encoder.grid, shape)
            torch.testing.assert_close(torch.from_numpy(ours), expected, **CLOSE)


@pytest.mark.parametrize("kind", [fastervlm, dart, divprune, holov, pool, uniform, random])
def test_both_paths_agree(encoder: Encoder, kind: Any) -> None:
    method: Method = kind.Method(9)
    with torch.inference_mode():
        found, expected = (path(encoder, method)(pixels(3)) for path in (PrunedEncoder, OfficialEncoder))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)
    assert found[0].shape == ((1, 9, WIDTH) if method.traits.pools_tiles else (3, 9, WIDTH))


@pytest.mark.slow
def test_joint_views_share_a_budget_in_the_bundle_as_well(folder: Path, tmp_path: Path) -> None:
    request = Request(
        "segpruner",
        "cpu",
        keep=9,
        options={"views": "joint"},
        model=str(folder),
        tiles=3,
        runtime=False,
        baselines=False,
    )
    exported = export_bundle(replace(request, output=tmp_path / "joint"))
    assert all(report.passed for report in exported.reports)
    assert exported.manifest.pooled
    assert exported.manifest.inputs["xyz"].shape == (3, PATCHES, 3)
    with pytest.raises(MethodError, match="segpruner with these options must choose among all tiles of an image"):
        build_method(segpruner.Method, "segpruner", encoders.load(open_checkpoint(None)), 9, {"views": "joint"})


def test_one_pool_of_tiles_chooses_among_all_of_their_patches(encoder: Encoder) -> None:
    """The official loop in float64, over the projected patches of all tiles side by side."""
    with torch.inference_mode():
        every = PrunedEncoder(encoder, none.Method(PATCHES))(pixels(3))[0].double().numpy().reshape(-1, WIDTH)
        tokens, indices, scores, _ = PrunedEncoder(encoder, divprune.Method(20))(pixels(3))
    unit = every / np.linalg.norm(every, axis=1, keepdims=True)
    distance = 1 - unit @ unit.T
    chosen = [int((distance + 9 * np.eye(len(distance))).min(1).argmax())]
    while len(chosen) < 20:
        nearest = distance[chosen].min(0)
        nearest[chosen] = -1
        chosen.append(int(nearest.argmax()))
    np.testing.assert_array_equal(indices[0].numpy(), sorted(chosen))
    assert len({one // PATCHES for one in chosen}) == 3
    np.testing.assert_allclose(tokens[0].numpy(), every[sorted(chosen)], rtol=1e-4, atol=1e-4)
    assert scores.shape == (1, 3 * PATCHES)


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


def test_a_siglip_tower_gives_all_its_tokens(model_folder: MakeFolder, tmp_path: Path) -> None:
    from transformers import LlavaNextForConditionalGeneration

    vision = {**CONFIG["vision_config"], "model_type": "siglip_vision_model", "vision_use_head": False}
    config = {**CONFIG, "vision_config": vision, "vision_feature_select_strategy": "full"}
    folder = model_folder(tmp_path / "siglip", "LlavaNextForConditionalGeneration", PROCESSOR, **config)
    encoder = encoders.load(open_checkpoint(str(folder)))
    with torch.inference_mode():
        model = LlavaNextForConditionalGeneration.from_pretrained(folder).model.eval()
        expected = model.get_image_features(pixels(3)[None], torch.tensor([[48, 96]])).pooler_output[0][:PATCHES]
        tokens = PrunedEncoder(encoder, none.Method(PATCHES))(pixels(3))[0]
    torch.testing.assert_close(tokens[0], expected, **CLOSE)


@pytest.fixture(scope="module", params=[5, *(pytest.param(tiles, marks=pytest.mark.slow) for tiles in (1, 3))])
def exported(folder: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    output, tiles = tmp_path_factory.mktemp("bundles") / "bundle", request.param
    return export_bundle(
        Request("fastervlm", "cpu", keep=7 * tiles, tiles=tiles, model=str(folder), output=output, baselines=False)
    )


@pytest.mark.slow
def test_the_budget_of_an_image_is_divided_over_its_tiles(exported: Exported) -> None:
    manifest = exported.manifest
    assert exported.reports[0].passed
    assert manifest.outputs["tokens"].shape == (manifest.tiles, 7, WIDTH)
    assert manifest.preprocessing["tiles"]["count"] == manifest.tiles


@pytest.mark.slow
def test_the_graph_costs_what_the_formula_says(exported: Exported, encoder: Encoder) -> None:
    manifest = exported.manifest
    patch_embedding = PATCHES * encoder.tower.patch_embedding.weight.numel()
    expected = manifest.tiles * (formula(encoder, fastervlm.Method(7)) + patch_embedding)
    assert manifest.cost["graph"] == pytest.approx(expected, rel=0.02)


def test_an_image_is_cut_into_tiles_as_transformers_does_it(exported: Exported) -> None:
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

    run, tiles = load(exported.folder), exported.manifest.tiles
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 100 if tiles == 3 else 60, 3), np.uint8))
    given = {name: value for name, value in PROCESSOR.items() if name != "image_processor_type"}
    values = LlavaNextImageProcessorPil(**given)(image, return_tensors="np")["pixel_values"][0][:tiles]
    for found in (run.prepare(image), run.prepare([image]), run.prepare(np.asarray(image))):
        np.testing.assert_array_equal(found, values)
    tokens, indices, _ = run(image)
    shape = run.preprocessing.tile_shape(image)
    assert shape == {1: (0, 0), 3: (1, 2), 5: (2, 2)}[tiles]
    assert packed(tokens, indices, run.grid, shape).shape == (7 * tiles, WIDTH)


@pytest.mark.slow
def test_one_pool_of_tiles_is_exported_with_the_whole_budget(folder: Path, tmp_path: Path) -> None:
    request = Request("divprune", "cpu", keep=10, tiles=3, uint8=True, model=str(folder), output=tmp_path / "pool")
    done = export_bundle(replace(request, baselines=False))
    assert done.reports[0].passed
    assert (done.manifest.keep, done.manifest.outputs["tokens"].shape) == (10, (1, 10, WIDTH))
    assert done.manifest.outputs["scores"].shape == (1, 3 * PATCHES)
    run, image = load(done.folder), Image.new("RGB", (100, 50), (9, 99, 200))
    cut = run.prepare(image)
    assert (cut.dtype.name, cut.shape) == ("uint8", (3, SIDE, SIDE, 3))
    tokens, indices, _ = run(image)
    assert packed(tokens, indices, run.grid, run.preprocessing.tile_shape(image)).shape == (10, WIDTH)
    with pytest.raises(RequestError, match="takes 1 images at a time, got 3; give one, which it cuts into tiles"):
        run([image] * 3)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("fastervlm", "--keep", "7", "--tiles", "3"), "keep must divide over the 3 tiles of an image, got 7; 6 or 9"),
        (
            ("fastervlm", "--keep", "8", "--tiles", "4"),
            "--tiles must be how many its image processor can make (1, 3, 5",
        ),
        pytest.param(
            ("divprune", "--keep", "109", "--tiles", "3"),
            "keep must be in 1..108 for 108 patches, got 109",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("fastervlm", "--keep", "7", "--dynamic-batch"),
            "--tiles must fix their number; leave out --dynamic-batch",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("fastervlm", "--keep", "7", "--video"),
            "it treats frames as it does images; leave it out",
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda value: "",
)
def test_a_budget_or_a_number_of_tiles_that_cannot_be_is_refused_before_anything_is_written(
    folder: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    command = ["export", "--method", *arguments, "--model", str(folder), "--output", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["edgeprune", *command])
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as left:
            main()
    finally:
        signal.signal(signal.SIGTERM, before)
    (line,) = capfd.readouterr().err.splitlines()
    assert left.value.code == 2
    assert says in line
    assert not list(tmp_path.iterdir())
