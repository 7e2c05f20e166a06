"""Which executor `load` takes by itself, and what it says of those that it passed over."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeprune.bundle import Bundle
from edgeprune.errors import BundleError, MissingPackageError, RequestError
from edgeprune.runtime import load
from edgeprune.runtime.backends import plan as plans
from edgeprune.runtime.backends.plan import Gpu
from tests.fake_gpu import ENGINE, Device

MakeBundle = Callable[..., Path]
NO_DRIVER = Gpu(None, why_not="there is no NVIDIA driver (libcuda.so.1)")


@pytest.fixture
def built_with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeprune.runtime.devices.available_devices", lambda: ["cpu", "cuda"])


@pytest.fixture
def built_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeprune.runtime.devices.available_devices", lambda: ["cpu"])


def test_a_plan_that_fits_is_taken_and_nothing_was_passed_over(device: Device) -> None:
    with load(device.bundle()) as encoder:
        assert (encoder.device, encoder.passed_over) == ("tensorrt", {})
        assert repr(encoder) == "<TokenEncoder: brightest keeps 5 of 24 tokens (21%), tensorrt>"


@pytest.mark.usefixtures("built_without_cuda")
def test_a_plan_that_does_not_fit_is_passed_over_with_what_it_does_not_fit(device: Device) -> None:
    encoder = load(device.bundle(dataclasses.replace(ENGINE, version="10.7.0")))
    assert encoder.device == "cpu"
    assert "was built by tensorrt 10.7.0, here is 10.3.0" in encoder.passed_over["tensorrt"]
    assert encoder.passed_over["cuda"] == "this ONNX Runtime was built without CUDA"


@pytest.mark.usefixtures("built_without_cuda")
def test_its_name_says_what_it_runs_on_and_why_on_nothing_better(make_bundle: MakeBundle) -> None:
    assert repr(load(make_bundle())).endswith(
        ", cpu; not tensorrt: the bundle has no plan; not cuda: this ONNX Runtime was built without CUDA>"
    )


@pytest.mark.usefixtures("built_with_cuda")
def test_without_a_gpu_cuda_is_not_even_tried(make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime would open the graph on the CPU, and tell afterwards."""
    monkeypatch.setattr(plans, "find_gpu", lambda: NO_DRIVER)
    monkeypatch.setattr("edgeprune.runtime.devices.open_encoder", only_on("cpu"))
    assert load(make_bundle()).passed_over["cuda"] == NO_DRIVER.why_not


@pytest.mark.usefixtures("built_with_cuda")
def test_cuda_goes_before_the_cpu(make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "find_gpu", lambda: Gpu(89, "NVIDIA L4", 13))
    monkeypatch.setattr("edgeprune.runtime.devices.open_encoder", only_on("cuda"))
    encoder = load(make_bundle())
    assert (encoder.device, list(encoder.passed_over)) == ("cuda", ["tensorrt"])


@pytest.mark.usefixtures("built_with_cuda")
def test_what_fails_as_it_is_opened_is_passed_over_with_the_reason(device: Device) -> None:
    folder = device.bundle(content=b"something else")
    device.monkeypatch.setattr("edgeprune.runtime.devices.open_encoder", only_on("cpu"))
    encoder = load(folder)
    assert "cannot be opened by tensorrt 10.3.0: magicTagRead" in encoder.passed_over["tensorrt"]
    assert encoder.passed_over["cuda"] == "cuda has no memory"


def test_a_plan_of_another_graph_is_no_reason_to_pass_it_over(device: Device) -> None:
    folder = device.bundle()
    del device.plan.tensors["scores"]
    with pytest.raises(BundleError, match="scores"):
        load(folder)


def test_a_plan_that_the_manifest_does_not_list_is_named(make_bundle: MakeBundle) -> None:
    folder = make_bundle()
    (folder / "encoder.jetson-orin.plan").write_bytes(b"of trtexec")
    assert "--adopt" in load(folder).passed_over["tensorrt"]


def test_a_device_that_is_named_is_taken_or_refused(make_bundle: MakeBundle) -> None:
    assert load(make_bundle(), "cpu").passed_over == {}
    with pytest.raises(RequestError, match="has no plan for device tensorrt"):
        load(make_bundle(), "tensorrt")


def test_a_board_without_onnxruntime_needs_none_for_a_plan(device: Device) -> None:
    device.monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert load(device.bundle()).device == "tensorrt"


def test_where_nothing_can_run_the_plan_says_what_it_needs(device: Device) -> None:
    device.monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RequestError, match=r"is for SM 110.*; device cpu needs the package onnxruntime"):
        load(device.bundle(dataclasses.replace(ENGINE, sm=(110,))))


def test_without_a_plan_it_is_onnxruntime_that_is_missing(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingPackageError):
        load(make_bundle())


def only_on(device: str) -> Callable[..., Any]:
    """ONNX Runtime, of which every other device fails."""
    from edgeprune.runtime.backends.ort import open_encoder

    def opened(bundle: Bundle, given: str, *arguments: Any, **options: Any) -> Any:
        if given != device:
            raise RequestError(f"{given} has no memory")
        session = open_encoder(bundle, "cpu", *arguments, **options)
        session.device = given
        return session

    return opened


def test_what_is_opened_runs(make_bundle: MakeBundle) -> None:
    pixels = np.zeros((1, 3, 32, 48), np.float32)
    assert load(make_bundle())(pixels).tokens.shape == (1, 5, 7)
