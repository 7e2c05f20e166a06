"""Which plan fits which machine. What this machine has is written down by hand: a refusal needs no GPU."""

from __future__ import annotations

import dataclasses
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeprune import bundle as bundles
from edgeprune.bundle import Bundle, Plan
from edgeprune.errors import RequestError
from edgeprune.runtime import load
from edgeprune.runtime.backends.plan import Gpu, Have, choose, find_gpu, here, target_of

MakeBundle = Callable[..., Path]

ORIN = Plan("encoder.jetson-orin.plan", "tensorrt", "10.3.0", (87,), "Linux aarch64", ("STRONGLY_TYPED",), 1000)
RTX = Plan("encoder.rtx-desktop.plan", "tensorrt-rtx", "1.7.1.116", (86, 89, 120), "Linux x86_64", (), 1000)
L4 = Plan("encoder.datacenter.plan", "tensorrt", "10.16.1.11", (89,), "Linux x86_64", ("STRONGLY_TYPED",), 1000)

A_JETSON = Have({"tensorrt": "10.3.0"}, {}, Gpu(87, "Orin", 12), "Linux aarch64")
A_PC = Have({"tensorrt": "10.16.1.11", "tensorrt-rtx": "1.7.1.116"}, {}, Gpu(89, "NVIDIA L4", 13), "Linux x86_64")


@pytest.fixture
def with_plans(make_bundle: MakeBundle) -> Callable[..., Bundle]:
    """with_plans(**{"jetson-orin": engine}) -> the bundle with these plans."""

    def make(engines: dict[str, Plan], **fields: Any) -> Bundle:
        folder = make_bundle(**fields)
        for target, engine in engines.items():
            bundles.add_engine(bundles.load(folder), target, engine, b"plan of " + target.encode())
        return bundles.load(folder)

    return make


def refusal(bundle: Bundle, have: Have) -> str:
    with pytest.raises(RequestError) as refused:
        choose(bundle, have)
    text = str(refused.value).replace(str(bundle.folder), "BUNDLE")
    assert "\n" not in text
    return text


def test_the_plan_that_fits_is_chosen_among_those_that_do_not(with_plans: Callable[..., Bundle]) -> None:
    bundle = with_plans({"rtx-desktop": RTX, "jetson-orin": ORIN, "datacenter": L4})
    assert choose(bundle, A_JETSON) == ORIN
    assert target_of(bundle, ORIN) == "jetson-orin"


def test_the_plan_that_was_timed_on_its_gpu_goes_before_the_portable_one(with_plans: Callable[..., Bundle]) -> None:
    both = with_plans({"rtx-desktop": RTX, "datacenter": L4})
    assert choose(both, A_PC) == L4
    assert choose(both, dataclasses.replace(A_PC, versions={"tensorrt-rtx": "1.7.1.116"})) == RTX


def test_of_two_plans_that_fit_the_bundles_own_target_wins(with_plans: Callable[..., Bundle]) -> None:
    mine = dataclasses.replace(L4, plan="encoder.mine.plan")
    assert choose(with_plans({"datacenter": L4, "mine": mine}, target="mine"), A_PC) == mine
    assert choose(with_plans({"datacenter": L4, "mine": mine}, target="cpu"), A_PC) == L4


def test_a_plan_of_tensorrt_rtx_runs_on_another_system(with_plans: Callable[..., Bundle]) -> None:
    bundle = with_plans({"rtx-desktop": RTX})
    assert choose(bundle, dataclasses.replace(A_PC, system="Windows AMD64")) == RTX


def test_a_plan_for_another_gpu_is_refused_with_the_targets_that_have_this_one(
    with_plans: Callable[..., Bundle],
) -> None:
    h100 = dataclasses.replace(A_PC, gpu=Gpu(90, "NVIDIA H100", 13))
    assert refusal(with_plans({"rtx-desktop": RTX}), h100) == (
        "device tensorrt finds no plan in BUNDLE that fits this machine: encoder.rtx-desktop.plan is for SM 86, 89 or "
        "120, the GPU here has SM 90; build one for SM 90: `edgeprune build BUNDLE --target datacenter`"
    )


def test_a_plan_built_for_fewer_gpus_than_its_target_has_is_built_again(with_plans: Callable[..., Bundle]) -> None:
    narrow = dataclasses.replace(RTX, sm=(86,))
    text = refusal(with_plans({"rtx-desktop": narrow}, target="rtx-desktop"), A_PC)
    assert "is for SM 86, the GPU here has SM 89" in text
    assert "`edgeprune build BUNDLE --target rtx-desktop --force` (or datacenter" in text


def test_a_gpu_that_no_target_has_is_said_so(with_plans: Callable[..., Bundle]) -> None:
    pascal = dataclasses.replace(A_PC, gpu=Gpu(61))
    assert "no target has SM 61: write one" in refusal(with_plans({"rtx-desktop": RTX}), pascal)


def test_a_plan_of_another_release_is_refused(with_plans: Callable[..., Bundle]) -> None:
    newer = dataclasses.replace(A_JETSON, versions={"tensorrt": "10.7.0"})
    assert refusal(with_plans({"jetson-orin": ORIN}), newer) == (
        "device tensorrt finds no plan in BUNDLE that fits this machine: encoder.jetson-orin.plan was built by "
        "tensorrt 10.3.0, here is 10.7.0; "
        "build it again: `edgeprune build BUNDLE --target jetson-orin --force`, or install 10.3.0"
    )


def test_a_plan_of_another_system_is_refused(with_plans: Callable[..., Bundle]) -> None:
    text = refusal(with_plans({"jetson-orin": ORIN}), dataclasses.replace(A_PC, gpu=Gpu(87)))
    assert (
        "encoder.jetson-orin.plan was built on Linux aarch64, this is Linux x86_64; build one on this machine" in text
    )


def test_a_machine_without_a_gpu_is_told_what_the_plan_needs(with_plans: Callable[..., Bundle]) -> None:
    none = dataclasses.replace(A_PC, gpu=Gpu(None, why_not="there is no NVIDIA driver (libcuda.so.1)"))
    assert refusal(with_plans({"rtx-desktop": RTX}), none).endswith(
        "encoder.rtx-desktop.plan needs a GPU of SM 86, 89 or 120, and there is no NVIDIA driver (libcuda.so.1); "
        "run it where there is one, or use --device cpu"
    )


@pytest.mark.parametrize(
    ("target", "engine", "have", "remedy"),
    [
        ("rtx-desktop", RTX, A_PC, "pip install 'edgeprune[rtx]' tensorrt-rtx-cu13==1.7.1.116"),
        ("datacenter", L4, A_PC, "pip install 'edgeprune[tensorrt]' tensorrt==10.16.1.11"),
        ("jetson-orin", ORIN, A_JETSON, "JetPack 6.1-6.2.2 brings it: python3 -m venv --system-site-packages"),
    ],
)
def test_a_missing_package_comes_with_how_to_install_it(
    with_plans: Callable[..., Bundle], target: str, engine: Plan, have: Have, remedy: str
) -> None:
    without = dataclasses.replace(have, versions={}, missing={engine.kind: "the Python package x, which is not there"})
    text = refusal(with_plans({target: engine}), without)
    assert (
        f"{engine.plan} needs the Python package x, which is not there, in version {engine.version}; {remedy}" in text
    )


def test_every_plan_is_named_and_the_remedy_is_that_of_the_nearest(with_plans: Callable[..., Bundle]) -> None:
    older = dataclasses.replace(L4, version="10.13.3.9")
    text = refusal(
        with_plans({"jetson-orin": ORIN, "rtx-desktop": dataclasses.replace(RTX, sm=(120,)), "datacenter": older}),
        A_PC,
    )
    for plan in ("encoder.jetson-orin.plan was", "encoder.rtx-desktop.plan is", "encoder.datacenter.plan was"):
        assert plan in text
    assert text.endswith("build it again: `edgeprune build BUNDLE --target datacenter --force`, or install 10.13.3.9")


def test_a_plan_of_a_kind_from_the_future_is_refused(with_plans: Callable[..., Bundle]) -> None:
    other = dataclasses.replace(RTX, kind="tensorrt-lite")
    assert "of the kind tensorrt-lite, which this edgeprune does not know; upgrade edgeprune" in refusal(
        with_plans({"rtx-desktop": other}), A_PC
    )


def test_a_bundle_without_a_plan_says_how_to_make_one(make_bundle: MakeBundle) -> None:
    bundle = bundles.load(make_bundle())
    assert refusal(bundle, A_PC) == "BUNDLE has no plan for device tensorrt; make one with `edgeprune build BUNDLE`"


def test_a_plan_that_the_manifest_does_not_list_is_to_be_taken_in(make_bundle: MakeBundle) -> None:
    folder = make_bundle()
    (folder / "encoder.jetson-orin.plan").write_bytes(b"plan")
    assert refusal(bundles.load(folder), A_JETSON) == (
        "BUNDLE has encoder.jetson-orin.plan, but its manifest does not list it; "
        "take it in with `edgeprune build BUNDLE --adopt BUNDLE/encoder.jetson-orin.plan`"
    )


def test_a_package_that_is_not_installed_is_told_from_one_that_lacks_its_libraries(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    (tmp_path / "tensorrt_rtx.py").write_text(
        "raise ImportError('libtensorrt_rtx.so.1: cannot open shared object file')\n"
    )
    monkeypatch.delitem(sys.modules, "tensorrt_rtx", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    found = here(["tensorrt", "tensorrt-rtx"])
    assert found.versions == {}
    assert found.missing["tensorrt"] == "the Python package tensorrt, which is not installed"
    assert "cannot be imported (libtensorrt_rtx.so.1: cannot open shared object file)" in found.missing["tensorrt-rtx"]


def test_this_machine_is_named_as_build_names_it() -> None:
    assert here([]).system == f"{platform.system()} {platform.machine()}"


class Driver:
    """The CUDA driver's interface, by its documented functions: an Orin with CUDA 12.6."""

    def __init__(self, failing: str = "") -> None:
        self.failing = failing

    def cuInit(self, flags: int) -> int:
        return 100 if self.failing == "cuInit" else 0

    def cuDriverGetVersion(self, version: Any) -> int:
        version._obj.value = 12060
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: int) -> int:
        value._obj.value = {75: 8, 76: 7}[attribute]
        return 101 if self.failing == "cuDeviceGetAttribute" else 0

    def cuDeviceGetName(self, name: Any, length: int, device: int) -> int:
        name.value = b"Orin"
        return 0


def test_the_driver_says_which_gpu_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda name: Driver())
    assert find_gpu() == Gpu(87, "Orin", 12)


@pytest.mark.parametrize("failing", ["cuInit", "cuDeviceGetAttribute"])
def test_a_driver_without_a_gpu_is_told_from_no_driver(monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda name: Driver(failing))
    assert find_gpu().sm is None
    assert f"the NVIDIA driver shows none ({failing} returns" in find_gpu().why_not

    def absent(name: str) -> SimpleNamespace:
        raise OSError(name)

    monkeypatch.setattr("ctypes.CDLL", absent)
    assert "there is no NVIDIA driver" in find_gpu().why_not


@pytest.mark.skipif(find_gpu().sm is not None, reason="a GPU is here")
def test_load_refuses_a_plan_on_a_machine_without_a_gpu(with_plans: Callable[..., Bundle]) -> None:
    mine = dataclasses.replace(ORIN, system=f"{platform.system()} {platform.machine()}")
    with pytest.raises(RequestError, match=r"encoder\.jetson-orin\.plan needs a GPU of SM 87, and .*use --device cpu"):
        load(with_plans({"jetson-orin": mine}).folder, device="tensorrt")
