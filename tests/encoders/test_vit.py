"""ViT as it stands alone and under a classifier, whose head is left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgeprune.encoders import Encoder
from tests.encoders.kinds import SQUARE, Kind, processor

KINDS = {
    "vit": Kind(
        "ViTModel",
        processor("ViT", **SQUARE),
        family="vit",
        exported="idpruner tome_behind idselection segpruner focusui eventprune codecsight",
    ),
    "vit classifier": Kind("ViTForImageClassification", processor("ViT", **SQUARE), "vit"),
}


@pytest.mark.parametrize("name", KINDS)
def test_neither_pooler_nor_classifier_is_part_of_it(made: Callable[[str], tuple[Path, Encoder]], name: str) -> None:
    _, encoder = made(name)
    parts = {part.partition(".")[0] for part, _ in encoder.tower.module.named_parameters()}
    assert parts == {"embeddings", "layers", "layernorm"}
    assert (encoder.tower.prefix, encoder.patches) == (1, 36)
