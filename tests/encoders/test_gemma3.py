"""Gemma 3: the mean of 4x4 patches is one token, in front of a norm, and the kept ones see each other both ways."""

from __future__ import annotations

import re
from collections.abc import Callable
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
from edgeprune.errors import ModelError
from edgeprune.export.processor import read_processor
from edgeprune.integrations.transformers import generation_inputs
from edgeprune.pruners import none
from edgeprune.runtime import TokenEncoder, load
from edgeprune.trace import PrunedEncoder
from tests.encoders.kinds import LANGUAGE, SIZES, SQUARE, Kind, processor

KIND = Kind(
    "Gemma3ForConditionalGeneration",
    processor("Gemma3", **SQUARE, do_pan_and_scan=None),
    prefix=0,
    config={
        "vision_config": {**SIZES, "num_hidden_layers": 2, "image_size": 48, "patch_size": 2, "vision_use_head": False},
        "text_config": {
            **LANGUAGE,
            "num_hidden_layers": 2,
            "head_dim": 24,
            "layer_types": ["sliding_attention", "full_attention"],
            "sliding_window": 16,
        },
        "mm_tokens_per_image": 36,
        "image_token_index": 3,
        "boi_token_index": 4,
        "eoi_token_index": 5,
    },
    family="gemma3",
    exported="divprune",
    unread=("language_model.", "model.language_model.", "lm_head."),
    given=lambda pixels: {"pixel_values": pixels},
)
Made = Callable[[str], tuple[Path, Encoder]]
PIXELS = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))


def test_a_token_is_of_4x4_patches_that_stand_side_by_side(made: Made) -> None:
    encoder = made("gemma3")[1]
    assert (encoder.tower.grid, encoder.grid, encoder.unit) == ((24, 24), (6, 6), 16)


def test_a_layer_that_is_asked_for_is_averaged_in_front_of_the_final_norm(
    made: Made, kind: Callable[[str], Any]
) -> None:
    folder = made("gemma3")[0]
    own = kind("gemma3").own(folder).model
    encoder = encoders.load(open_checkpoint(str(folder)), 1)
    with torch.inference_mode():
        hidden = own.vision_tower(PIXELS, output_hidden_states=True).hidden_states[1]
        found = PrunedEncoder(encoder, none.Method(36))(PIXELS)[0]
        torch.testing.assert_close(found, own.multi_modal_projector(hidden), rtol=1e-4, atol=3e-4)


@pytest.mark.parametrize("prefix", ["", "model."])
def test_the_names_of_older_and_newer_checkpoints_are_read(made: Made, tmp_path: Path, prefix: str) -> None:
    folder, expected = made("gemma3")
    for path in folder.glob("*.json"):
        (tmp_path / path.name).write_text(path.read_text())
    parts = ("vision_tower.", "multi_modal_projector.")
    tensors = load_file(folder / "model.safetensors")
    names = {name: name[name.index(part) :] for name in tensors for part in parts if part in name}
    assert names
    below = "" if prefix else "vision_model."  # as the hub has it
    renamed = {
        prefix + re.sub(r"^vision_tower\.(vision_model\.)?", f"vision_tower.{below}", new): tensors[old]
        for old, new in names.items()
    }
    save_file(renamed, tmp_path / "model.safetensors")
    encoder = encoders.load(open_checkpoint(str(tmp_path)))
    with torch.inference_mode():
        found, wanted = (PrunedEncoder(one, none.Method(36))(PIXELS)[0] for one in (encoder, expected))
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("tokens", [35, 25])
def test_tokens_that_the_grid_does_not_divide_into_are_refused(made: Made, tokens: int) -> None:
    checkpoint = open_checkpoint(str(made("gemma3")[0]))
    checkpoint.config["mm_tokens_per_image"] = tokens
    with pytest.raises(ModelError, match=f"a square whose side divides the grid of 24x24 patches, got {tokens}"):
        encoders.load(checkpoint)


def test_an_image_is_prepared_as_its_processor_prepares_it(made: Made) -> None:
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    checkpoint = open_checkpoint(str(made("gemma3")[0]))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 99, 3), dtype=np.uint8))
    own = Gemma3ImageProcessorPil(**checkpoint.processor)(image, return_tensors="np")["pixel_values"][0]
    np.testing.assert_array_equal(read_processor(checkpoint.processor, (48, 48))(image), own)


def test_pan_and_scan_is_refused(made: Made) -> None:
    checkpoint = open_checkpoint(str(made("gemma3")[0]))
    with pytest.raises(ModelError, match="do_pan_and_scan on, which makes no image of one size; switch it off"):
        read_processor({**checkpoint.processor, "do_pan_and_scan": True}, (48, 48))


@pytest.mark.slow
def test_kept_tokens_see_each_other_both_ways(made: Made, kind: Callable[[str], Any], cell: Callable[..., Any]) -> None:
    folder = made("gemma3")[0]
    model, bundle = kind("gemma3").own(folder), load(cell("gemma3", "divprune", 12).folder, kind=TokenEncoder)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 99, 3), dtype=np.uint8))
    inputs = generation_inputs(model, bundle, image, torch.tensor([[4, 3, 5, 9]]))
    assert inputs["token_type_ids"].tolist() == [[0, *[1] * 12, 0, 0]]
    causal = {name: value for name, value in inputs.items() if name != "token_type_ids"}
    with torch.inference_mode():
        both, one = (model(**given).logits[0, -1] for given in (inputs, causal))
    assert (both - one).abs().max() > 0.001
