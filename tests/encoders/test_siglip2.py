"""SigLIP 2 NaFlex: at one grid, its tokens are those that transformers computes of patches, mask and shapes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
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
from edgeprune.pruners import none, uniform
from edgeprune.reference import OfficialEncoder
from edgeprune.trace import PrunedEncoder
from tests.encoders.kinds import Kind, processor

KIND = Kind(
    "Siglip2VisionModel",
    processor("Siglip2", patch_size=8),
    prefix=0,
    config={"num_patches": 25},
    grid=(6, 6),
    family="siglip2",
    exported="hiprune",
)
Made = Callable[[str], tuple[Path, Encoder]]
GRID = (4, 7)
"""neither square nor the size of the learned positions, 5x5"""
PIXELS = torch.randn(2, 3, 32, 56, generator=torch.Generator().manual_seed(0))
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 3e-4}


def flattened(images: Tensor) -> Tensor:
    """As the image processor hands patches over: raster order, each (row, column, channel)."""
    batch, _, height, width = images.shape
    patches = images.reshape(batch, 3, height // 8, 8, width // 8, 8).permute(0, 2, 4, 3, 5, 1)
    return patches.reshape(batch, -1, 8 * 8 * 3)


@pytest.fixture(scope="module")
def expected(made: Made) -> Any:
    """What transformers' own model gives for PIXELS, padded to 30 patches."""
    from transformers import Siglip2VisionModel

    model: Any = Siglip2VisionModel.from_pretrained(made("siglip2")[0])
    patches = torch.nn.functional.pad(flattened(PIXELS), (0, 0, 0, 2))
    mask = torch.ones(2, 30, dtype=torch.int64)
    mask[:, 28:] = 0
    with torch.inference_mode():
        return model.eval()(patches, mask, torch.tensor([GRID, GRID]), output_hidden_states=True)


@pytest.mark.parametrize("layer", [None, -1, 1])
def test_unpruned_tokens_are_the_models_own(made: Made, expected: Any, layer: int | None) -> None:
    encoder = encoders.load(open_checkpoint(str(made("siglip2")[0])), layer, grid=GRID)
    wanted = expected.last_hidden_state if layer is None else expected.hidden_states[layer]
    assert encoder.grid == GRID
    with torch.inference_mode():
        for path in (PrunedEncoder, OfficialEncoder):
            torch.testing.assert_close(path(encoder, none.Method(28))(PIXELS)[0], wanted[:, :28], **CLOSE)


def test_kept_tokens_are_rows_of_them(made: Made, expected: Any) -> None:
    encoder = encoders.load(open_checkpoint(str(made("siglip2")[0])), grid=GRID)
    with torch.inference_mode():
        tokens, indices, _ = PrunedEncoder(encoder, uniform.Method(6))(PIXELS)
    for image in range(2):
        torch.testing.assert_close(tokens[image], expected.last_hidden_state[image, indices[image].long()], **CLOSE)


@pytest.mark.parametrize("prefix", ["", "vision_model."])
def test_the_tower_of_a_model_with_text_is_read(made: Made, tmp_path: Path, prefix: str) -> None:
    folder, expected = made("siglip2")
    for path in folder.glob("*.json"):
        (tmp_path / path.name).write_text(path.read_text())
    tensors = {prefix + name: value for name, value in load_file(folder / "model.safetensors").items()}
    save_file(tensors, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(str(tmp_path))
    if prefix:
        vision = dict(checkpoint.config)
        checkpoint.config.clear()
        checkpoint.config.update(model_type="siglip2", vision_config=vision)
    encoder = encoders.load(checkpoint, grid=(6, 6))
    images = torch.randn(1, 3, 48, 48)
    with torch.inference_mode():
        found, wanted = (PrunedEncoder(one, none.Method(36))(images)[0] for one in (encoder, expected))
    assert torch.equal(found, wanted)


def test_a_grid_is_asked_for(made: Made) -> None:
    with pytest.raises(RequestError, match=r"--grid must say .* such as 32x32 for 256x256 pixels; it is missing"):
        encoders.load(open_checkpoint(str(made("siglip2")[0])))


def test_images_are_resized_to_the_grid_as_the_processor_resizes_to_its_own(made: Made) -> None:
    from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

    checkpoint = open_checkpoint(str(made("siglip2")[0]))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 99, 3), dtype=np.uint8))
    own = Siglip2ImageProcessorPil(**checkpoint.processor)(image, return_tensors="pt")
    rows, columns = own["spatial_shapes"][0].tolist()
    found = flattened(torch.from_numpy(read_processor(checkpoint.processor, (8 * rows, 8 * columns))(image))[None])
    torch.testing.assert_close(found[0], own["pixel_values"][0, : rows * columns], rtol=0, atol=1e-6)
