"""What is missing for the C library is said in one line, and nothing is fetched where nothing is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cpp.conftest import SOURCES

READY = SOURCES / "cmake" / "ready.sh"
HEADERS = SOURCES / "cmake" / "headers.sh"


def sh(script: Path, *words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", script, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A PATH with what the scripts themselves need."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "dirname", "awk", "mktemp", "rm", "mkdir", "grep", "uname"):
        (folder / name).symlink_to(str(shutil.which(name)))
    return folder


def test_without_tools_every_one_is_named(tools: Path) -> None:
    done = sh(READY, PATH=str(tools))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "edgeprune: the C library needs cmake, g++ 9 or clang++ 10; "
        "apt-get install cmake g++ nlohmann-json3-dev libssl-dev\n"
    )


def test_a_compiler_that_is_none_is_told(tools: Path) -> None:
    for name in ("cmake", "c++"):
        (tools / name).write_text("#!/bin/sh\nexit 1\n")
        (tools / name).chmod(0o755)
    assert "needs a compiler of C++17; " in sh(READY, PATH=str(tools)).stderr


def test_headers_that_are_there_are_left_alone(tools: Path, tmp_path: Path) -> None:
    header = tmp_path / "headers" / "usr" / "include" / "onnxruntime" / "onnxruntime_c_api.h"
    header.parent.mkdir(parents=True)
    header.touch()
    assert sh(HEADERS, tmp_path / "headers", PATH=str(tools)).returncode == 0


@pytest.mark.skipif(Path("/usr/include/onnxruntime/onnxruntime_c_api.h").exists(), reason="the system has the headers")
def test_headers_that_cannot_be_fetched_leave_nothing_behind(tools: Path, tmp_path: Path) -> None:
    done = sh(HEADERS, tmp_path / "headers", PATH=str(tools))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("edgeprune: ")
    assert not (tmp_path / "headers").exists()
