"""VipLLaVA: five layers' features side by side are those of transformers' get_image_features."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders import Encoder
from edgeprune.errors import RequestError
from edgeprune.pruners import none, received
from edgeprune.reference import OfficialEncoder
from edgeprune.trace import PrunedEncoder
from tests.encoders.kinds import CROPPED, LLAVA_CLIP, Kind, processor

KIND = Kind(
    "VipLlavaForConditionalGeneration",
    processor("CLIP", **CROPPED),
    config={
        **{name: value for name, value in LLAVA_CLIP.items() if name != "vision_feature_layer"},
        "vision_feature_layer": [-2, 0, -1],
    },
    family="vipllava",
    exported="fastervlm",
    unread=("language_model.", "model.language_model.", "lm_head."),
    given=lambda pixels: {"pixel_values": pixels},
)
Made = Callable[[str], tuple[Path, Encoder]]
PIXELS = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 3e-4}


def test_unpruned_tokens_are_the_models_own(made: Made, kind: Callable[[str], Any]) -> None:
    folder, encoder = made("vipllava")
    assert (encoder.layer, encoder.beside) == (2, (1, 0, 2))
    with torch.inference_mode():
        expected = kind("vipllava").own(folder).get_image_features(PIXELS).pooler_output
        for path in (PrunedEncoder, OfficialEncoder):
            torch.testing.assert_close(path(encoder, none.Method(36))(PIXELS)[0], expected, **CLOSE)


def test_the_older_name_of_the_layers_is_read(made: Made) -> None:
    folder, expected = made("vipllava")
    checkpoint = open_checkpoint(str(folder))
    checkpoint.config["vision_feature_layers"] = checkpoint.config.pop("vision_feature_layer")
    assert encoders.load(checkpoint).beside == expected.beside


def test_tokens_dropped_inside_are_dropped_of_every_layer(made: Made) -> None:
    encoder, method = made("vipllava")[1], received.Method(9, layer=1)
    with torch.inference_mode():
        found, expected = (path(encoder, method)(PIXELS) for path in (PrunedEncoder, OfficialEncoder))
    assert torch.equal(found[1], expected[1])
    torch.testing.assert_close(found[0], expected[0], **CLOSE)


@pytest.mark.parametrize("name", ["vision_feature_layer", "vision_feature_layers"])
def test_one_layer_of_several_is_refused(made: Made, name: str) -> None:
    checkpoint = open_checkpoint(str(made("vipllava")[0]))
    checkpoint.config[name] = checkpoint.config.pop("vision_feature_layer")
    with pytest.raises(RequestError, match=r"takes 3 layers side by side \(-2, 0, -1\), --layer 1 would give one"):
        encoders.load(checkpoint, 1)
