"""The ledger: fair turns, right ratios, and shares that add up. Figures themselves are measured in tests/bench; here a
run takes what a clock of the test says.
"""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from edgeprune.cli.tables.ledger import ledger_line, ledger_table
from edgeprune.errors import RequestError
from edgeprune.export import Exported
from edgeprune.runtime.ledger import bench as module
from edgeprune.runtime.ledger.bench import Ledger, bench, measure, part_shares

SECONDS = {"encoder": 0.1, "unpruned": 0.2, "official": 0.25, "pool": 0.16, "matmul": 0.5}
STEADY = (1.0, 1.01, 1.02, 0.99, 1.01)
Clock = Any


def clock(restless: Mapping[str, Any] | None = None) -> Clock:
    """A run of a graph takes its SECONDS times the next of STEADY, or of what `restless` has for it."""
    given = {**dict.fromkeys(SECONDS, STEADY), **(restless or {})}
    factors: dict[str, Iterator[float]] = {name: itertools.cycle(one) for name, one in given.items()}

    def run(session: Any, feeds: Any) -> float:
        name = session.source.removeprefix("baseline.").removesuffix(".onnx")
        return SECONDS[name] * next(factors[name])

    return run


@pytest.fixture(scope="module")
def folder(exported_once: Callable[..., Exported]) -> Path:
    return exported_once("fastervlm", "cpu", keep=64).folder


@pytest.fixture(scope="module")
def ledger(folder: Path) -> Ledger:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "_time", clock())
        return bench(folder, threads=1, rounds=10)


def shown(ledger: Ledger) -> str:
    text = io.StringIO()
    Console(file=text, width=80).print(ledger_table(ledger))
    return text.getvalue()


def test_the_pruned_encoder_stands_beside_unpruned_official_and_pooling(ledger: Ledger) -> None:
    assert [row.name for row in ledger.rows] == ["pruned", "unpruned", "official", "pool"]
    assert ledger.rounds == 10
    assert ledger.threads == 1


def test_ratios_are_those_of_the_medians(ledger: Ledger) -> None:
    pruned = ledger.row("pruned")
    assert pruned.ratio == 1
    for row in ledger.rows:
        assert row.ratio == pytest.approx(pruned.median_ms / row.median_ms)
        assert 0 < row.median_ms <= row.p95_ms <= row.p99_ms
    assert ledger_line(ledger) == "pruned takes 101.00 ms on cpu: 0.500 of unpruned, 0.400 of official, 0.625 of pool"


def test_a_ratio_stands_beside_the_interval_in_which_it_lies(ledger: Ledger) -> None:
    row = ledger.row("pool")
    assert row.ratio is not None
    assert row.interval is not None
    assert row.interval[0] <= row.ratio <= row.interval[1]
    assert f"{row.interval[0]:.3f}-{row.interval[1]:.3f}" in shown(ledger)
    assert ledger.row("pruned").interval is None


def test_a_ratio_that_the_runs_do_not_bear_out_is_not_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_time", clock({"unpruned": (1, 1, 1, 1.5)}))
    ledger = bench(folder, rounds=12, against=["unpruned", "pool"])
    row = ledger.row("unpruned")
    assert row.ratio is None
    assert row.doubt == "the machine is restless: p95 of unpruned is 1.50 times its median"
    assert f"No ratio to unpruned: {row.doubt}." in " ".join(shown(ledger).split())
    line = ledger_line(ledger)
    assert ledger.row("pool").ratio is not None
    assert f"{ledger.row('pool').ratio:.3f} of pool; too unsteady for a ratio to unpruned: close what else" in line
    assert json.loads(json.dumps(ledger.to_json()))["rows"][1]["ratio"] is None


@pytest.mark.slow
def test_without_a_baseline_there_is_no_ratio_to_itself(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_time", clock())
    ledger = bench(folder, rounds=6, against=[])
    assert "/ this" not in shown(ledger)
    assert "1.000" not in shown(ledger)
    assert ledger_line(ledger) == "pruned takes 101.00 ms on cpu; there is no baseline to compare with"
    monkeypatch.setattr(module, "_time", clock({"encoder": (1, 1, 1, 1.5)}))
    assert ledger_line(bench(folder, rounds=20, against=[])) == (
        "pruned takes 100.00 ms on cpu, 95 % of the runs within 1.50 times that; there is no baseline to compare with"
    )


class Graph:
    """What is measured: only its name is asked for."""

    def __init__(self, source: str) -> None:
        self.source = source


@pytest.mark.parametrize(
    ("settles_at", "given", "rounds"), [(0, None, 40), (80, None, 80), (999, None, 120), (999, 5, 5)]
)
def test_it_measures_longer_where_a_ratio_is_not_settled(
    monkeypatch: pytest.MonkeyPatch, settles_at: int, given: int | None, rounds: int
) -> None:
    monkeypatch.setattr(module, "_time", lambda session, feeds: 0.25)
    told: list[tuple[int, int, str]] = []
    graphs: Any = {"pruned": Graph("encoder.onnx"), "unpruned": Graph("baseline.unpruned.onnx")}
    times = measure(
        graphs, {name: {} for name in graphs}, given, lambda *at: told.append(at),
        enough=lambda times: len(times["pruned"]) >= settles_at,
    )  # fmt: skip
    assert {len(seconds) for seconds in times.values()} == {rounds}
    assert [at for at, *_ in told] == list(range(rounds))
    assert {what for at, _, what in told if at >= 40} <= {"measure longer"}


def test_the_peak_is_the_matrix_product_of_the_same_run(ledger: Ledger) -> None:
    assert ledger.peak_gmacs is not None
    for row in ledger.rows:
        assert row.peak_fraction == pytest.approx(row.multiply_adds / row.median_ms / 1e6 / ledger.peak_gmacs)


def test_multiply_adds_are_the_manifests(folder: Path, ledger: Ledger) -> None:
    cost = json.loads((folder / "manifest.json").read_text())["cost"]
    assert ledger.formula == cost["formula"]
    assert ledger.row("pruned").multiply_adds == cost["graph"]
    assert ledger.row("pool").multiply_adds == cost["pool_graph"]


def test_the_parts_are_a_whole(ledger: Ledger) -> None:
    assert set(ledger.parts) == {"encoder", "selection", "projector"}
    assert sum(ledger.parts.values()) == pytest.approx(1)
    assert min(ledger.parts.values()) > 0


def test_a_kernel_without_a_module_counts_to_the_next_that_has_one() -> None:
    kernels = [("Reorder", 1.0), ("encoder.a/Conv", 3.0), ("copy", 2.0), ("selection/TopK", 2.0), ("end", 2.0)]
    assert part_shares(kernels) == {"encoder": 0.4, "selection": 0.6, "projector": 0}


@pytest.mark.slow
def test_only_the_wanted_baselines_are_measured(folder: Path) -> None:
    found = bench(folder, rounds=1, against=["unpruned"])
    assert [row.name for row in found.rows] == ["pruned", "unpruned"]
    assert found.row("unpruned").doubt == "1 rounds say too little, at least 6 are needed"


def test_it_can_be_written_as_json(ledger: Ledger) -> None:
    assert json.loads(json.dumps(ledger.to_json()))["rows"][0]["name"] == "pruned"


@pytest.mark.slow
def test_progress_is_told(folder: Path) -> None:
    told: list[tuple[int, int, str]] = []
    bench(folder, rounds=2, against=[], progress=lambda *at: told.append(at))
    assert told == [(0, 2, "measure"), (1, 2, "measure"), (2, 2, "profile")]


def test_what_cannot_be_measured_is_refused(folder: Path) -> None:
    with pytest.raises(RequestError, match=r"no baseline 'unprunned' in .*; it has matmul, official, pool, unpruned"):
        bench(folder, against=["unprunned"])
    with pytest.raises(RequestError, match="--rounds must be at least 1, got 0"):
        bench(folder, rounds=0)
