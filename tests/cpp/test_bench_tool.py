"""edgeprune-bench: graphs take turns, and a ratio is told by the rule of Python's ledger."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeprune.runtime.ledger.spread import ratio_of
from tests.brightest import MakeBundle
from tests.cpp.conftest import ROOT

GOLDEN = ROOT / "tests" / "golden"
BUNDLE = GOLDEN / "bundle-0.2"


def bench(cpp: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([cpp / "tools" / "edgeprune-bench", *words], capture_output=True, text=True, check=False)


def test_every_baseline_stands_beside_the_pruned_encoder(cpp: Path) -> None:
    done = bench(cpp, BUNDLE, "--rounds", "7", "--threads", "1", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [row["name"] for row in told["rows"]] == ["pruned", "unpruned", "official", "pool"]
    assert {**told, "rows": [], "versions": {}} == {
        "device": "cpu", "keep": None, "rounds": 7, "rows": [], "source": "encoder.onnx", "threads": 1, "versions": {},
    }  # fmt: skip
    first, *others = told["rows"]
    assert (first["ratio"], first["interval"], first["doubt"]) == (1.0, None, "")
    for row in told["rows"]:
        assert 0 < row["median_ms"] <= row["p95_ms"] <= row["p99_ms"]
    for row in others:
        low, high = row["interval"]
        assert low <= first["median_ms"] / row["median_ms"] <= high
        assert (row["ratio"] is None) == bool(row["doubt"])


def test_one_baseline_a_cut_budget_and_few_rounds(cpp: Path) -> None:
    done = bench(cpp, BUNDLE, "--rounds", "2", "--against", "pool", "--keep", "4")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "encoder.onnx on cpu, 2 rounds"
    assert [line.split()[0] for line in lines[2:4]] == ["pruned", "pool"]
    assert lines[4:] == ["no ratio to pool: 2 rounds say too little, at least 6 are needed"]


def test_a_bundle_without_baselines_is_measured_alone(cpp: Path) -> None:
    done = bench(cpp, GOLDEN / "bundle-0.1", "--rounds", "1", "--json")
    assert [row["name"] for row in json.loads(done.stdout)["rows"]] == ["pruned"]


def test_halves_are_measured_at_once_and_each_alone(cpp: Path, make_bundle: MakeBundle) -> None:
    """Beside each other, or not at all."""
    folder = make_bundle(prior=True, split=True, nested=True, picks=True)
    for words, names, source in (
        (("--split",), ["pruned", "encode", "select"], "encode.onnx and select.onnx"),
        ((), ["pruned"], "encoder.onnx"),
    ):
        done = bench(cpp, folder, "--rounds", "1", "--json", *words)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert ([row["name"] for row in told["rows"]], told["source"]) == (names, source)
    done = bench(cpp, folder, "--split", "--keep", "2")
    assert (done.returncode, done.stdout) == (2, "")
    assert "the halves keep all that the bundle keeps, got a budget of 2" in done.stderr
    done = bench(cpp, BUNDLE, "--split")
    assert (done.returncode, done.stdout) == (2, "")
    assert "export it with --split to encode once and ask often" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--against", "nothing"], "no baseline nothing in the bundle; it has unpruned, official, pool"),
        (["--rounds", "0"], "--rounds must be a whole number of at least 1, got 0"),
        (["--keep", "17"], "must be a whole one in 1..16, got 17"),
        (["--device", "tpu"], "--device must be one of"),
        (["--device", "tensorrt"], "tensorrt"),
    ],
)
def test_what_cannot_be_done_is_one_line(cpp: Path, words: list[str], said: str) -> None:
    done = bench(cpp, BUNDLE, *words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("edgeprune-bench: ")
    assert said in done.stderr


def both(cpp: Path, seconds: NDArray[np.float64], other: NDArray[np.float64]) -> tuple[float, list[float], str]:
    given = " ".join(map(repr, [*seconds.tolist(), *other.tolist()]))
    done = subprocess.run([cpp / "tests" / "spread"], input=given, capture_output=True, text=True, check=True)
    value, interval, doubt = done.stdout.splitlines()
    return float(value), [float(one) for one in interval.split()], doubt


@pytest.mark.parametrize("rounds", [6, 7, 31, 200])
@pytest.mark.parametrize("noise", [0.001, 0.02, 0.2])
def test_a_ratio_is_worth_what_python_says(cpp: Path, rounds: int, noise: float) -> None:
    """The value to the bit; the interval has draws of its own, and differs by less than a fifth of its width."""
    generator = np.random.default_rng(rounds)
    seconds = 0.01 * (1 + noise * np.abs(generator.standard_normal(rounds)))
    other = 0.02 * (1 + noise * np.abs(generator.standard_normal(rounds)))
    value, interval, doubt = both(cpp, seconds, other)
    expected = ratio_of(list(seconds), list(other))
    assert value == expected.value
    assert expected.interval is not None
    np.testing.assert_allclose(interval, expected.interval, atol=0.2 * (expected.interval[1] - expected.interval[0]))
    assert doubt.split()[:3] == expected.doubt.split()[:3]


def test_a_restless_machine_is_named_as_python_names_it(cpp: Path) -> None:
    seconds, other = np.full(20, 0.01), np.full(20, 0.02)
    seconds[::10] = 0.05
    assert both(cpp, seconds, other)[2] == ratio_of(list(seconds), list(other)).doubt
    assert both(cpp, seconds[:5], other[:5])[1:] == ([], "5 rounds say too little, at least 6 are needed")
