"""GLM-4.1V, 4.6V and GLM-OCR: norms without biases, resampled positions or none, normed queries and keys, and a
convolution that makes tokens of 2x2 patches."""

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
from edgeprune.export.processor import read_processor
from edgeprune.pruners import none
from edgeprune.trace import PrunedEncoder
from tests.encoders.kinds import LANGUAGE, Kind, processor
from tests.encoders.test_qwen import TOWER, WIDTHS, flattened
from tests.encoders.test_qwen3_5 import given

STEPS: dict[str, Any] = {"patch_size": 4, "temporal_patch_size": 2, "merge_size": 2}
KIND = Kind(
    "Glm4vForConditionalGeneration",
    processor("Glm4v", **STEPS),
    prefix=0,
    config={
        "vision_config": {**TOWER, **WIDTHS, "intermediate_size": 64, "image_size": 20},
        "text_config": {
            **LANGUAGE,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [4, 4, 4],
                "partial_rotary_factor": 1.0,
            },
        },
        **{"image_token_id": 3, "video_token_id": 4, "image_start_token_id": 60, "image_end_token_id": 61},
        **{"video_start_token_id": 62, "video_end_token_id": 63},
    },
    grid=(12, 12),
    family="glm4v",
    exported="divprune",
    unread=("model.language_model.", "lm_head."),
    given=given,
)
KINDS = {
    "glm4v": KIND,
    "glm46v": replace(
        KIND, architecture="Glm46VForConditionalGeneration", processor=processor("Glm46V", **STEPS), family=""
    ),
    "glm ocr": replace(
        KIND,
        architecture="GlmOcrForConditionalGeneration",
        processor=processor("Glm46V", **STEPS),
        family="",
        config={**KIND.config, "text_config": {**KIND.config["text_config"], "head_dim": 24}},
    ),
}
Made = Callable[[str], tuple[Path, Encoder]]
GRID = (6, 10)
PIXELS = torch.randn(1, 3, 24, 40, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", KINDS)
def test_the_tower_at_another_grid_is_the_models_own(made: Made, kind: Callable[[str], Any], name: str) -> None:
    folder = made(name)[0]
    encoder = encoders.load(open_checkpoint(str(folder)), grid=GRID)
    with torch.inference_mode():
        expected = kind(name).own(folder).get_image_features(**given(PIXELS)).pooler_output[0]
        found = PrunedEncoder(encoder, none.Method(15))(PIXELS)[0][0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=3e-4)


def test_a_grid_that_squares_do_not_divide_is_refused(made: Made) -> None:
    with pytest.raises(RequestError, match=r"a multiple of 2x2 patches, .*, got 5x6; 4x6 or 6x6 would be"):
        encoders.load(open_checkpoint(str(made("glm4v")[0])), grid=(5, 6))


def test_images_are_resized_to_the_grid_as_the_processor_resizes_to_its_own(made: Made) -> None:
    from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil

    checkpoint = open_checkpoint(str(made("glm4v")[0]))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 99, 3), dtype=np.uint8))
    own = Glm4vImageProcessorPil(**checkpoint.processor)(image, return_tensors="pt")
    rows, columns = own["image_grid_thw"][0, 1:].tolist()
    found = read_processor(checkpoint.processor, (4 * rows, 4 * columns))(image)
    assert torch.equal(flattened(torch.from_numpy(found)[None], (rows, columns)), own["pixel_values"])
