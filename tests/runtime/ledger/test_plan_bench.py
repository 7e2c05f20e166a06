"""Timing a plan with trtexec, and what the ledger says of it. The session's own times: test_plan_session.py."""

from __future__ import annotations

import dataclasses
import io
import json
import platform
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from edgeprune import bundle as bundles
from edgeprune import targets
from edgeprune.bundle import Plan
from edgeprune.cli.tables.ledger import ledger_table
from edgeprune.errors import EdgepruneError, RequestError
from edgeprune.runtime.backends import plan as plans
from edgeprune.runtime.backends.plan import Gpu
from edgeprune.runtime.ledger.bench import Ledger, bench
from edgeprune.runtime.ledger.plan_bench import Latency

MakeBundle = Callable[..., Path]

SYSTEM = f"{platform.system()} {platform.machine()}"
ENGINE = Plan("encoder.datacenter.plan", "tensorrt", "10.16.1.11", (89,), SYSTEM, ("STRONGLY_TYPED",), 1000)

# One run after the other, of 3.0, 3.1, ... ms on the GPU and 0.02 ms to start; as many as --iterations asks for.
PROGRAM = """#!/usr/bin/env python3
import json, pathlib, sys
print("&&&& RUNNING TensorRT.trtexec [TensorRT v101601] [b11] #", *sys.argv)
given = dict(one.partition("=")[::2] for one in sys.argv[1:])
if "--help" not in given:
    if pathlib.Path(given["--loadEngine"]).read_bytes() != b"a plan":
        sys.exit("[11/20/2026-12:00:00] [E] Engine deserialization failed")
    runs = [
        {"startEnqMs": 500.0, "endEnqMs": 500.02, "startComputeMs": 500.5 + at, "computeMs": 3 + 0.1 * at}
        for at in range(int(given["--iterations"]))
    ]
    pathlib.Path(given["--exportTimes"]).write_text(json.dumps(runs))
"""


@pytest.fixture
def with_plan(make_bundle: MakeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """with_plan(engine, content) -> a bundle with this plan, on a machine that has an L4, trtexec 10.16.1, no Python
    package tensorrt."""
    program = tmp_path / "trtexec"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    monkeypatch.setenv("TRTEXEC", str(program))
    monkeypatch.setattr(plans, "find_gpu", lambda: Gpu(89, "NVIDIA L4", 13))

    def absent(kind: str) -> None:
        raise ModuleNotFoundError(kind)

    monkeypatch.setattr(plans, "load_package", absent)

    def make(engine: Plan = ENGINE, content: bytes = b"a plan", target: str = "datacenter") -> Path:
        folder = make_bundle(cost={"formula": 2_000_000, "graph": 2_000_000})
        bundles.add_engine(bundles.load(folder), target, engine, content)
        return folder

    return make


def render(ledger: Ledger) -> str:
    text = io.StringIO()
    Console(file=text, width=200).print(ledger_table(ledger, wide=True))
    return text.getvalue()


def test_trtexec_times_a_plan_of_its_release_without_the_python_package(with_plan: Callable[..., Path]) -> None:
    ledger = bench(with_plan(), device="tensorrt", rounds=11)
    assert ledger.plan is not None
    assert (ledger.plan.by, ledger.plan.version, ledger.plan.gpu) == ("trtexec 10.16.1", "10.16.1.11", "NVIDIA L4")
    assert ledger.plan.compute.median_ms == ledger.row("pruned").median_ms == pytest.approx(3.5)
    assert ledger.plan.compute.p99_ms == pytest.approx(3.99)
    assert ledger.plan.enqueue.median_ms == pytest.approx(0.02)
    assert (ledger.rounds, ledger.device, len(ledger.rows)) == (11, "tensorrt", 1)


def test_the_flags_of_the_target_are_used_and_written_down(with_plan: Callable[..., Path]) -> None:
    ledger = bench(with_plan(), device="tensorrt")
    assert ledger.plan
    assert ledger.plan.flags == targets.load("datacenter").bench.flags
    assert ledger.rounds == 200  # as its --iterations says


def test_a_target_of_the_users_own_is_timed_too(with_plan: Callable[..., Path]) -> None:
    ledger = bench(with_plan(target="my-l4"), device="tensorrt", rounds=3)
    assert ledger.plan
    assert "--useCudaGraph" in ledger.plan.flags


def test_trtexec_of_another_release_does_not_count(with_plan: Callable[..., Path]) -> None:
    """Nor would it open the plan; what is missing then is the Python package."""
    with pytest.raises(RequestError, match=r"datacenter\.plan needs the Python package tensorrt, which is not"):
        bench(with_plan(dataclasses.replace(ENGINE, version="10.13.3.9")), device="tensorrt")


def test_a_plan_that_trtexec_cannot_run_is_a_failure(with_plan: Callable[..., Path]) -> None:
    with pytest.raises(EdgepruneError, match=r"cannot time .*: Engine deserialization failed") as failed:
        bench(with_plan(content=b"another"), device="tensorrt", rounds=3)
    assert failed.value.exit_code == 1


def test_the_table_says_what_was_timed_and_how(with_plan: Callable[..., Path]) -> None:
    text = " ".join(render(bench(with_plan(), device="tensorrt", rounds=11)).split())
    for part in (
        "Benchmark: tensorrt, 11 rounds median p95",
        "3.50",
        "encoder.datacenter.plan, tensorrt 10.16.1.11 on NVIDIA L4, by trtexec 10.16.1 --useCudaGraph",
        "GPU compute 3.500 (3.950, 3.990), enqueue 0.020 (0.020, 0.020)",
    ):
        assert part in text
    assert "Time of the pruned graph" not in text


def test_the_ledger_is_json(with_plan: Callable[..., Path]) -> None:
    given = json.loads(json.dumps(bench(with_plan(), device="tensorrt", rounds=3).to_json()))
    assert given["plan"]["compute"]["median_ms"] == pytest.approx(3.1)
    assert (given["plan"]["kind"], given["parts"], given["board"]) == ("tensorrt", {}, None)


def test_progress_is_told_from_the_start_to_the_end(with_plan: Callable[..., Path]) -> None:
    told: list[tuple[int, int, str]] = []
    bench(with_plan(), device="tensorrt", rounds=3, progress=lambda *at: told.append(at))
    assert (told[0], told[-1]) == ((0, 3, "open"), (3, 3, "done"))


def test_percentiles_are_of_all_runs() -> None:
    found = Latency.of([1e-3] * 90 + [11e-3] * 10)
    assert (found.median_ms, found.p95_ms, found.p99_ms) == pytest.approx((1, 11, 11))
