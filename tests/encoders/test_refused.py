"""Models that no family reads are refused with the reason and with what to use instead, in one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from transformers.models.auto import auto_mappings

from edgeprune.catalog import check_model_type, families
from edgeprune.cli import main
from edgeprune.encoders._refused import REFUSED
from edgeprune.errors import ModelError

ELSEWHERE = {
    *("llava_qwen2", "phi4mm", "phi3_v", "molmo", "ovis", "kimi_vl", "deepseek_vl_v2", "moonvit"),
    *("deepseek_ocr", "qwen_vl", "minicpmv", "minicpmo", "internvl_chat"),
}
"""of code that is not of transformers, or under another name there"""
EACH = [(model_type, why) for why, refused in REFUSED.items() for model_type in refused]


@pytest.mark.parametrize(("model_type", "why"), EACH)
def test_it_is_refused_with_the_reason_and_a_way_out(model_type: str, why: str) -> None:
    with pytest.raises(ModelError) as error:
        check_model_type(model_type, "one/model")
    assert str(error.value) == f"one/model is a {model_type}, which is not read: {why}"
    assert "; use " in why or "; for detection use " in why


def test_each_is_a_model_of_transformers_that_no_family_reads() -> None:
    read = {model_type for family in families() for model_type in family.model_types}
    names = [model_type for model_type, _ in EACH]
    assert len(names) == len(set(names))
    assert not read & set(names)
    known = set(auto_mappings.CONFIG_MAPPING_NAMES)
    assert set(names) - known - ELSEWHERE == set()


def test_case_the_command_line_says_it_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "molmo2"}))
    (tmp_path / "preprocessor_config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    given = ["--method", "divprune", "--keep", "8", "--model", str(tmp_path), "--output", str(tmp_path / "bundle")]
    monkeypatch.setattr(sys, "argv", ["edgeprune", "export", *given])
    with pytest.raises(SystemExit) as exit:
        main()
    assert exit.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "is a molmo2, which is not read: its tokens are pooled by attention" in line
    assert not (tmp_path / "bundle").exists()
