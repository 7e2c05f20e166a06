"""Layouts of keys: what save_pretrained of transformers 5 writes, what older checkpoints have, and those of others."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

MakeFolder = Callable[..., Path]
Refusal = Callable[..., str]
Tokens = Callable[..., Tensor]
Rename = Callable[[Path, Callable[[str], str]], None]


def layouts(name: str, *tower: str, marks: Any = ()) -> list[Any]:
    return [pytest.param(name, prefix, id=f"{name} {prefix or 'bare'}", marks=marks) for prefix in tower]


@pytest.mark.parametrize(
    ("architecture", "prefix"),
    [
        *layouts("CLIPVisionModel", "", "vision_model."),
        *layouts("CLIPModel", "vision_model."),
        *layouts("CLIPModel", "clip.vision_model.", marks=pytest.mark.slow),
        *layouts("Llava", "vision_tower.", "model.vision_tower.", marks=pytest.mark.slow),
        *layouts("Llava", "vision_tower.vision_model.", "model.vision_tower.vision_model."),
    ],
)
def test_every_layout_of_keys_gives_the_same_encoder(
    clip_folder: MakeFolder,
    llava_folder: MakeFolder,
    tmp_path: Path,
    architecture: str,
    prefix: str,
    tokens: Tokens,
    rename_tensors: Rename,
) -> None:
    is_llava = architecture == "Llava"
    folder = llava_folder(tmp_path / "m") if is_llava else clip_folder(tmp_path / "m", architecture)
    whole = tokens(folder)
    saved = re.compile(
        {"CLIPVisionModel": "", "CLIPModel": r"vision_model\.", "Llava": r"vision_tower\."}[architecture]
    )
    before = "model." if prefix.startswith("model.") else ""

    def rename(name: str) -> str:
        found = saved.match(name)
        return prefix + name[found.end() :] if found else before + name

    rename_tensors(folder, rename)
    assert any(name.startswith(f"{prefix}embeddings.") for name in load_file(folder / "model.safetensors"))
    assert torch.equal(tokens(folder), whole)


def test_what_transformers_writes_is_what_transformers_computes(
    llava_folder: MakeFolder, tmp_path: Path, tokens: Tokens, pixels: Tensor
) -> None:
    from transformers import LlavaForConditionalGeneration

    folder = llava_folder(tmp_path / "llava")
    model: Any = LlavaForConditionalGeneration.from_pretrained(folder)
    with torch.inference_mode():
        wanted = model.get_image_features(pixel_values=pixels).pooler_output
    torch.testing.assert_close(tokens(folder)[0], torch.as_tensor(wanted[0]))


def test_a_checkpoint_without_the_tower_that_its_config_has_is_refused(
    llava_folder: MakeFolder, tmp_path: Path, refusal: Refusal, rename_tensors: Rename
) -> None:
    folder = llava_folder(tmp_path / "llava")
    rename_tensors(folder, lambda name: f"mystery.{name}")
    assert "llava has no tensor model.vision_tower.vision_model.*" in refusal(folder)


@pytest.mark.parametrize("name", ["embeddings.position_ids", "encoder.rotary_pos_emb.inv_freq"])
def test_constants_of_older_releases_are_left_aside(
    llava_folder: MakeFolder, tmp_path: Path, tokens: Tokens, name: str
) -> None:
    folder = llava_folder(tmp_path / "llava")
    whole = tokens(folder)
    with_tensor(folder, f"vision_tower.{name}", torch.arange(37))
    assert torch.equal(tokens(folder), whole)


# Layouts of others.


def with_tensor(folder: Path, name: str, value: Tensor) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {name: value}, folder / "model.safetensors", {"format": "pt"})


UNREAD = {
    "vision_tower.encoder.layers.0.self_attn.q_proj.weight_scale": "CLIPVisionModel does not read it",
    "vision_tower.encoder.layers.1.mlp.adapter.down.weight": "CLIPVisionModel does not read it",
    "vision_tower.encoder.layers.4.mlp.fc1.bias": "CLIPVisionModel does not read it",
    "multi_modal_projector.linear_3.bias": "LlavaMultiModalProjector does not read it",
    "multi_modal_projector.image_newline": "LlavaMultiModalProjector does not read it",
}


@pytest.mark.parametrize("name", UNREAD)
def test_a_tensor_of_the_encoder_that_nobody_reads_is_refused(
    llava_folder: MakeFolder, tmp_path: Path, refusal: Refusal, name: str
) -> None:
    folder = llava_folder(tmp_path / "llava")
    with_tensor(folder, name, torch.ones(3))
    message = refusal(folder)
    assert UNREAD[name] in message
    assert name.rpartition("vision_tower.")[2].removeprefix("multi_modal_projector.") in message
    assert "copy the whole checkpoint" not in message


def test_two_towers_of_one_name_are_not_chosen_between(
    llava_folder: MakeFolder, tmp_path: Path, refusal: Refusal
) -> None:
    folder = llava_folder(tmp_path / "llava")
    tensors = load_file(folder / "model.safetensors")
    more = {f"model.{name}": value + 1 for name, value in tensors.items() if name.startswith("vision_tower.")}
    save_file(tensors | more, folder / "model.safetensors", {"format": "pt"})
    assert "tensor vision_tower.embeddings.class_embedding is among the encoder's and" in refusal(folder)


LORA = "self_attn.q_proj.lora_A.default.weight"


@pytest.mark.parametrize(
    "name", [f"vision_tower.encoder.layers.0.{LORA}", "multi_modal_projector.linear_1.lora_B.weight"]
)
def test_lora_beside_plain_weights_is_refused(
    llava_folder: MakeFolder, tmp_path: Path, refusal: Refusal, name: str
) -> None:
    folder = llava_folder(tmp_path / "llava")
    with_tensor(folder, name, torch.ones(4, 32))
    assert refusal(folder) == (
        f"llava: tensor {name} is of an adapter that is not merged; "
        f"load it with peft, merge_and_unload() and save_pretrained() it"
    )


def test_lora_of_the_language_model_leaves_the_tower_as_it_was(
    llava_folder: MakeFolder, tmp_path: Path, tokens: Tokens
) -> None:
    folder = llava_folder(tmp_path / "llava")
    whole = tokens(folder)
    with_tensor(folder, f"language_model.model.layers.0.{LORA}", torch.ones(4, 48))
    assert torch.equal(tokens(folder), whole)


def test_a_state_dict_of_peft_is_known_by_its_names(
    llava_folder: MakeFolder, tmp_path: Path, refusal: Refusal, rename_tensors: Rename
) -> None:
    folder = llava_folder(tmp_path / "llava")
    rename_tensors(folder, lambda name: f"base_model.model.{name.replace('q_proj.', 'q_proj.base_layer.')}")
    assert "is of an adapter that is not merged" in refusal(folder)


@pytest.mark.parametrize("beside_weights", [False, True])
def test_an_adapter_of_peft_is_known_by_its_file(
    clip_folder: MakeFolder, tmp_path: Path, refusal: Refusal, beside_weights: bool
) -> None:
    base, folder = clip_folder(tmp_path / "base", "CLIPModel"), tmp_path / "adapter"
    clip_folder(folder) if beside_weights else folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base), "r": 4}))
    message = refusal(folder)
    assert message.startswith(
        f"{folder} has an adapter of PEFT, which changes the weights of {base}; merge it once: python -c "
    )
    code = shlex.split(message)[-1]
    compile(code, "advice", "exec")
    assert "CLIPModel as M" in code
    assert f'A.from_pretrained(M.from_pretrained("{base}"), "{folder}").merge_and_unload()' in code


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "module._fsdp_wrapped_module."])
@pytest.mark.parametrize("architecture", ["CLIPVisionModel", "CLIPModel"])
def test_names_of_a_wrapper_are_refused_with_what_takes_it_off(
    clip_folder: MakeFolder, tmp_path: Path, refusal: Refusal, rename_tensors: Rename, prefix: str, architecture: str
) -> None:
    folder = clip_folder(tmp_path / "clip", architecture)
    rename_tensors(folder, lambda name: prefix + name)
    message = refusal(folder)
    assert message.startswith(f"clip: tensor {prefix}")
    assert message.endswith(f"has the name that a wrapper gave it; take it off once with `edgeprune convert {folder}`")


def test_case_the_original_llava_is_known_by_its_config(
    clip_folder: MakeFolder, tmp_path: Path, refusal: Refusal
) -> None:
    folder = clip_folder(tmp_path / "orig")
    for model_type in ("llava", "llava_llama", "llava_mistral"):
        config = {"model_type": model_type, "mm_vision_tower": "openai/clip-vit-large-patch14-336", "hidden_size": 48}
        (folder / "config.json").write_text(json.dumps(config))
        assert refusal(folder) == (
            "orig is a checkpoint of the original LLaVA code, not of transformers; "
            f"convert it once with `edgeprune convert {folder}`"
        )
