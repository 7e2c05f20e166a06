"""config.json: numbers that no model has are named, and how to load a model is not what the model is."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.covering import always

MakeFolder = Callable[..., Path]
Refusal = Callable[..., str]
Tokens = Callable[..., Tensor]


def change(folder: Path, path: str, value: Any) -> None:
    """path: names with points between; None takes the field away"""
    config = json.loads((folder / "config.json").read_text())
    part, *names = config, *path.split(".")
    for name in names[:-1]:
        part = part.setdefault(name, {})
    part[names[-1]] = value
    if value is None:
        del part[names[-1]]
    (folder / "config.json").write_text(json.dumps(config))


ATTENTION = (
    "flash_attention_2",
    "flash_attention_3",
    "flex_attention",
    "eager",
    "sdpa",
    "kernels-community/flash-attn",
    "x",
)


@pytest.mark.parametrize(
    ("part", "name"),
    always(
        product(
            ("", "vision_config.", "text_config."),
            ("attn_implementation", "_attn_implementation", "_attn_implementation_internal"),
        ),
        ("vision_config.", "attn_implementation"),
    ),
)
def test_case_the_tower_attends_as_the_trace_needs_whatever_attention_it_was_saved_with(
    llava_folder: MakeFolder, tmp_path: Path, tokens: Tokens, part: str, name: str
) -> None:
    folder = llava_folder(tmp_path / "llava")
    whole = tokens(folder)
    for value in ATTENTION:
        change(folder, f"{part}{name}", value)
        assert torch.equal(tokens(folder), whole), value


@pytest.mark.parametrize(
    ("path", "value"),
    always(
        [
            ("dtype", "float12"),
            ("torch_dtype", 3),
            ("vision_config.torch_dtype", "float8_e4m3fn"),
            ("quantization_config", {"quant_method": "bitsandbytes", "load_in_8bit": True}),
            ("vision_config.quantization_config", {"quant_method": "unheard of"}),
            ("text_config.experts_implementation", "grouped_mm"),
            ("use_return_dict", False),
        ],
        ("vision_config.torch_dtype", "float8_e4m3fn"),
        ("quantization_config", {"quant_method": "bitsandbytes", "load_in_8bit": True}),
        ("use_return_dict", False),
    ),
    ids=str,
)
def test_nor_does_it_matter_how_else_it_is_loaded(
    llava_folder: MakeFolder, tmp_path: Path, tokens: Tokens, path: str, value: Any
) -> None:
    folder = llava_folder(tmp_path / "llava")
    whole = tokens(folder)
    change(folder, path, value)
    assert torch.equal(tokens(folder), whole)


@pytest.mark.parametrize(
    ("path", "value", "must"),
    [
        ("vision_config.num_hidden_layers", 10**30, "at most 512, got 1e+30"),
        ("text_config.num_hidden_layers", 10**9, "at most 512, got 1000000000"),
        ("vision_config.num_hidden_layers", 0, "at least 1, got 0"),
        ("vision_config.hidden_size", -32, "at least 1, got -32"),
        ("vision_config.hidden_size", 10**30, "at most 2147483648, got 1e+30"),
        ("vision_config.num_attention_heads", 0, "at least 1, got 0"),
        ("vision_config.patch_size", 0, "at least 1, got 0"),
        ("vision_config.image_size", float("nan"), "a number, got nan"),
        ("vision_config.num_labels", 10**9, "at most 1000000, got 1000000000"),
    ],
    ids=str,
)
def test_a_number_that_no_model_has_is_named_before_anything_is_built(
    llava_folder: MakeFolder, tmp_path: Path, refusal: Refusal, path: str, value: Any, must: str
) -> None:
    folder = llava_folder(tmp_path / "llava")
    change(folder, path, value)
    assert refusal(folder, load=False) == f"llava: {path} of config.json must be {must}; is the file damaged?"


@pytest.mark.parametrize(
    ("path", "value", "names"),
    [
        ("vision_config.hidden_size", "32", "'hidden_size': TypeError: Field 'hidden_size' expected int, got str"),
        (
            "vision_config.num_attention_heads",
            3,
            "is not a multiple of the number of attention heads (3)",
        ),
        ("vision_config.hidden_act", "glue", "'glue' is missing, or unknown"),
        (
            "vision_config.hidden_size",
            2**20,
            "describes a CLIPVisionModel of 17,593,006,031,104 weights, and the tensors have 41,664",
        ),
        ("vision_config", None, "'vision_config' is missing"),
        ("vision_config", "clip", "transformers cannot build what config.json describes"),
        ("vision_config.model_type", ["clip"], "transformers cannot build what config.json describes"),
        ("text_config.hidden_size", 96, "tensor linear_1.bias is [48], and a LlavaMultiModalProjector"),
        ("text_config.hidden_size", 2**20, "tensor linear_1.bias is [48], and a LlavaMultiModalProjector"),
        ("vision_config.intermediate_size", 128, "fc1.bias is [64], and a CLIPVisionModel of config.json has [128]"),
        ("vision_config.num_hidden_layers", 2, "CLIPVisionModel does not read it"),
        ("vision_config.num_hidden_layers", 6, "lacks the tensor encoder.layers.4."),
        pytest.param(
            *("vision_config.num_hidden_layers", 500),
            "a CLIPVisionModel of 4,279,488 weights, and the tensors have 41,664",
            marks=pytest.mark.slow,
        ),
        ("vision_config.patch_size", 16, "is it the config of this checkpoint?"),
    ],
    ids=str,
)
def test_what_transformers_cannot_build_or_the_tensors_are_not_of_is_one_line(
    llava_folder: MakeFolder, tmp_path: Path, refusal: Refusal, path: str, value: Any, names: str
) -> None:
    folder = llava_folder(tmp_path / "llava")
    change(folder, path, value)
    message = refusal(folder)
    assert message.startswith("llava")
    assert names in message
