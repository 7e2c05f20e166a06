"""`edgeprune bench`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

Done = Any
Run = Callable[..., Any]
Said = Callable[..., str]


def test_bench_prints_a_ledger(run: Run, exported: tuple[Path, Done]) -> None:
    done = run("bench", exported[0], "--rounds", 2, "--threads", 1)
    assert (done.code, done.err) == (0, "")
    assert "Benchmark: cpu, 2 rounds, threads 1" in done.out
    assert done.out.endswith("there is no baseline to compare with\n")


def test_bench_names_the_baselines_that_there_are(run: Run, exported: tuple[Path, Done], said: Said) -> None:
    assert said(run("bench", exported[0], "--against", "nothing")) == (
        f"no baseline 'nothing' in {exported[0]}; it has none"
    )


def test_bench_cuts_to_a_smaller_budget(run: Run, exported: tuple[Path, Done]) -> None:
    done = run("bench", exported[0], "--rounds", 2, "--threads", 1, "--keep", 16)
    assert (done.code, done.err) == (0, "")
    assert "cut to 16 tokens" in " ".join(done.out.split())
