"""LFM2-VL: at one grid, its tokens are those that transformers computes of patches, mask and shapes."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
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
from edgeprune.reference import OfficialEncoder
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
    """As transformers runs them: one batch, the smaller one padded and masked."""
    folder = made("lfm2_vl")[0]
    tile, thumbnail = (
        torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1)) for size in ((48, 48), (32, 40))
    )
    both = [given(tile), given(thumbnail)]
    short = both[1]["pixel_values"].shape[1]
    padded = torch.nn.functional.pad(both[1]["pixel_values"], (0, 0, 0, 144 - short))
    mask = torch.ones(2, 144, dtype=torch.int64)
    mask[1, short:] = 0
    with torch.inference_mode():
        expected = (
            kind("lfm2_vl")
            .own(folder)
            .get_image_features(
                pixel_values=torch.cat((both[0]["pixel_values"], padded)),
                spatial_shapes=torch.cat([one["spatial_shapes"] for one in both]),
                pixel_attention_mask=mask,
            )
        )
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
    assert (steps.resize, steps.resample, steps.mean) == ({"height": 48, "width": 48}, 2, (0.5, 0.5, 0.5))


@pytest.fixture
def processor_of_transformers(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Its own class, which has no backend but torchvision, with Pillow's resize in the place of torchvision's: that is
    as good as the same, one of 255 levels apart at most."""
    from transformers import image_processing_backends

    name = "transformers.models.lfm2_vl.image_processing_lfm2_vl"
    for module in ("torchvision", "torchvision.transforms", "torchvision.transforms.v2"):
        monkeypatch.setitem(sys.modules, module, SimpleNamespace(functional=SimpleNamespace()))
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(image_processing_backends.TorchvisionBackend, "resize", _pillows)
    found: Any = importlib.import_module(name)
    monkeypatch.delitem(sys.modules, name)
    return found.Lfm2VlImageProcessor


def _pillows(self: Any, image: Tensor, size: Any, resample: int, **_: Any) -> Tensor:
    """[1, 3, H, W] uint8"""
    picture = Image.fromarray(image[0].permute(1, 2, 0).numpy())
    resized = np.array(picture.resize((size.width, size.height), Image.Resampling(resample)))
    return torch.from_numpy(resized).permute(2, 0, 1)[None]


SMALL: dict[str, int] = {"encoder_patch_size": 4, "tile_size": 48, "min_image_tokens": 4, "max_image_tokens": 36}


@pytest.mark.parametrize("size", [(40, 57), (20, 150), (130, 170), (200, 90), (96, 97)], ids=str)
def test_an_image_its_tiles_and_its_thumbnail_have_the_pixels_of_the_processor(
    processor_of_transformers: Any, size: tuple[int, int]
) -> None:
    """The image or thumbnail by a bundle of its grid; the tiles, cut as InternVL's are, by one of theirs."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8))
    own = processor_of_transformers(**SMALL)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    fields = ("downsample_factor", "min_tiles", "max_tiles", "use_thumbnail", "min_image_tokens", "max_image_tokens")
    given = {name: getattr(own, name) for name in (*fields, "encoder_patch_size", "tile_size", "max_pixels_tolerance")}
    (parts,), (rows,), (columns,), _ = own.resize_and_split(pixels, **given, resample=own.resample)
    wanted = [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in parts]
    file = {"image_processor_type": "Lfm2VlImageProcessor", **SMALL}
    whole = read_processor(file, (wanted[-1].height, wanted[-1].width))
    assert np.array_equal(whole(image), whole(wanted[-1]))
    assert len(wanted) == (1 if rows * columns == 1 else rows * columns + 1)
    if len(wanted) > 1:
        shapes = [(48 * down, 48 * across) for down in range(1, 11) for across in range(1, 11)]
        tiles = Tiles.among(len(wanted), 48, shapes, squeezed=True)
        assert tiles.shape(size) == (rows, columns)
        found = tiles.cut(image, Image.Resampling(own.resample))[:-1]
        assert all(one.tobytes() == other.tobytes() for one, other in zip(found, wanted, strict=False))
