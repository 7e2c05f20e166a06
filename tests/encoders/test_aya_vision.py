"""Aya Vision: squares of SigLIP's patches behind a gated projector are those of transformers' get_image_features."""

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
from edgeprune.errors import ModelError
from edgeprune.export.processor import read_processor
from edgeprune.pruners import none
from edgeprune.reference import OfficialEncoder
from edgeprune.trace import PrunedEncoder
from tests.encoders.kinds import LANGUAGE, SIGLIP, SQUARE, Kind, processor

KIND = Kind(
    "AyaVisionForConditionalGeneration",
    processor("GotOcr2", **SQUARE, crop_to_patches=False),
    prefix=0,
    config={
        "vision_config": {**SIGLIP, "patch_size": 4, "vision_use_head": False},
        "text_config": {"model_type": "cohere2", **LANGUAGE, "num_hidden_layers": 2},
        "image_token_index": 3,
    },
    family="aya_vision",
    exported="divprune",
    unread=("language_model.", "model.language_model.", "lm_head."),
    given=lambda pixels: {"pixel_values": pixels},
)
Made = Callable[[str], tuple[Path, Encoder]]
PIXELS = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 3e-4}


@pytest.mark.parametrize("layer", [None, 1])
def test_unpruned_tokens_are_the_models_own(made: Made, kind: Callable[[str], Any], layer: int | None) -> None:
    folder = made("aya_vision")[0]
    encoder = encoders.load(open_checkpoint(str(folder)), layer)
    assert (encoder.grid, encoder.unit, encoder.normed) == ((6, 6), 4, False)
    with torch.inference_mode():
        model = kind("aya_vision").own(folder)
        expected = model.get_image_features(PIXELS, vision_feature_layer=-1 if layer is None else layer).pooler_output
        for path in (PrunedEncoder, OfficialEncoder):
            found = path(encoder, none.Method(36))(PIXELS)[0]
            torch.testing.assert_close(found, expected.reshape(found.shape), **CLOSE)


def test_patches_that_make_no_squares_are_refused(made: Made) -> None:
    checkpoint = open_checkpoint(str(made("aya_vision")[0]))
    checkpoint.config["downsample_factor"] = 5
    with pytest.raises(ModelError, match=r"AyaVisionMultiModalProjector of config\.json has"):
        encoders.load(checkpoint)


def test_tiles_are_tagged_and_keep_their_own_shares(made: Made, tmp_path: Path) -> None:
    from transformers import GotOcr2ImageProcessorPil

    checkpoint = open_checkpoint(str(made("aya_vision")[0]))
    given = {**checkpoint.processor, "crop_to_patches": True, "max_patches": 4}
    checkpoint.processor.clear()
    checkpoint.processor.update(given)
    encoder = encoders.load(checkpoint)
    assert (encoder.tiled, encoder.tagged, encoder.pools) == (True, True, False)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 120, 3), dtype=np.uint8))
    own = GotOcr2ImageProcessorPil(**given)(image, return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(read_processor(given, (48, 48), 3).tiled(image), own)
