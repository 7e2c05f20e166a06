"""Families whose whole model no engine here takes: each says why, from its config alone, before anything is built."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import transformers

from edgeprune.checkpoint import Files
from edgeprune.errors import BundleError, ModelError
from edgeprune.export.assemble.decoder import causal_of
from edgeprune.export.assemble.job import check_prompt
from tests.encoders.kinds import declared

NO_DECODER = r"must be one that onnxruntime-genai's builder has \(.*LlamaForCausalLM.*\), a/model has "
STATE = r"must remember keys and values alone, that of a/model has layers of {} too, .*; run it in transformers"
ROWS = r"the prompt of a/model has a token behind each row of an image, .*; run it in transformers"
WHY = {
    "aya_vision": f"{NO_DECODER}Cohere2ForCausalLM",
    "cosmos3 edge": f"{NO_DECODER}cosmos3_edge_text",
    "gemma3": "reads one kind of rotary positions, a/model has several",
    "gemma4": f"{NO_DECODER}Gemma4ForCausalLM",
    "glm ocr": f"{NO_DECODER}glm_ocr_text",
    "glm4v": f"{NO_DECODER}glm4v_text",
    "lfm2_vl": STATE.format("conv"),
    "llava pixtral": ROWS,
    "minicpmv4_6": STATE.format("linear_attention"),
    "mistral3": ROWS,
    "pi0": r"names its image token \(.*\), it is a pi0; use edgeprune\.integrations\.pi0",
    "radio": r"names its image token \(.*\), it is a radio; give the whole model",
    "paligemma": "must attend backwards alone, .* that of a/model attends to its prompt both ways",
    "qwen3 vl moe": f"{NO_DECODER}qwen3_vl_moe_text",
    "qwen3.5": STATE.format("linear_attention"),
    "qwen3.5 moe": STATE.format("linear_attention"),
}
"""the tiny checkpoint that stands for a family -> why not"""
FILES = cast(Files, SimpleNamespace(id="a/model"))


def config_of(name: str) -> Any:
    return getattr(transformers, declared()[name].architecture).config_class(**declared()[name].config)


def bundle(tiles: int) -> Any:
    return SimpleNamespace(manifest=SimpleNamespace(tiles=tiles))


def read(config: Any) -> None:
    check_prompt(bundle(1), FILES, config)
    causal_of(FILES, config)


@pytest.mark.parametrize("name", WHY)
def test_case_it_is_refused_with_the_reason(name: str) -> None:
    pytest.importorskip("onnxruntime_genai")
    config = transformers.PI0Config() if name == "pi0" else config_of(name)
    with pytest.raises(ModelError, match=WHY[name]):
        read(config)


@pytest.mark.parametrize("name", ["smolvlm", "idefics3"])
def test_tiles_with_tags_between_them_are_refused(name: str) -> None:
    config = config_of(name)
    check_prompt(bundle(1), FILES, config)
    with pytest.raises(
        BundleError, match=r"a tag for each tile of an image, .* has 5 tiles: export it without --tiles"
    ):
        check_prompt(bundle(5), FILES, config)
