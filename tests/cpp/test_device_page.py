"""The block of a bundle's page that builds the C library on a device, typed as it stands, on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeprune import targets
from edgeprune.export.page_c import page_c
from edgeprune.export.wheel import wheel
from tests.cpp.conftest import HEADERS
from tests.pages import blocks

MakeBundle = Callable[..., Path]


@pytest.mark.slow
@pytest.mark.skipif(not HEADERS.exists(), reason="the headers of ONNX Runtime were not fetched: make cpp-headers")
def test_a_device_builds_it_from_the_wheel_and_verifies(cpp: Path, make_bundle: MakeBundle, tmp_path: Path) -> None:
    """edgeprune is what the wheel holds, and the headers are there already, so that nothing is fetched."""
    bundle, home = make_bundle(), tmp_path / "home"
    shutil.copytree(HEADERS, home / "edgeprune-c" / "headers", symlinks=True)
    (tmp_path / wheel().name).write_bytes(wheel().content)
    shutil.unpack_archive(tmp_path / wheel().name, tmp_path / "site", "zip")
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in {"sudo": "true", "edgeprune": f'exec {sys.executable} -m edgeprune "$@"'}.items():
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)
    (block,) = blocks(page_c(targets.load("cpu"), wheel()), "sh")
    environment = os.environ | {"HOME": str(home), "PYTHONPATH": str(tmp_path / "site")}
    environment["PATH"] = f"{tools}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-eu"], input=block, cwd=bundle, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"-- Build files have been written to: {home}/edgeprune-c/build" in done.stdout
    assert "parity on cpu: " in done.stdout
