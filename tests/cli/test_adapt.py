"""`edgeprune adapt`: what it says, and what becomes of the thresholds that it trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
THRESHOLDS = ("--kind", "thresholds", "--method", "adaptive-sparse", "--encoder-cost", 0.6)


def test_thresholds_are_trained_and_said(run: Run, desk: Path) -> None:
    done = run("adapt", *THRESHOLDS, "--count", 8, "--epochs", 1, "--threads", 1)
    assert (done.code, done.err) == (0, "")
    loss, *passing, wrote = done.out.splitlines()
    assert loss.endswith("in 1 epochs of 8 images")
    assert [one.split()[:3] for one in passing] == [["behind", "layer", layer] for layer in ("1", "2", "4")]
    assert wrote.startswith("wrote adapted after")
    done = run("adapt", *THRESHOLDS, "--count", 8)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "adapted exists; choose another --output, go on with --resume, or replace it with --force" in done.err


@pytest.mark.slow
def test_a_bundle_of_them_is_verified_and_says_what_its_counts_are_of(run: Run, desk: Path) -> None:
    run("adapt", *THRESHOLDS, "--count", 8, "--epochs", 1)
    assert run("export", *THRESHOLDS[2:], "--adapted", "adapted", "--output", "bundle").code == 0
    assert run("verify", "bundle").code == 0
    assert "counts taken of 8 images (drawn scenes)" in " ".join(run("inspect", "bundle").out.split())


def test_a_reducer_without_thresholds_is_refused(run: Run, desk: Path) -> None:
    done = run("adapt", "--kind", "thresholds", "--method", "tome", "--encoder-cost", 0.6)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "thresholds are of adaptive_sparse, got --inside tome" in done.err
