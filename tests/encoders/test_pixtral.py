"""Pixtral's tower: at one grid, features are those that transformers computes, alone or as the tower of a LLaVA."""

from __future__ import annotations

from collections.abc import Callable
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
from edgeprune.export.processor import read_processor
from edgeprune.integrations.transformers import generation_inputs
from edgeprune.pruners import none
from edgeprune.reference import OfficialEncoder
from edgeprune.runtime import TokenEncoder, load
from edgeprune.trace import PrunedEncoder
from tests.encoders.kinds import LANGUAGE, SIZES, Kind, processor

TOWER: dict[str, Any] = {
    **SIZES,
    "model_type": "pixtral",
    "num_hidden_layers": 2,
    "image_size": 48,
    "patch_size": 8,
    "rope_parameters": {"rope_type": "axial", "rope_theta": 1e4},
}
PROCESSOR = processor("Pixtral", size={"longest_edge": 48}, patch_size={"height": 8, "width": 8})
KINDS = {
    "pixtral": Kind(
        "PixtralVisionModel",
        PROCESSOR,
        prefix=0,
        config={name: value for name, value in TOWER.items() if name != "model_type"},
        grid=(6, 6),
        family="pixtral",
        exported="hiprune",
    ),
    "llava pixtral": Kind(
        "LlavaForConditionalGeneration",
        PROCESSOR,
        prefix=0,
        config={
            "vision_config": TOWER,
            "text_config": {"model_type": "mistral", **LANGUAGE, "num_hidden_layers": 2},
            "image_token_index": 3,
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "full",
        },
        ours=True,
        family="llava",
        tower="a Pixtral tower",
        exported="divprune",
        unread=("language_model.", "model.language_model.", "lm_head."),
        given=lambda pixels: {"pixel_values": pixels, "image_sizes": torch.tensor([pixels.shape[2:]])},
    ),
}
Made = Callable[[str], tuple[Path, Encoder]]
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 3e-4}


@pytest.mark.parametrize("layer", [None, -1, 1])
@pytest.mark.parametrize("grid", [(6, 6), (3, 7)], ids=str)
def test_unpruned_tokens_are_the_models_own(
    made: Made, kind: Callable[[str], Any], layer: int | None, grid: tuple[int, int]
) -> None:
    folder = made("pixtral")[0]
    encoder = encoders.load(open_checkpoint(str(folder)), layer, grid=grid)
    pixels = torch.randn(1, 3, 8 * grid[0], 8 * grid[1], generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        out = kind("pixtral").own(folder)(pixels, output_hidden_states=True)
        expected = out.last_hidden_state if layer is None else out.hidden_states[layer]
        for path in (PrunedEncoder, OfficialEncoder):
            torch.testing.assert_close(path(encoder, none.Method(encoder.patches))(pixels)[0], expected, **CLOSE)


def test_a_llava_takes_it_at_any_size(made: Made, kind: Callable[[str], Any]) -> None:
    folder = made("llava pixtral")[0]
    encoder = encoders.load(open_checkpoint(str(folder)), size=(32, 56))
    assert encoder.grid == (4, 7)
    pixels = torch.randn(1, 3, 32, 56, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = kind("llava pixtral").own(folder).get_image_features(pixels, image_sizes=torch.tensor([[32, 56]]))
        found = PrunedEncoder(encoder, none.Method(28))(pixels)[0]
    torch.testing.assert_close(found[0], expected.pooler_output[0], **CLOSE)


def test_a_grid_is_asked_for(made: Made) -> None:
    with pytest.raises(RequestError, match=r"--grid must say .* such as 32x32 for 256x256 pixels; it is missing"):
        encoders.load(open_checkpoint(str(made("pixtral")[0])))


@pytest.mark.parametrize("size", [(70, 99), (48, 20), (30, 30)], ids=str)
def test_an_image_is_prepared_as_its_processor_prepares_it_for_that_grid(size: tuple[int, int]) -> None:
    from transformers import PixtralImageProcessorPil

    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    own = PixtralImageProcessorPil(**PROCESSOR)(image, return_tensors="np")
    wanted = own["pixel_values"][0]
    assert wanted.shape[1:] == tuple(own["image_sizes"][0])
    np.testing.assert_array_equal(read_processor(PROCESSOR, wanted.shape[1:])(image), wanted)


def test_every_row_of_the_prompt_keeps_its_break(
    made: Made, kind: Callable[[str], Any], cell: Callable[..., Any]
) -> None:
    encoder: Any = load(cell("llava pixtral", "divprune", 12).folder, kind=TokenEncoder)
    model = kind("llava pixtral").own(made("llava pixtral")[0])
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8))
    row = [3] * 6
    prompt = [5, *row, 20, *row, 20, *row, 20, *row, 20, *row, 20, *row, 21, 6]
    ids = generation_inputs(model, encoder, image, torch.tensor([prompt]))["input_ids"][0].tolist()
    assert len(ids) == 12 + 6 + 2
    breaks = [at for at, token in enumerate(ids) if token in (20, 21)]
    rows = [sum(at > one for one in breaks) for at, token in enumerate(ids) if token == 3]
    assert rows == (encoder(image).indices[0] // 6).tolist()
