"""`edgeprune targets`: the listing, one target, and a file of the user's own."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgeprune import targets
from edgeprune.cli import cli

FOLDER = Path(targets.__file__).parent


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("COLUMNS", "80")

    def listing(*arguments: str) -> str:
        done = CliRunner().invoke(cli, ["targets", *arguments])
        assert done.exit_code == 0, done.output
        return done.output

    return listing


def test_the_listing_has_a_row_for_every_target(run: Any) -> None:
    out = run()
    assert [name for name in targets.names() if not re.search(rf"^ {re.escape(name)} ", out, re.MULTILINE)] == []
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("name", targets.names())
def test_a_target_is_shown_within_80_columns(name: str, run: Any) -> None:
    out = run(name)
    assert out.splitlines()[0].strip() == name
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out


@pytest.mark.parametrize("name", targets.names())
def test_what_json_prints_is_the_target_again(name: str, run: Any) -> None:
    assert targets.parse(json.loads(run(name, "--json")), name) == targets.load(name)


def test_what_a_graph_and_an_engine_must_be_is_shown(run: Any) -> None:
    out = run("jetson-orin-jp51")
    for line in (
        r"GPU +SM 87, 4 GiB, 34 GB/s, 5 TFLOPS in float16",
        r"ONNX +opset 17, IR 8, float32",
        r"TopK +K up to 3840, floats only: indices are sorted as float32",
        r"greedy methods +unrolled",
        r"engine +tensorrt >=8\.5,<8\.6, built on-device, weak_fp16 typing",
        r"build flags +--fp16 --profilingVerbosity=detailed --noTF32",
        r"Jetson +JetPack 5\.1-5\.1\.6, L4T 35\.2\.1-35\.6\.4, Python 3\.8",
    ):
        assert re.search(rf"^{line}", out, flags=re.MULTILINE), line


def test_a_file_of_the_user_is_shown_like_any_other(tmp_path: Path, run: Any) -> None:
    file = tmp_path / "my-card.toml"
    text = (FOLDER / "rtx-desktop.toml").read_text(encoding="utf-8")
    file.write_text(text.replace('"rtx-desktop"', '"my-card"').replace("[86, 89, 120]", "89"), encoding="utf-8")
    assert re.search(r"^GPU +SM 89, 6 GiB", run(str(file)), flags=re.MULTILINE)
