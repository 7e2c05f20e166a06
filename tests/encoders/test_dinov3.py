"""DINOv3: any size, also one that is not square."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders import Encoder
from edgeprune.errors import ModelError
from edgeprune.pruners import fastervlm, none
from edgeprune.reference import OfficialEncoder
from edgeprune.trace import PrunedEncoder
from tests.encoders.kinds import SQUARE, Kind, processor

PROCESSOR = processor(
    "DINOv3ViT",
    **SQUARE,
    do_resize=True,
    resample=2,
    do_center_crop=None,
    do_rescale=True,
    do_normalize=True,
    image_mean=[0.485, 0.456, 0.406],
    image_std=[0.229, 0.224, 0.225],
)
SIZE: dict[str, Any] = {"image_size": 64}
"""trained at another size than it is used at"""
KINDS = {
    "dinov3": Kind(
        "DINOv3ViTModel",
        PROCESSOR,
        "",
        5,
        {**SIZE, "num_register_tokens": 4},
        family="dinov3",
        exported="todre visionzip",
    ),
    "dinov3 gated": Kind("DINOv3ViTModel", PROCESSOR, "", 4, {**SIZE, "num_register_tokens": 3, "use_gated_mlp": True}),
}
PIXELS = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))


def test_heads_that_do_not_divide_the_width_are_refused(made: Callable[[str], tuple[Path, Encoder]]) -> None:
    checkpoint = open_checkpoint(str(made("dinov3")[0]))
    checkpoint.config["num_attention_heads"] = 3
    with pytest.raises(ModelError, match=r"num_attention_heads of config\.json must divide hidden_size \d+, got 3"):
        encoders.load(checkpoint)


def test_a_wide_image_has_a_wide_grid(made: Callable[[str], tuple[Path, Encoder]], kind: Callable[[str], Any]) -> None:
    folder = made("dinov3")[0]
    checkpoint = open_checkpoint(str(folder))
    checkpoint.processor["size"] = {"height": 32, "width": 48}
    encoder = encoders.load(checkpoint)
    assert encoder.tower.grid == (4, 6)
    with torch.inference_mode():
        expected = kind("dinov3").own(folder)(PIXELS).last_hidden_state[:, 5:]
        tokens = PrunedEncoder(encoder, none.Method(24))(PIXELS)[0]
        pruned = [path(encoder, fastervlm.Method(5))(PIXELS) for path in (PrunedEncoder, OfficialEncoder)]
    torch.testing.assert_close(tokens, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(pruned[0][1], pruned[1][1])
