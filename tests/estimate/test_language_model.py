"""The sizes of a language model, against counts done by hand for models that everybody knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgeprune.errors import ModelError
from edgeprune.estimate.language_model import LanguageModel, read_language_model

VICUNA_7B: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
    "tie_word_embeddings": False,
}
QWEN2_5_3B: dict[str, Any] = {
    "model_type": "qwen2",
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}
WITHOUT_ATTENTION = 0.03
"""what 2 FLOPs for each parameter and token leave out, and what they count too much, at 640 tokens"""


def read(folder: Path, config: object) -> LanguageModel:
    (folder / "config.json").write_text(json.dumps(config))
    return read_language_model(folder)


def test_vicuna_7b_has_6_74_g_parameters(tmp_path: Path) -> None:
    layer = 4 * 4096 * 4096 + 3 * 4096 * 11008 + 2 * 4096
    assert read(tmp_path, VICUNA_7B).parameters == 32 * layer + 2 * 32000 * 4096 + 4096 == 6_738_415_616


def test_qwen2_5_3b_has_grouped_keys_biases_and_one_embedding(tmp_path: Path) -> None:
    attention = 2048 * 2048 + 2048 + 2 * (2048 * 256 + 256) + 2048 * 2048
    layer = attention + 3 * 2048 * 11008 + 2 * 2048
    assert read(tmp_path, QWEN2_5_3B).parameters == 36 * layer + 151936 * 2048 + 2048 == 3_085_938_688


def test_a_prefill_is_two_flops_for_each_parameter_and_token(tmp_path: Path) -> None:
    vicuna = read(tmp_path, VICUNA_7B)
    by_hand = 640 * 6_476_005_376 + 640 * 641 * 32 * 4096 + 32000 * 4096
    assert vicuna.prefill(640) == by_hand == 4_198_545_489_920
    assert 2 * by_hand == pytest.approx(2 * 6.74e9 * 640, rel=WITHOUT_ATTENTION)


def test_the_cache_has_a_key_and_a_value_of_each_layer(tmp_path: Path) -> None:
    assert read(tmp_path, VICUNA_7B).kv_nbytes(1) == 512 << 10
    assert read(tmp_path, QWEN2_5_3B).kv_nbytes(1) == 36 << 10


def test_one_pass_reads_every_matrix_and_no_embedding_twice(tmp_path: Path) -> None:
    assert read(tmp_path, VICUNA_7B).read_nbytes == 2 * (6_476_005_376 + 32000 * 4096)
    assert read(tmp_path, QWEN2_5_3B).read_nbytes < 2 * 3_085_938_688


def test_a_vision_language_model_is_read_for_its_language_model(tmp_path: Path) -> None:
    vision = {"hidden_size": 1024, "num_hidden_layers": 24, "intermediate_size": 4096}
    for key in ("text_config", "llm_config"):
        nested = {"model_type": "llava", "vision_config": vision, key: VICUNA_7B}
        assert read(tmp_path, nested) == read(tmp_path, VICUNA_7B)


def test_a_tie_may_stand_outside_of_the_text_config(tmp_path: Path) -> None:
    inner = {key: value for key, value in QWEN2_5_3B.items() if key != "tie_word_embeddings"}
    assert read(tmp_path, {"text_config": inner, "tie_word_embeddings": True}).tied
    assert not read(tmp_path, {"text_config": VICUNA_7B, "tie_word_embeddings": True}).tied


def test_llava_1_5_leaves_out_what_is_llamas_default(tmp_path: Path) -> None:
    llava = {"text_config": {"model_type": "llama", "vocab_size": 32064}}
    assert read(tmp_path, llava).parameters == 6_738_415_616 + 2 * 64 * 4096
    mistral = {"text_config": {"model_type": "mistral", "num_key_value_heads": 8, "vocab_size": 32000}}
    assert read(tmp_path, mistral).parameters == 7_241_732_096


def test_a_width_of_heads_may_be_given(tmp_path: Path) -> None:
    assert read(tmp_path, {**QWEN2_5_3B, "head_dim": 256}).head_width == 256
    assert read(tmp_path, QWEN2_5_3B).head_width == 128


def test_the_file_its_folder_and_a_file_of_another_name_are_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "vicuna"
    folder.mkdir()
    found = read(folder, VICUNA_7B)
    assert found.name == "vicuna"
    assert read_language_model(folder / "config.json") == found
    (folder / "config.json").rename(tmp_path / "vicuna.json")
    assert read_language_model(tmp_path / "vicuna.json") == found


def test_an_id_is_looked_up_in_the_local_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    (tmp_path / "file").write_text(json.dumps(VICUNA_7B))
    cache = {("lmsys/vicuna", "config.json"): str(tmp_path / "file")}
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *wanted: cache.get(wanted))
    assert read_language_model("lmsys/vicuna").name == "lmsys/vicuna"
    with pytest.raises(ModelError, match=r"lmsys/alpaca has no config\.json in the local cache; run `hf download"):
        read_language_model("lmsys/alpaca")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ([], "it must be a JSON object, got list"),
        ({"text_config": 3}, "its language model must be a JSON object, got int"),
        ({"hidden_size": 768, "num_attention_heads": 12, "num_hidden_layers": 12}, "it must say intermediate_size"),
        ({**VICUNA_7B, "hidden_size": "wide"}, "hidden_size must be a positive integer, got 'wide'"),
        ({**VICUNA_7B, "num_hidden_layers": 0}, "num_hidden_layers must be a positive integer, got 0"),
        ({**VICUNA_7B, "vocab_size": True}, "vocab_size must be a positive integer, got True"),
        ({**QWEN2_5_3B, "num_experts": 64}, "for dense models, this one has num_experts 64"),
    ],
    ids=str,
)
def test_what_is_no_dense_language_model_is_refused(tmp_path: Path, config: object, message: str) -> None:
    with pytest.raises(ModelError, match=rf"config\.json: .*{message}.*; give the config\.json of a dense language"):
        read(tmp_path, config)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json must be readable JSON: .*No such file"):
        read_language_model(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json must be readable JSON: Expecting property name"):
        read_language_model(tmp_path)
    for given in ("", "nowhere", "a/b/c"):
        with pytest.raises(ModelError, match=rf"--language-model must be a config\.json, .* got '{given}'"):
            read_language_model(given)
