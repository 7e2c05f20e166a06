"""AIMv2 as it stands in the whole model, with its pooling head left out; what its positions cannot do is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.errors import ModelError
from edgeprune.pruners import none
from edgeprune.trace import PrunedEncoder
from tests.encoders.kinds import CROPPED, Kind, processor

VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "image_size": 48,
    "patch_size": 8,
}
TEXT: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1}
KIND = Kind("Aimv2VisionModel", processor("CLIP", **CROPPED), prefix=0, family="aimv2", exported="dpp bavit vflowopt")
PIXELS = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))


def test_the_tower_of_the_whole_model_is_read(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    from transformers import Aimv2Model

    text = {**TEXT, "vocab_size": 64}
    folder = model_folder(tmp_path, "Aimv2Model", CROPPED, vision_config=VISION, text_config=text)
    own = cast(Any, Aimv2Model).from_pretrained(folder).eval()
    encoder = encoders.load(open_checkpoint(str(folder)))
    with torch.inference_mode():
        tokens = PrunedEncoder(encoder, none.Method(36))(PIXELS)[0]
        expected = own.vision_model(PIXELS).last_hidden_state
    torch.testing.assert_close(tokens, expected, rtol=1e-4, atol=1e-4)


def test_a_checkpoint_of_native_resolution_is_refused(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = model_folder(tmp_path, "Aimv2VisionModel", CROPPED, is_native=True, use_head=False)
    with pytest.raises(ModelError, match="must have a fixed image size, got is_native"):
        encoders.load(open_checkpoint(str(folder)))
