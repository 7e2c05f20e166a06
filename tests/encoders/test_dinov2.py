"""DINOv2: positions resampled once, to the size that the image processor gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders import Encoder
from edgeprune.errors import ModelError
from tests.encoders.kinds import Kind, processor

BIT = processor("Bit", size={"shortest_edge": 56}, crop_size={"height": 48, "width": 48})
SIZE: dict[str, Any] = {"image_size": 64}
"""trained at another size than it is used at"""
KINDS = {
    "dinov2": Kind("Dinov2Model", BIT, config=SIZE),
    "dinov2 giant": Kind("Dinov2ForImageClassification", BIT, "dinov2", 1, {**SIZE, "use_swiglu_ffn": True}),
    "dinov2 registers": Kind(
        "Dinov2WithRegistersModel", BIT, "", 5, SIZE, family="dinov2", exported="scope vispruner prunesid"
    ),
}
Made = Callable[[str], tuple[Path, Encoder]]


def test_the_size_is_the_image_processors_not_the_one_it_was_trained_at(made: Made) -> None:
    folder, encoder = made("dinov2")
    checkpoint = open_checkpoint(str(folder))
    assert checkpoint.config["image_size"] == 64
    assert encoder.tower.image_size == (48, 48)
    assert encoder.tower.module.embeddings.position_embeddings.shape[1] == 1 + 36  # type: ignore[union-attr, index]
    checkpoint.processor["crop_size"] = {"height": 64, "width": 64}
    assert encoders.load(checkpoint).tower.grid == (8, 8)


def test_the_weights_of_a_gated_mlp_are_counted_as_those_of_a_plain_one(made: Made) -> None:
    own = made("dinov2 giant")[1].tower.module.encoder.layer[0].mlp.gate_proj.out_features  # type: ignore[union-attr, index]
    assert 2 * made("dinov2 giant")[1].tower.mlp_width == 3 * own


def test_a_size_that_is_none_is_refused(made: Made) -> None:
    checkpoint = open_checkpoint(str(made("dinov2")[0]))
    checkpoint.processor["crop_size"] = "large"
    with pytest.raises(
        ModelError, match="must give height and width; a size must be a number, a pair or an object, got 'large'"
    ):
        encoders.load(checkpoint)
