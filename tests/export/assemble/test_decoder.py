"""The language model of a checkpoint, written out alone: its names, whatever transformers saved it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, LlavaConfig, LlavaForConditionalGeneration

from edgeprune.checkpoint import find
from edgeprune.errors import ModelError
from edgeprune.export.assemble.decoder import Causal, causal_of, embedding_of, write_causal

pytest.importorskip("onnxruntime_genai")


def read(folder: Path) -> Causal:
    loader: Any = AutoConfig
    return causal_of(find(str(folder)), loader.from_pretrained(folder))


def newer(folder: Path) -> None:
    """As the modules of transformers 5 are called: model.language_model.*, lm_head.*"""
    tensors = load_file(folder / "model.safetensors")
    assert any(name.startswith("language_model.model.") for name in tensors)
    renamed = {
        name.replace("language_model.model.", "model.language_model.").replace(
            "language_model.lm_head.", "lm_head."
        ): value
        for name, value in tensors.items()
    }
    save_file(renamed, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("change", [lambda folder: None, newer], ids=["as the hub has it", "as the modules are called"])
def test_alone_it_says_what_it_says_inside(
    llava_folder: Callable[..., Path], tmp_path: Path, change: Callable[[Path], None]
) -> None:
    folder, alone = llava_folder(tmp_path / "whole"), tmp_path / "alone"
    inside: Any = LlavaForConditionalGeneration.from_pretrained(folder)
    change(folder)
    alone.mkdir()
    causal, files = read(folder), find(str(folder))
    write_causal(files, causal, alone)
    loader: Any = AutoModelForCausalLM
    model = loader.from_pretrained(alone)
    assert (causal.architecture, type(model).__name__) == ("LlamaForCausalLM", "LlamaForCausalLM")
    ids = torch.tensor([[5, 9, 11, 4]])
    with torch.inference_mode():
        assert torch.equal(model(ids).logits, inside(input_ids=ids).logits)
        assert torch.equal(embedding_of(files, causal), inside.get_input_embeddings().weight)


def test_shards_stay_apart(llava_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder, alone = llava_folder(tmp_path / "whole", max_shard_size="40KB"), tmp_path / "alone"
    alone.mkdir()
    write_causal(find(str(folder)), read(folder), alone)
    index = json.loads((alone / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(index.values())) > 1
    assert all(name in load_file(alone / file) for name, file in index.items())


def test_a_decoder_that_the_builder_lacks_is_refused_with_those_it_has(tmp_path: Path) -> None:
    LlavaConfig(text_config={"model_type": "opt"}).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"builder has \(.*Gemma3.*Llama.*Mistral.*Qwen3.*\), .* has OPTForCausalLM"):
        read(tmp_path)


def test_a_checkpoint_without_all_of_it_is_refused(llava_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = llava_folder(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    del tensors["language_model.model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"no tensor model\.layers\.1\.mlp\.up_proj\.weight of its language model"):
        read(folder)
