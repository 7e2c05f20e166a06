"""Which targets a machine can do, on machines that are made up, and a remedy for each thing that is missing."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from edgeprune import targets
from edgeprune.doctor.abilities import judge
from edgeprune.doctor.machine import Machine, Module
from edgeprune.doctor.packages import Package
from edgeprune.doctor.report import Report, report_of

EVERY = [targets.load(name) for name in targets.names()]
CPU = Module("1.24.0", ("CPUExecutionProvider",))
CUDA = Module("1.24.0", ("CUDAExecutionProvider", "CPUExecutionProvider"))
BARE = Machine("3.10.12 (python)", "Linux x86_64", "a CPU", (3.0, 4.0), 50.0, gpu="there is no NVIDIA driver")
ORIN = replace(
    BARE,
    system="Linux aarch64",
    sm=87,
    gpu="Orin",
    cuda=12,
    board=("NVIDIA Jetson Orin NX", "36.4.3", "6.2"),
    modules={"tensorrt": Module("10.3.0")},
    trtexec={"path": "/usr/src/tensorrt/bin/trtexec", "version": "10.3.0"},
)
RTX = replace(BARE, sm=89, gpu="RTX 4090", cuda=13, modules={"tensorrt_rtx": Module("1.7.1.116"), "onnxruntime": CUDA})
BASE = [Package("numpy", "1.26.4", {"base": ">=1.22"})]
EXPORT = [*BASE, Package("torch", "2.12.0", {"export": ">=2.11,<2.14"})]
NO_TORCH = [*BASE, Package("torch", None, {"export": ">=2.11,<2.14"})]


def remedies(report: Report) -> dict[str, str]:
    return {one.what: one.remedy for one in report.missing}


def test_a_workstation_exports_for_all_and_runs_on_its_cpu() -> None:
    found = report_of(replace(BARE, modules={"onnxruntime": CPU}), EXPORT, EVERY)
    assert found.able("export") == targets.names()
    assert found.able("run") == ["cpu", "web"]
    assert found.able("build") == []
    assert found.can


def test_a_board_builds_and_runs_its_own_target_without_torch() -> None:
    found = report_of(ORIN, NO_TORCH, EVERY)
    assert (found.able("export"), found.able("build"), found.able("run")) == ([], ["jetson-orin"], ["jetson-orin"])
    assert found.facts["Jetson"] == "NVIDIA Jetson Orin NX, L4T 36.4.3, JetPack 6.2"
    assert remedies(found)["torch is not installed"] == "pip install 'edgeprune[export]'"
    (jp51,) = (one for one in found.targets if one.name == "jetson-orin-jp51")
    assert jp51.run.obstacle is not None
    assert jp51.run.obstacle.what == "TensorRT must be >=8.5,<8.6, here is 10.3.0"


def test_a_board_without_the_python_package_builds_by_trtexec_and_cannot_run() -> None:
    found = report_of(replace(ORIN, modules={}), NO_TORCH, EVERY)
    assert found.able("build") == ["jetson-orin"]
    assert found.able("run") == []
    assert "install JetPack 6.1-6.2.2, then" in remedies(found)["TensorRT >=10.3,<10.4 must be installed"]


def test_an_rtx_card_runs_its_plans_and_onnx_runtime_with_cuda() -> None:
    found = report_of(RTX, EXPORT, EVERY)
    assert found.able("run") == ["cpu", "ort-cuda", "rtx-desktop", "web"]
    assert {"rtx-desktop", "rtx-turing"} <= {*found.able("build")}
    assert "the GPU must have SM 75, RTX 4090 has 89" in remedies(found)


def test_an_onnx_runtime_without_cuda_is_to_be_swapped() -> None:
    found = remedies(report_of(replace(RTX, modules={"onnxruntime": CPU}), EXPORT, EVERY))
    assert found["ONNX Runtime must have CUDAExecutionProvider, it has CPUExecutionProvider"] == (
        "pip uninstall onnxruntime && pip install 'edgeprune[cuda]'"
    )


def test_cuda_bindings_that_do_not_fit_the_driver_keep_a_plan_from_running() -> None:
    why = (
        "device tensorrt needs a package cuda-bindings of CUDA 12, it is of CUDA 13; pip install 'cuda-bindings==12.*'"
    )
    found = report_of(replace(ORIN, no_cuda=why), NO_TORCH, EVERY)
    assert found.able("run") == []
    assert remedies(found)[why.rpartition("; ")[0]] == "pip install 'cuda-bindings==12.*'"


@pytest.mark.parametrize("name", ["onnxruntime", "tensorrt_rtx"])
def test_a_broken_package_is_a_finding(name: str) -> None:
    broken = replace(RTX, modules={**RTX.modules, name: Module(error="ImportError: libnvrtc.so.13")})
    assert [what for what in remedies(report_of(broken, EXPORT, EVERY)) if "cannot be imported: ImportError" in what]


def test_what_blocks_several_targets_is_said_once() -> None:
    found = report_of(BARE, NO_TORCH, EVERY)
    for obstacle, what in found.missing.items():
        if obstacle.what == "torch is not installed":
            assert what == ("export: every target",)


def test_where_nothing_can_be_done_it_says_so() -> None:
    found = report_of(BARE, NO_TORCH, EVERY)
    assert not found.can
    assert remedies(found)["ONNX Runtime >=1.18 must be installed"] == "pip install 'edgeprune[cpu]'"


def test_a_base_that_does_not_fit_is_in_the_way_of_everything() -> None:
    old = [Package("numpy", "1.19.0", {"base": ">=1.22"}), *EXPORT[1:]]
    found = report_of(RTX, old, EVERY)
    assert not found.can
    assert remedies(found) == {"numpy must be >=1.22, here is 1.19.0": "pip install edgeprune"}


GENERAL: dict[str, tuple[Machine, list[Package], str, str]] = {
    "an extra out of range": (
        BARE,
        [*EXPORT, Package("polygraphy", "0.40", {"polygraphy": ">=0.49.26"})],
        "polygraphy must be >=0.49.26, here is 0.40",
        "pip install 'polygraphy>=0.49.26'",
    ),
    "both of one module": (
        BARE,
        [*EXPORT, Package("onnxruntime", "1", {"cpu": ""}), Package("onnxruntime-gpu", "1", {"cuda": ""})],
        "onnxruntime and onnxruntime-gpu are both installed, and are the same module",
        "pip uninstall onnxruntime onnxruntime-gpu, then install one",
    ),
    "a wrong $TRTEXEC": (
        replace(BARE, trtexec={"error": "TRTEXEC must be the path of trtexec, there is no program at x; unset it"}),
        EXPORT,
        "TRTEXEC must be the path of trtexec, there is no program at x",
        "unset it",
    ),
    "a broken runtime": (
        replace(BARE, broken="ImportError: numpy"),
        EXPORT,
        "the runtime cannot be imported: ImportError: numpy",
        "pip install --force-reinstall edgeprune",
    ),
}


@pytest.mark.parametrize("what", GENERAL)
def test_what_is_wrong_whatever_it_is_for(what: str) -> None:
    machine, packages, says, remedy = GENERAL[what]
    assert remedies(report_of(machine, packages, EVERY))[says] == remedy


def test_an_extra_that_nothing_describes_is_not_taken_for_complete() -> None:
    assert not judge(EVERY[0], RTX, []).export.can


def test_it_can_be_written_as_json() -> None:
    found: dict[str, Any] = json.loads(json.dumps(report_of(ORIN, NO_TORCH, EVERY).to_json()))
    assert found.keys() == {"can", "facts", "packages", "targets", "missing"}
    assert found["targets"]["jetson-orin"] == {"export": False, "build": True, "run": True}
    assert found["targets"]["cpu"]["build"] is None
    assert {"what", "remedy", "for"} == found["missing"][0].keys()
    assert [one["problem"] for one in found["packages"]] == ["", "torch is not installed"]
