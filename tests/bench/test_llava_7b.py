"""The numbers that edgeprune promises, on an encoder of the size people deploy. `make bench`; about ten minutes.

CLIP ViT-L/14-336 with LLaVA-1.5's projector, seeded weights, 64 of 576 tokens, ONNX Runtime, two CPU threads.
Ratios are of medians of runs that took turns in one process, with equal settings on both sides.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from edgeprune.bundle import load as load_bundle
from edgeprune.cli.tables.ledger import ledger_table
from edgeprune.export import Request, export_bundle
from edgeprune.runtime.ledger.bench import Ledger, bench
from edgeprune.runtime.parity.verify import verify

THREADS = 2
GIB = 1 << 30
REPEATS, ROUNDS = 3, 5


@dataclass(frozen=True)
class Measured:
    folder: Path
    seconds: float
    peak_nbytes: int


@pytest.fixture(scope="session")
def exported(llava_7b_folder: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """The whole command, as a process of its own, from a folder without the language model's shards."""
    model = llava_7b_folder(tmp_path_factory.mktemp("llava-7b") / "model")
    folder = model.parent / "bundle"
    command = [sys.executable, "-m", "edgeprune", "export", "--method", "fastervlm", "--keep", "64"]
    start = time.perf_counter()
    subprocess.run([*command, "--model", str(model), "--output", str(folder)], check=True)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return Measured(folder, seconds, peak)


@pytest.fixture(scope="session")
def ledgers(exported: Measured) -> list[Ledger]:
    print(f"export: {exported.seconds:.1f} s, peak {exported.peak_nbytes / GIB:.2f} GiB")
    found = [bench(exported.folder, threads=THREADS, rounds=ROUNDS) for _ in range(REPEATS)]
    Console().print(ledger_table(found[0]))
    return found


def test_multiply_adds_are_within_one_per_cent_of_the_formula(exported: Measured) -> None:
    cost = load_bundle(exported.folder).manifest.cost
    print(json.dumps(cost))
    assert cost["graph"] / cost["formula"] == pytest.approx(1, abs=0.01)
    assert cost["formula"] / cost["unpruned_formula"] == pytest.approx(0.914, abs=1e-3)


@pytest.mark.parametrize("baseline", ["unpruned", "official"])
def test_pruned_is_at_most_0_93_of_unpruned_and_of_official(
    ledgers: list[Ledger], hold: Callable[..., None], baseline: str
) -> None:
    ratios = [ledger.row("pruned").median_ms / ledger.row(baseline).median_ms for ledger in ledgers]
    hold(f"pruned / {baseline}", ratios, most=0.93)


def test_the_selection_takes_at_most_half_a_per_cent_of_the_run(
    ledgers: list[Ledger], hold: Callable[..., None]
) -> None:
    hold("selection / run", [ledger.parts["selection"] for ledger in ledgers], most=0.005)


def test_parity_holds_on_every_probe_in_float32(exported: Measured) -> None:
    (report,) = verify(exported.folder, device="cpu", threads=THREADS)
    print(report.worst)
    assert report.passed


def test_parity_holds_on_every_probe_in_float16(exported: Measured) -> None:
    request = Request(
        "fastervlm",
        "cpu",
        keep=64,
        model=str(exported.folder.parent / "model"),
        output=exported.folder.parent / "float16",
        precision="float16",
        baselines=False,
    )
    (report,) = export_bundle(request).reports
    print(report.worst)
    assert report.passed
