"""The C library, built once for all tests that want it; where something is missing they are skipped, and say what."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCES = Path(__file__).parent.parent.parent / "runtime" / "cpp"


@pytest.fixture(scope="session")
def cpp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The build folder: libedgeprune.so, edgeprune-verify, edgeprune-run, edgeprune-bench. EDGEPRUNE_CPP names one."""
    if named := os.environ.get("EDGEPRUNE_CPP"):
        return Path(named)
    if not (shutil.which("cmake") and shutil.which("c++")):
        pytest.skip("the C library needs cmake and a C++17 compiler")
    build = tmp_path_factory.getbasetemp() / "cpp"
    for command in (["cmake", "-S", SOURCES, "-B", build], ["cmake", "--build", build]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip("the C library cannot be built: " + (done.stderr.strip().splitlines() or ["?"])[-1])
    return build
