"""What is asked of packages is asked in a process of its own: one that fails, hangs or dies is a finding."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeprune.doctor import machine
from edgeprune.doctor.machine import Module, ask, look


def test_the_answer_is_the_last_line_whatever_a_package_prints() -> None:
    assert ask("import json; print('hello'); print(json.dumps([1, {'a': 2}]))") == ([1, {"a": 2}], "")


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("raise ImportError('libcudart.so.13: cannot open')", "ImportError: libcudart.so.13: cannot open"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "it dies of SIGILL"),
        ("raise SystemExit(3)", "it does not say why"),
        ("print('no JSON')", "JSONDecodeError: Expecting value: line 1 column 1 (char 0)"),
        ("pass", "IndexError: list index out of range"),
    ],
)
def test_what_keeps_it_from_answering_is_said(code: str, why: str) -> None:
    assert ask(code) == (None, why)


def test_what_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs(*arguments: object, timeout: float, **options: object) -> None:
        raise subprocess.TimeoutExpired("python", timeout)

    monkeypatch.setattr(subprocess, "run", hangs)
    assert ask("") == (None, "it does not end in 60 s")


def test_a_file_of_the_working_folder_is_not_taken_for_a_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "colorsys.py").write_text("raise ValueError('not me')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert ask("import colorsys; print(1)") == (1, "")


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An onnxruntime that is installed and cannot be imported."""
    folder = tmp_path / "onnxruntime"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise ImportError('numpy.core.multiarray failed to import')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    return folder


def test_this_machine_is_seen_and_a_broken_package_named(broken: Path, tmp_path: Path) -> None:
    found = look(tmp_path)
    assert found.modules["onnxruntime"] == Module(error="ImportError: numpy.core.multiarray failed to import")
    assert found.broken == ""
    assert found.python.endswith(f"({sys.executable})")
    assert found.processor
    assert found.gpu
    assert found.disk_gib > 0
    assert found.memory_gib is None or 0 < found.memory_gib[0] <= found.memory_gib[1]


def test_a_runtime_that_cannot_be_imported_leaves_the_rest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "ask", lambda code: (None, "ImportError: numpy"))
    found = look(tmp_path)
    assert (found.broken, found.sm, found.gpu) == ("ImportError: numpy", None, "it could not be asked")
    assert {module.error for module in found.modules.values()} <= {"ImportError: numpy"}
