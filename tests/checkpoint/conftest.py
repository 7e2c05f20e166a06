"""Checkpoints are made in folders, changed, and loaded; the hub is away."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from edgeprune import encoders
from edgeprune.checkpoint import Checkpoint, open_checkpoint
from edgeprune.errors import ModelError

PIXELS = torch.linspace(-1, 1, 3 * 48 * 48).reshape(1, 3, 48, 48)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The hub is offline and its cache empty, whatever the environment says."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture(scope="session")
def pixels() -> Tensor:
    """[1, 3, 48, 48]"""
    return PIXELS


@pytest.fixture(scope="session")
def refusal() -> Callable[..., str]:
    """(model, revision=None, load=True) -> the message with which it is refused, which must be one line."""

    def message(model: str | Path, revision: str | None = None, load: bool = True) -> str:
        with pytest.raises(ModelError) as refused:
            encoders.load(open_checkpoint(str(model), revision)) if load else open_checkpoint(str(model), revision)
        assert len(str(refused.value).splitlines()) == 1
        return str(refused.value)

    return message


@pytest.fixture(scope="session")
def tokens() -> Callable[..., Tensor]:
    """(folder or checkpoint) -> what its encoder computes for PIXELS, unpruned."""

    def compute(model: Path | Checkpoint) -> Tensor:
        encoder = encoders.load(model if isinstance(model, Checkpoint) else open_checkpoint(str(model)))
        with torch.inference_mode():
            out = encoder.tower.module(PIXELS, output_hidden_states=True)
            hidden = out.last_hidden_state if encoder.normed else out.hidden_states[encoder.layer]
            found: Tensor = encoder.projector(hidden[:, encoder.tower.prefix :])
        return found

    return compute


@pytest.fixture(scope="session")
def rename_tensors() -> Callable[[Path, Callable[[str], str]], None]:
    """(folder, name -> name)"""

    def rename(folder: Path, name_of: Callable[[str], str]) -> None:
        tensors = {name_of(name): value for name, value in load_file(folder / "model.safetensors").items()}
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return rename


@pytest.fixture(scope="session")
def change_tensor() -> Callable[[Path, str, Callable[[Tensor], Tensor]], str]:
    """(folder, part, change): change the first tensor whose name has that part; returns its name."""

    def apply(folder: Path, part: str, change: Callable[[Tensor], Tensor]) -> str:
        tensors = load_file(folder / "model.safetensors")
        name = next(name for name in sorted(tensors) if part in name)
        save_file(tensors | {name: change(tensors[name])}, folder / "model.safetensors", {"format": "pt"})
        return name

    return apply


@pytest.fixture(scope="session")
def split() -> Callable[[Path], tuple[list[str], list[str]]]:
    """(folder) -> by its index, the shards that hold tensors of the encoder of a LLaVA, and the others."""

    def parted(folder: Path) -> tuple[list[str], list[str]]:
        shards = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
        wanted = {shards[name] for name in shards if "vision_tower" in name or "multi_modal_projector" in name}
        return sorted(wanted), sorted({*shards.values()} - wanted)

    return parted
