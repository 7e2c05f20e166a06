"""`edgeprune bench`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Done = Any
Run = Callable[..., Any]
Said = Callable[..., str]


@pytest.mark.slow
def test_bench_prints_a_ledger(run: Run, exported: tuple[Path, Done]) -> None:
    done = run("bench", exported[0], "--rounds", 2, "--threads", 1)
    assert (done.code, done.err) == (0, "")
    assert "Benchmark: cpu, 2 rounds, threads 1" in done.out
    assert done.out.endswith("there is no baseline to compare with\n")


def test_bench_names_the_baselines_that_there_are(run: Run, exported: tuple[Path, Done], said: Said) -> None:
    assert said(run("bench", exported[0], "--against", "nothing")) == (
        f"no baseline 'nothing' in {exported[0]}; it has none"
    )


def test_bench_measures_another_bundle_in_turns(run: Run, exported: tuple[Path, Done], tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.symlink_to(exported[0], target_is_directory=True)
    done = run("bench", exported[0], "--rounds", 7, "--threads", 1, "--against", other, "--json")
    assert (done.code, done.err) == (0, "")
    rows = json.loads(done.out)["rows"]
    assert [row["name"] for row in rows] == ["pruned", exported[0].resolve().name]
    assert rows[0]["multiply_adds"] == rows[1]["multiply_adds"]


def test_bench_says_of_a_folder_that_is_no_bundle_what_it_lacks(
    run: Run, exported: tuple[Path, Done], tmp_path: Path, said: Said
) -> None:
    assert "manifest.json" in said(run("bench", exported[0], "--against", f"{tmp_path}/nothing"))


def test_bench_cuts_to_a_smaller_budget(run: Run, exported: tuple[Path, Done]) -> None:
    done = run("bench", exported[0], "--rounds", 2, "--threads", 1, "--keep", 16)
    assert (done.code, done.err) == (0, "")
    assert "cut to 16 tokens" in " ".join(done.out.split())
