"""SigLIP: the old layout of the hub, and what a tower of LLaVA gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders import Encoder
from edgeprune.pruners import none
from edgeprune.trace import PrunedEncoder
from tests.encoders.kinds import SIGLIP, SQUARE, TEXT, Kind, processor

PROCESSOR = processor("Siglip", **SQUARE)
BOTH = {"vision_config": SIGLIP, "text_config": TEXT}
KINDS = {
    "siglip vision": Kind(
        "SiglipVisionModel", PROCESSOR, prefix=0, family="siglip", exported="uniform entropyprune apet cdpruner"
    ),
    "siglip": Kind("SiglipModel", PROCESSOR, "vision_model", 0, BOTH),
}
PIXELS = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))


def test_the_hubs_names_with_vision_model_in_front_are_read(
    made: Callable[[str], tuple[Path, Encoder]], tmp_path: Path
) -> None:
    folder, expected = made("siglip vision")
    for path in folder.glob("*.json"):
        (tmp_path / path.name).write_text(path.read_text())
    tensors = {f"vision_model.{name}": value for name, value in load_file(folder / "model.safetensors").items()}
    save_file(tensors, tmp_path / "model.safetensors")
    encoder = encoders.load(open_checkpoint(str(tmp_path)))
    with torch.inference_mode():
        tokens, wanted = (PrunedEncoder(one, none.Method(36))(PIXELS)[0] for one in (encoder, expected))
    assert torch.equal(tokens, wanted)


def test_the_pooling_head_is_not_there(made: Callable[[str], tuple[Path, Encoder]]) -> None:
    module = made("siglip")[1].tower.module
    assert not [name for name, _ in module.named_parameters() if "head" in name]
