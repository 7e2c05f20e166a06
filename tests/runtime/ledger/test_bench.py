"""The ledger: fair turns, right ratios, and shares that add up. Figures themselves are measured in tests/bench."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeprune.errors import RequestError
from edgeprune.export import Request, export_bundle
from edgeprune.runtime.ledger.bench import Ledger, bench, part_shares


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_bundle(Request("fastervlm", "cpu", keep=64, output=tmp_path_factory.mktemp("bench") / "out")).folder


@pytest.fixture(scope="module")
def ledger(folder: Path) -> Ledger:
    return bench(folder, threads=1, rounds=5)


def test_the_pruned_encoder_stands_beside_unpruned_naive_and_pooling(ledger: Ledger) -> None:
    assert [row.name for row in ledger.rows] == ["pruned", "unpruned", "naive", "pool"]
    assert ledger.rounds == 5
    assert ledger.threads == 1


def test_ratios_are_those_of_the_medians(ledger: Ledger) -> None:
    pruned = ledger.row("pruned")
    assert pruned.ratio == 1
    for row in ledger.rows:
        assert row.ratio == pytest.approx(pruned.median_ms / row.median_ms)
        assert 0 < row.median_ms <= row.p95_ms <= row.p99_ms


def test_the_peak_is_the_matrix_product_of_the_same_run(ledger: Ledger) -> None:
    assert ledger.peak_gmacs is not None
    for row in ledger.rows:
        assert row.peak_fraction == pytest.approx(row.multiply_adds / row.median_ms / 1e6 / ledger.peak_gmacs)


def test_multiply_adds_are_the_manifests(folder: Path, ledger: Ledger) -> None:
    cost = json.loads((folder / "manifest.json").read_text())["cost"]
    assert ledger.formula == cost["formula"]
    assert ledger.row("pruned").multiply_adds == cost["graph"]
    assert ledger.row("pool").multiply_adds == cost["pool_graph"]


def test_the_parts_are_a_whole_and_the_encoder_is_most_of_it(ledger: Ledger) -> None:
    assert set(ledger.parts) == {"encoder", "selection", "projector"}
    assert sum(ledger.parts.values()) == pytest.approx(1)
    assert ledger.parts["encoder"] > 0.5
    assert ledger.parts["selection"] > 0


def test_a_kernel_without_a_module_counts_to_the_next_that_has_one() -> None:
    kernels = [("Reorder", 1.0), ("encoder.a/Conv", 3.0), ("copy", 2.0), ("selection/TopK", 2.0), ("end", 2.0)]
    assert part_shares(kernels) == {"encoder": 0.4, "selection": 0.6, "projector": 0}


def test_only_the_wanted_baselines_are_measured(folder: Path) -> None:
    found = bench(folder, rounds=1, against=["unpruned"])
    assert [row.name for row in found.rows] == ["pruned", "unpruned"]


def test_it_can_be_written_as_json(ledger: Ledger) -> None:
    assert json.loads(json.dumps(ledger.to_json()))["rows"][0]["name"] == "pruned"


def test_progress_is_told(folder: Path) -> None:
    told: list[tuple[int, int, str]] = []
    bench(folder, rounds=2, against=[], progress=lambda *at: told.append(at))
    assert told == [(0, 2, "measure"), (1, 2, "measure"), (2, 2, "profile")]


def test_what_cannot_be_measured_is_refused(folder: Path) -> None:
    with pytest.raises(RequestError, match=r"no baseline 'unprunned' in .*; it has matmul, naive, pool, unpruned"):
        bench(folder, against=["unprunned"])
    with pytest.raises(RequestError, match="--rounds must be at least 1, got 0"):
        bench(folder, rounds=0)
