"""The C library, built once for all tests that want it; where something is missing they are skipped, and say what."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from edgeprune.errors import EdgepruneError
from edgeprune.runtime.sources import onnxruntime_library

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "runtime" / "cpp"
HEADERS, BUILD = ROOT / "build" / "onnxruntime", ROOT / "build" / "cpp"
"""those of `make cpp`, so that only what has changed is compiled"""


@pytest.fixture(scope="session")
def cpp() -> Path:
    """The build folder: libedgeprune.so, tools/edgeprune-verify, tools/edgeprune-run, tools/edgeprune-bench.

    EDGEPRUNE_CPP names one that is there. The first worker that asks builds, the others wait. What the tests start
    finds Python's ONNX Runtime in EDGEPRUNE_ONNXRUNTIME.
    """
    try:
        os.environ.setdefault("EDGEPRUNE_ONNXRUNTIME", str(onnxruntime_library()))
    except EdgepruneError as missing:
        pytest.skip(f"the C library {missing}")
    if named := os.environ.get("EDGEPRUNE_CPP"):
        return Path(named)
    ready = subprocess.run(["bash", SOURCES / "cmake" / "ready.sh"], capture_output=True, text=True, check=False)
    if ready.returncode:
        pytest.skip(ready.stderr.strip())
    return built(BUILD)


def built(folder: Path, *options: str) -> Path:
    """Configured where it was not, and brought up to date. Skips where the headers of ONNX Runtime are not here."""
    from filelock import FileLock

    folder.parent.mkdir(exist_ok=True)
    with FileLock(f"{folder}.lock"):
        headers = f"-DEDGEPRUNE_ONNXRUNTIME_INCLUDE={HEADERS}"
        configured = subprocess.run(
            ["cmake", "-S", SOURCES, "-B", folder, headers, *options], capture_output=True, text=True, check=False
        )
        if "needs onnxruntime_c_api.h" in configured.stderr:
            pytest.skip("the C library needs the headers of ONNX Runtime: install libonnxruntime-dev, or `make cpp`")
        assert configured.returncode == 0, configured.stderr
        done = subprocess.run(["cmake", "--build", folder], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder
