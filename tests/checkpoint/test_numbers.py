"""Weights must be plain floats: codes of a quantised tower are refused, a quantised language model changes nothing."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.covering import always

MakeFolder = Callable[..., Path]
Refusal = Callable[..., str]
Tokens = Callable[..., Tensor]
Quantise = Callable[[str, Tensor], dict[str, Tensor]]


def int8(name: str, value: Tensor) -> dict[str, Tensor]:
    """As bitsandbytes writes it: value = int8 * SCB / 127."""
    largest = value.abs().amax(dim=1)
    codes = (value / largest[:, None] * 127).round().to(torch.int8)
    layer = name.removesuffix("weight")
    return {name: codes, f"{layer}SCB": largest, f"{layer}weight_format": torch.tensor(0, dtype=torch.uint8)}


def float8(name: str, value: Tensor) -> dict[str, Tensor]:
    scale = value.abs().max() / 448
    return {name: (value / scale).to(torch.float8_e4m3fn), f"{name}_scale": scale}


def packed(name: str, value: Tensor) -> dict[str, Tensor]:
    """As AWQ and GPTQ write it."""
    layer, (rows, columns) = name.removesuffix("weight"), value.shape
    integers = {
        "qweight": torch.zeros(columns, rows // 8, dtype=torch.int32),
        "qzeros": torch.zeros(1, rows // 8, dtype=torch.int32),
    }
    return {f"{layer}{part}": one for part, one in (integers | {"scales": torch.ones(1, rows)}).items()}


def nf4(name: str, value: Tensor) -> dict[str, Tensor]:
    return {name: torch.zeros(value.numel() // 2, 1, dtype=torch.uint8), f"{name}.absmax": torch.ones(1)}


def quantised(folder: Path, part: str, quantise: Quantise, **config: Any) -> Path:
    """Every matrix whose name has that part, and the config with it."""
    tensors: dict[str, Tensor] = {}
    for name, value in load_file(folder / "model.safetensors").items():
        matrix = part in name and name.endswith("_proj.weight")
        tensors |= quantise(name, value) if matrix else {name: value}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    stored = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(stored | config))
    return folder


BITSANDBYTES = {"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False}


def test_case_int8_of_bitsandbytes_is_refused_with_its_name_and_the_way_out(
    llava_folder: MakeFolder, tmp_path: Path, refusal: Refusal
) -> None:
    folder = quantised(llava_folder(tmp_path / "llava"), "vision", int8, quantization_config=BITSANDBYTES)
    message = refusal(folder)
    assert message.startswith(
        "llava: weights must be plain floats, and vision_tower.encoder.layers.0.self_attn.k_proj.weight is int8 "
        "(bitsandbytes load_in_8bit), whose values only the quantised model knows; give the checkpoint that was "
        "quantised, or dequantise this one once: python -c "
    )
    command = shlex.split(message.partition("once: ")[2])[-1]
    compile(command, "advice", "exec")
    assert "import AutoImageProcessor as P, LlavaForConditionalGeneration as M;" in command
    assert f'M.from_pretrained("{folder}").dequantize().save_pretrained("{folder}-plain")' in command


@pytest.mark.parametrize(
    ("quantise", "dtype", "method"),
    [
        (float8, "float8_e4m3fn", {"quant_method": "fp8"}),
        (packed, "int32", {"quant_method": "awq"}),
        (nf4, "uint8", {"quant_method": "bitsandbytes", "load_in_4bit": True}),
        (int8, "int8", None),
    ],
    ids=["float8", "awq", "nf4", "unnamed"],
)
def test_whatever_is_no_plain_float_in_the_tower_is_refused(
    clip_folder: MakeFolder, tmp_path: Path, refusal: Refusal, quantise: Quantise, dtype: str, method: Any
) -> None:
    folder = quantised(clip_folder(tmp_path / "clip"), "self_attn", quantise, quantization_config=method)
    message = refusal(folder)
    name = method["quant_method"] if method else ""
    assert f" is {dtype}{f' ({name}' if name else ','}" in message
    assert ("dequantise" in message) == (name == "bitsandbytes")  # transformers has none for the others


def test_the_scheme_of_a_part_is_named_too(llava_folder: MakeFolder, tmp_path: Path, refusal: Refusal) -> None:
    folder = quantised(llava_folder(tmp_path / "llava"), "vision", float8)
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["quantization_config"] = {"quant_method": "compressed-tensors"}
    (folder / "config.json").write_text(json.dumps(config))
    assert "is float8_e4m3fn (compressed-tensors)" in refusal(folder)


@pytest.mark.parametrize("method", always(["awq", "gptq", "bitsandbytes", "fp8"], "awq"))
def test_a_quantised_language_model_leaves_the_tower_as_it_was(
    llava_folder: MakeFolder, tmp_path: Path, tokens: Tokens, method: str
) -> None:
    folder = llava_folder(tmp_path / "llava")
    whole = tokens(folder)
    config = {"quant_method": method, "bits": 4, "modules_to_not_convert": ["vision_tower", "multi_modal_projector"]}
    quantised(folder, "language_model", packed, quantization_config=config)
    assert {"torch.int32", "torch.float32"} <= {
        str(one.dtype) for one in load_file(folder / "model.safetensors").values()
    }
    assert torch.equal(tokens(folder), whole)


@pytest.mark.parametrize("projector", ["multi_modal_projector.linear_1.weight"])
def test_a_quantised_projector_is_refused(
    llava_folder: MakeFolder, tmp_path: Path, refusal: Refusal, projector: str
) -> None:
    folder = llava_folder(tmp_path / "llava")
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | float8(f"{projector}", tensors[projector]), folder / "model.safetensors", {"format": "pt"})
    assert f"{projector} is float8_e4m3fn" in refusal(folder)


@pytest.mark.parametrize("dtype", always([torch.float16, torch.bfloat16, torch.float64], torch.bfloat16))
def test_plain_floats_of_any_width_are_taken(
    llava_folder: MakeFolder, tmp_path: Path, tokens: Tokens, dtype: torch.dtype
) -> None:
    folder = llava_folder(tmp_path / "llava")
    whole = tokens(folder)
    tensors = {name: value.to(dtype) for name, value in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert tokens(folder).dtype == torch.float32
    torch.testing.assert_close(tokens(folder), whole, rtol=0.05, atol=0.05 * float(whole.abs().max()))
