"""`edgeprune runtime-source`: a folder that cmake takes."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgeprune.cli import cli
from edgeprune.errors import EdgepruneError, MissingPackageError
from edgeprune.runtime import sources


def test_the_folder_that_is_printed_has_what_cmake_wants() -> None:
    done = CliRunner().invoke(cli, ["runtime-source"])
    folder = Path(done.output.strip())
    assert done.exit_code == 0
    assert {"CMakeLists.txt", "include", "cmake"} <= {path.name for path in folder.iterdir()}
    assert json.loads(CliRunner().invoke(cli, ["runtime-source", "--json"]).output) == {"sources": str(folder)}


def test_the_library_of_onnx_runtime_is_that_of_the_package() -> None:
    library = Path(CliRunner().invoke(cli, ["runtime-source", "--onnxruntime"]).output.strip())
    assert library.is_file()
    assert library.parent.parent.name == "onnxruntime"


def test_where_onnx_runtime_is_not_installed_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"pip install 'edgeprune\[cpu\]'"):
        sources.onnxruntime_library()


def test_an_installation_without_the_sources_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sources, "__file__", str(tmp_path / "sources.py"))
    with pytest.raises(EdgepruneError, match="install edgeprune again"):
        sources.c_sources()
