"""Which tensors and which config the builder is given of a Qwen-VL."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from edgeprune.checkpoint import find
from edgeprune.errors import ModelError
from edgeprune.export.assemble import qwen
from tests.export.assemble.kinds import KINDS, write

LAYER = "layers.0.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def made(model_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen2 vl")
    write(KINDS["qwen2 vl"], model_folder, folder)
    return folder


def causal(folder: Path) -> Any:
    from transformers import AutoConfig

    return qwen.causal_of(find(str(folder)), AutoConfig.from_pretrained(folder))


def renamed(folder: Path, into: Path, name: Callable[[str], str | None]) -> Path:
    for path in folder.iterdir():
        if path.suffix == ".json":
            (into / path.name).write_bytes(path.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    kept = {new: value for old, value in tensors.items() if (new := name(old)) is not None}
    save_file(kept, into / "model.safetensors", {"format": "pt"})
    return into


def test_qwen2_vl_is_built_as_qwen2_5_vl_and_without_its_tower(made: Path) -> None:
    found = causal(made)
    assert found.architecture == "Qwen2_5_VLForConditionalGeneration"
    assert found.config["vision_config"]["depth"] == 0
    assert (found.text["model_type"], found.width) == ("qwen2_5_vl_text", 48)
    assert not [name for name in found.shards if "visual" in name]
    assert found.shards[found.embedding] == ("model.safetensors", "model.embed_tokens.weight")


def test_both_spellings_of_its_tensors_are_read(made: Path, tmp_path: Path) -> None:
    """transformers saves Qwen2-VL's as they were, Qwen3-VL's below model.language_model."""

    def newer(name: str) -> str:
        return f"model.language_model.{name.removeprefix('model.')}" if name.startswith("model.") else name

    found = causal(renamed(made, tmp_path, newer))
    assert found.shards.keys() == causal(made).shards.keys()
    assert found.shards[f"model.language_model.{LAYER}"] == ("model.safetensors", f"model.language_model.{LAYER}")


def test_a_tensor_that_is_missing_is_named(made: Path, tmp_path: Path) -> None:
    folder = renamed(made, tmp_path, lambda name: None if name.endswith(LAYER) else name)
    with pytest.raises(ModelError, match=f"has no tensor model.language_model.{LAYER}"):
        causal(folder)
