"""Runs again and again: nothing is allocated, no tensor copied, memory stays flat, threads get their own results."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.brightest import MakeBundle
from tests.cpp.library import onnxruntime_library


def steady(cpp: Path, folder: Path, runs: int) -> str:
    """What the test program prints, once it found nothing wrong."""
    program, watched = (next(cpp.rglob(name)) for name in ("test_steady", "libwatched_onnxruntime.so"))
    environment = {**os.environ, "WATCHED_ONNXRUNTIME": str(onnxruntime_library())}
    command: list[str | Path] = [program, folder, watched, str(runs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_a_run_allocates_nothing_and_copies_no_tensor(dtype: str, cpp: Path, make_bundle: MakeBundle) -> None:
    steady(cpp, make_bundle(dtype=dtype, picks=True, nested=True), 500)


def test_the_halves_allocate_nothing_and_what_lies_between_them_is_not_copied(
    cpp: Path, make_bundle: MakeBundle
) -> None:
    steady(cpp, make_bundle(prior=True, split=True), 100)


@pytest.mark.slow
def test_memory_is_flat_over_ten_thousand_runs(cpp: Path, make_bundle: MakeBundle) -> None:
    assert "10000 runs" in steady(cpp, make_bundle(), 10_000)
