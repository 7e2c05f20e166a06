"""Driving trtexec: its flags, and what it prints and writes. The program is a script that does as its sources say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgeprune import targets
from edgeprune.errors import EdgepruneError, RequestError
from edgeprune.runtime.ledger.trtexec import FLAGS, Trtexec, bench_flags, find_trtexec, parse_times, release_of

# As exportJSONTrace of TensorRT's samples/common/sampleReporting.cpp writes it: release 10.3, three runs.
TIMES = """[
  { "startEnqMs" : 500.1, "endEnqMs" : 500.15, "startH2dMs" : 500.1, "endH2dMs" : 500.1, "startComputeMs" : 500.2, \
"endComputeMs" : 503.2, "startD2hMs" : 503.2, "endD2hMs" : 503.2, "h2dMs" : 0, "computeMs" : 3, "d2hMs" : 0, \
"latencyMs" : 3 }
, { "startEnqMs" : 503.3, "endEnqMs" : 503.33, "startH2dMs" : 503.3, "endH2dMs" : 503.3, "startComputeMs" : 503.4, \
"endComputeMs" : 506.5, "startD2hMs" : 506.5, "endD2hMs" : 506.5, "h2dMs" : 0, "computeMs" : 3.1, "d2hMs" : 0, \
"latencyMs" : 3.1 }
, { "startEnqMs" : 506.6, "endEnqMs" : 506.64, "startH2dMs" : 506.6, "endH2dMs" : 506.6, "startComputeMs" : 506.7, \
"endComputeMs" : 509.9, "startD2hMs" : 509.9, "endD2hMs" : 509.9, "h2dMs" : 0, "computeMs" : 3.2, "d2hMs" : 0, \
"latencyMs" : 3.2 }
]
"""

PROGRAM = """#!/usr/bin/env python3
import pathlib, sys
print("&&&& RUNNING TensorRT.trtexec [TensorRT v100300] [b17] #", *sys.argv)
given = dict(one.partition("=")[::2] for one in sys.argv[1:])
if "--help" in given:
    sys.exit(0)
if pathlib.Path(given["--loadEngine"]).read_bytes() != b"a plan":
    print("[11/20/2026-12:00:00] [E] Error[1]: [stdArchiveReader.cpp::stdArchiveReaderInitCommon::46] Error Code 1: "
          "Serialization (Version tag does not match.)")
    print("[11/20/2026-12:00:00] [E] Engine deserialization failed")
    sys.exit(1)
pathlib.Path(given["--exportTimes"]).write_text(pathlib.Path(__file__).with_name("times.json").read_text())
pathlib.Path(__file__).with_name("asked").write_text(" ".join(sys.argv[1:]))
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "board" / "trtexec"
    path.parent.mkdir()
    path.write_text(PROGRAM)
    path.chmod(0o755)
    path.with_name("times.json").write_text(TIMES)
    return path


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "encoder.jetson-orin.plan"
    path.write_bytes(b"a plan")
    return path


def test_the_gpus_time_and_the_time_to_start_a_run_are_read_apart() -> None:
    timing = parse_times(TIMES, 500)
    assert timing.compute == pytest.approx((3e-3, 3.1e-3, 3.2e-3))
    assert timing.enqueue == pytest.approx((0.05e-3, 0.03e-3, 0.04e-3))


def test_runs_of_the_warm_up_are_left_out() -> None:
    """Release 8.0 writes them, 8.5 and later do not."""
    assert parse_times(TIMES, 505).compute == pytest.approx((3.2e-3,))
    with pytest.raises(EdgepruneError, match="timed no run after its warm-up of 900 ms"):
        parse_times(TIMES, 900)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"computeMs": 1}]', '[{"startComputeMs": "soon"}]', "null"])
def test_times_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(EdgepruneError, match=r"times cannot be read|timed no run"):
        parse_times(text, 0)


@pytest.mark.parametrize(
    ("number", "release"),
    [("8502", "8.5.2"), ("8602", "8.6.2"), ("100300", "10.3.0"), ("101602", "10.16.2"), ("110401", "11.4.1")],
)
def test_the_first_line_says_the_release(number: str, release: str) -> None:
    assert release_of(f"&&&& RUNNING TensorRT.trtexec [TensorRT v{number}] # trtexec --help\n") == release


def test_without_a_first_line_the_release_is_unknown() -> None:
    assert release_of("Segmentation fault\n") == ""


def test_a_plan_is_timed_with_the_flags_that_were_given(program: Path, plan: Path) -> None:
    timing = Trtexec(program, "10.3.0").time(plan, ["--useCudaGraph", "--warmUp=505"])
    assert timing.compute == pytest.approx((3.2e-3,))
    asked = program.with_name("asked").read_text().split()
    assert asked[:3] == [f"--loadEngine={plan}", "--useCudaGraph", "--warmUp=505"]
    assert asked[3].startswith("--exportTimes=")


def test_the_first_error_of_trtexec_is_passed_on(program: Path, plan: Path) -> None:
    plan.write_bytes(b"the plan of another release")
    with pytest.raises(EdgepruneError, match=r"cannot time .*Version tag does not match\.\)$") as failed:
        Trtexec(program, "10.3.0").time(plan, ())
    assert "\n" not in str(failed.value)


def test_a_program_that_writes_no_times_has_failed(program: Path, plan: Path) -> None:
    program.write_text("#!/bin/sh\n")
    with pytest.raises(EdgepruneError, match="it does not say why"):
        Trtexec(program, "10.3.0").time(plan, ())


def test_what_the_environment_names_goes_before_the_path(program: Path, tmp_path: Path) -> None:
    other = tmp_path / "bin" / "trtexec"
    other.parent.mkdir()
    other.write_text(PROGRAM.replace("v100300", "v8602"))
    other.chmod(0o755)
    path = f"{other.parent}{os.pathsep}{os.environ['PATH']}"
    assert find_trtexec(None, {"PATH": path}) == Trtexec(other, "8.6.2")
    assert find_trtexec(None, {"PATH": path, "TRTEXEC": str(program)}) == Trtexec(program, "10.3.0")


def test_the_boards_own_goes_before_the_path(program: Path) -> None:
    orin = targets.load("jetson-orin")
    assert orin.jetson
    board = targets.Jetson(**{**vars(orin.jetson), "trtexec": str(program)})
    target = targets.Target(**{**vars(orin), "jetson": board})
    assert find_trtexec(target, {"PATH": "/nowhere"}) == Trtexec(program, "10.3.0")


def test_without_trtexec_there_is_none() -> None:
    assert find_trtexec(None, {"PATH": "/nowhere"}) is None


def test_a_wrong_trtexec_in_the_environment_is_refused() -> None:
    with pytest.raises(RequestError, match="TRTEXEC must be the path of trtexec, there is no program at /no/trtexec"):
        find_trtexec(None, {"PATH": os.environ["PATH"], "TRTEXEC": "/no/trtexec"})


@pytest.mark.parametrize("name", [name for name in targets.names() if targets.load(name).engine.kind == "tensorrt"])
def test_the_flags_are_the_targets(name: str) -> None:
    target = targets.load(name)
    assert bench_flags(target) == target.bench.flags
    assert {"--useCudaGraph", "--noDataTransfers"} <= {*bench_flags(target)}


def test_a_number_of_rounds_replaces_the_seconds_and_runs() -> None:
    flags = bench_flags(targets.load("jetson-orin"), rounds=30)
    assert flags[-2:] == ("--duration=0", "--iterations=30")
    assert [flag for flag in flags if flag.startswith(("--duration", "--iterations"))] == list(flags[-2:])
    assert "--warmUp=500" in flags


def test_a_target_of_the_users_own_gets_flags_too() -> None:
    assert bench_flags(None) == FLAGS
