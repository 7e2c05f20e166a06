"""MiniCPM-V 4.6: at one grid its tokens are transformers' own, whichever of its two ways to merge the config says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders import Encoder
from edgeprune.errors import ModelError, RequestError
from edgeprune.export.processor import read_processor
from edgeprune.pruners import none
from edgeprune.reference import OfficialEncoder
from edgeprune.trace import PrunedEncoder
from tests.encoders.kinds import SIZES, Kind, processor
from tests.encoders.test_qwen3_5 import TEXT

PATCH = 2


def given(pixels: Tensor) -> dict[str, Any]:
    """As its image processor hands one image over: patch behind patch, [1, channel, row, (patch, column)]."""
    rows, columns = pixels.shape[2] // PATCH, pixels.shape[3] // PATCH
    patches = pixels[0].reshape(3, rows, PATCH, columns, PATCH).transpose(1, 2).reshape(3, PATCH, -1)
    return {"pixel_values": patches[None], "target_sizes": torch.tensor([[rows, columns]])}


CONFIG: dict[str, Any] = {
    "vision_config": {
        **SIZES,
        "num_hidden_layers": 4,
        "image_size": 14,
        "patch_size": PATCH,
        "initializer_range": 0.1,  # else the biases of its embedding make all patches alike
    },
    "text_config": {"model_type": "qwen3_5_text", **TEXT},
    "insert_layer_id": 1,
    "image_token_id": 3,
    "video_token_id": 4,
}
KIND = Kind(
    "MiniCPMV4_6ForConditionalGeneration",
    processor("MiniCPMV4_6", patch_size=PATCH),
    prefix=0,
    config=CONFIG,
    grid=(24, 24),
    family="minicpmv4_6",
    exported="divprune",
    unread=("model.language_model.", "lm_head."),
    given=given,
)
Made = Callable[[str], tuple[Path, Encoder]]


@pytest.mark.parametrize("mode", ["16x", "4x"])
def test_unpruned_tokens_are_the_models_own_at_another_grid(
    made: Made, kind: Callable[[str], Any], tmp_path: Path, mode: str
) -> None:
    folder = made("minicpmv4_6")[0]
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "config.json").unlink()
    config = json.loads((folder / "config.json").read_text()) | {"downsample_mode": mode}
    (tmp_path / "config.json").write_text(json.dumps(config))
    encoder = encoders.load(open_checkpoint(str(tmp_path)), grid=(8, 12))
    side = 2 if mode == "4x" else 4
    assert (encoder.grid, encoder.layer) == ((8 // side, 12 // side), 4 if mode == "4x" else 2)
    pixels = torch.randn(1, 3, 8 * PATCH, 12 * PATCH, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        (expected,) = kind("minicpmv4_6").own(tmp_path).get_image_features(**given(pixels)).pooler_output
        for path in (PrunedEncoder, OfficialEncoder):
            found = path(encoder, none.Method(encoder.patches))(pixels)[0][0]
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=3e-4)


@pytest.mark.parametrize("grid", [None, (24, 26)])
def test_a_grid_is_asked_for_that_both_mergers_divide(made: Made, grid: tuple[int, int] | None) -> None:
    with pytest.raises(RequestError, match=r"--grid must say|a multiple of 4x4 patches.* got 24x26; 24x24 or 24x28"):
        encoders.load(open_checkpoint(str(made("minicpmv4_6")[0])), grid=grid)


@pytest.mark.parametrize(
    "changes", [{"insert_layer_id": 3}, {"merger_times": 2}, {"merge_kernel_size": [1, 2]}], ids=str
)
def test_other_mergers_are_refused(made: Made, changes: dict[str, Any]) -> None:
    checkpoint = open_checkpoint(str(made("minicpmv4_6")[0]))
    checkpoint.config.update(changes)
    with pytest.raises(ModelError, match=r"its mergers must be of 2x2, one inside the tower behind a layer in 0\.\.2"):
        encoders.load(checkpoint, grid=(24, 24))


@pytest.mark.parametrize("size", [(70, 99), (300, 60)], ids=str)
def test_images_are_resized_to_the_grid_as_the_processor_resizes_to_its_own(made: Made, size: tuple[int, int]) -> None:
    from transformers.models.minicpmv4_6.image_processing_pil_minicpmv4_6 import MiniCPMV4_6ImageProcessorPil

    checkpoint = open_checkpoint(str(made("minicpmv4_6")[0]))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    own = MiniCPMV4_6ImageProcessorPil(**checkpoint.processor)(image, return_tensors="pt")
    ((rows, columns),) = own["target_sizes"].tolist()
    found = read_processor(checkpoint.processor, (PATCH * rows, PATCH * columns))(image)
    assert torch.equal(given(torch.from_numpy(found)[None])["pixel_values"], own["pixel_values"])
