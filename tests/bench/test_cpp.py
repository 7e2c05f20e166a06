"""What the C library adds to a bare session of ONNX Runtime, and how large it is. `make bench`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeprune.export import Request, export_bundle
from tests.cpp.conftest import cpp  # noqa: F401  a fixture
from tests.cpp.library import onnxruntime_library

BLOCKS = 7


def test_the_c_library_adds_at_most_one_per_cent(cpp: Path, tmp_path: Path, hold: Callable[..., None]) -> None:  # noqa: F811
    export_bundle(Request("fastervlm", "cpu", keep=64, output=tmp_path / "tiny", baselines=False))
    program, watched = (next(cpp.rglob(name)) for name in ("bench_overhead", "libwatched_onnxruntime.so"))
    command: list[str | Path] = [program, tmp_path / "tiny", watched, str(BLOCKS)]
    environment = {**os.environ, "WATCHED_ONNXRUNTIME": str(onnxruntime_library())}
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)
    hold("edgeprune_run / bare session", found["run"], most=1.01)
    hold("open to the first result / bare session and sha256", found["open"], most=1.1)


def test_the_c_library_is_small(cpp: Path, tmp_path: Path, hold: Callable[..., None]) -> None:  # noqa: F811
    if not shutil.which("strip"):
        pytest.skip("needs strip of binutils")
    stripped = tmp_path / "libedgeprune.so"
    subprocess.run(["strip", next(cpp.rglob("libedgeprune.so")), "-o", stripped], check=True)
    hold("libedgeprune.so / 400 KB", [stripped.stat().st_size / 400_000], most=1)
