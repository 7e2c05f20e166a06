"""`edgeprune doctor`: what it prints, what it imports, and when it fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeprune import targets

Run = Callable[..., Any]
LOADED = """
import sys
from edgeprune.cli import main
try:
    main()
except SystemExit as exit:
    heavy = {"torch", "transformers", "onnx", "onnxruntime", "numpy", "tensorrt_rtx", "huggingface_hub"}
    print(exit.code, sorted(heavy & set(sys.modules)))
"""


@pytest.fixture(scope="module")
def said(process: Run) -> str:
    return str(process("doctor", code=LOADED).out)


def test_it_says_what_can_be_done_here_and_imports_nothing_for_it(said: str) -> None:
    lines = said.splitlines()
    assert lines[-1] == "0 []"
    assert lines[-2].startswith(
        f"of {len(targets.names())} targets, this machine can export for {len(targets.names())},"
    )


def test_every_target_has_a_row_and_every_table_fits_80_columns(said: str) -> None:
    tables = said[: said.index("\nrun: ")].splitlines() if "\nrun: " in said else said.splitlines()
    assert {line.split()[0] for line in tables if line.strip()} >= {*targets.names()}
    assert max(len(line) for line in tables if not line.startswith(("build: ", "export: "))) <= 80
    assert "…" not in said


@pytest.mark.slow
def test_json_has_the_same(run: Run) -> None:
    done = run("doctor", "--json")
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    assert found["can"]
    assert found["targets"]["cpu"] == {"export": True, "build": None, "run": True}
    assert {"Python", "GPU", "memory", "disk", "ONNX Runtime"} <= found["facts"].keys()


def test_where_nothing_can_be_done_it_fails(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeprune.doctor import report
    from edgeprune.doctor.machine import Machine

    bare = Machine("3.12", "Linux x86_64", "a CPU", None, 1.0, gpu="there is no NVIDIA driver", broken="no numpy")
    monkeypatch.setattr(report, "look", lambda: bare)
    monkeypatch.setattr(report, "survey", lambda requirements: [])
    done = run("doctor")
    assert done.code == 1
    assert done.err == "edgeprune: nothing can be exported for, built for or run here; the first remedy is above\n"
    assert "here: the runtime cannot be imported: no numpy; pip install --force-reinstall edgeprune" in done.out
    assert run("doctor", "--json").code == 1


@pytest.mark.slow
def test_it_runs_in_a_folder_that_shadows_packages(process: Run, desk: Path) -> None:
    (desk / "onnxruntime.py").write_text("raise SystemExit('not this one')")
    done = process("doctor", "--json")
    assert (done.code, done.err) == (0, "")
    assert "CPUExecutionProvider" in json.loads(done.out)["facts"]["ONNX Runtime"]
