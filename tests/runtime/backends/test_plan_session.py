"""A plan as a backend, on a machine without a GPU.

CUDA and TensorRT are played by `tests.fake_gpu`. That the real packages have these functions, with as many arguments,
is checked against the packages themselves. Only a GPU can run a real plan: those tests are marked `gpu`.
"""

from __future__ import annotations

import dataclasses
import enum
import gc
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeprune.errors import BundleError, EdgepruneError, ImageError, RequestError
from edgeprune.runtime import Runner, load
from edgeprune.runtime.backends import cuda_api
from edgeprune.runtime.backends.cuda_api import Cuda, load_cuda
from edgeprune.runtime.backends.plan import find_gpu
from edgeprune.runtime.backends.plan_session import PlanSession
from edgeprune.runtime.ledger.bench import bench
from edgeprune.runtime.parity.verify import verify
from tests.fake_gpu import ENGINE, Device, FakeContext, FakeCuda, FakePlan

MakeBundle = Callable[..., Path]
Expect = Callable[[NDArray[Any]], Any]

NO_GPU = pytest.mark.skipif(find_gpu().sm is not None, reason="a GPU is here")


def values(seed: int = 0, dtype: str = "float32", batch: int = 1) -> NDArray[Any]:
    return np.random.default_rng(seed).standard_normal((batch, 3, 32, 48)).astype(dtype)


def session_of(encoder: Runner) -> PlanSession:
    assert isinstance(encoder.session, PlanSession)
    return encoder.session


@pytest.mark.parametrize(("dtype", "batch"), [("float32", 1), ("float32", 3), ("float16", 1)])
def test_a_plan_gives_what_the_graph_gives(device: Device, expected: Expect, dtype: str, batch: int) -> None:
    encoder = load(device.bundle(dtype=dtype, batch=batch), device="tensorrt")
    for seed in range(3):
        given = values(seed, dtype, batch)
        output, wanted = encoder(given), expected(given)
        np.testing.assert_array_equal(output.indices, wanted.indices)
        np.testing.assert_array_equal(output.tokens, wanted.tokens.astype(dtype))
        np.testing.assert_array_equal(output.scores, wanted.scores)
    assert (encoder.session.device, encoder.session.source) == ("tensorrt", "encoder.jetson-orin.plan")


def test_what_a_run_returned_stays_when_the_next_one_is_made(device: Device) -> None:
    encoder = load(device.bundle(), device="tensorrt")
    first = encoder(values(0))
    kept = first.tokens.copy()
    encoder(values(1))
    np.testing.assert_array_equal(first.tokens, kept)


def test_outputs_stay_on_the_device_in_memory_of_their_own_until_nobody_holds_them(
    device: Device, cuda: FakeCuda
) -> None:
    encoder = load(device.bundle(), device="tensorrt")
    before, wanted = set(cuda.device), encoder.outputs(values(0))
    there = encoder.outputs_on_device(values(0))
    encoder(values(1))
    for name, value in wanted.items():
        assert there[name].__dlpack_device__() == (2, 0)
        memory = cuda.device[there[name]._address]
        np.testing.assert_array_equal(np.frombuffer(memory, value.dtype).reshape(value.shape), value)
    assert set(cuda.device) > before
    del there, memory
    gc.collect()
    assert set(cuda.device) == before


def test_pixels_that_lie_scattered_in_memory_arrive_in_order(device: Device, expected: Expect) -> None:
    scattered = values().transpose(0, 1, 3, 2).copy().transpose(0, 1, 3, 2)
    assert not scattered.flags["C_CONTIGUOUS"]
    found = load(device.bundle(), device="tensorrt")(scattered)
    np.testing.assert_array_equal(found.indices, expected(scattered).indices)


def test_a_run_is_one_cuda_graph_after_the_first(device: Device, cuda: FakeCuda) -> None:
    encoder = load(device.bundle(), device="tensorrt")
    assert session_of(encoder).cuda_graph == "captured"
    enqueued = device.plan.contexts[0].ran
    for seed in range(4):
        encoder(values(seed))
    assert (cuda.launched, device.plan.contexts[0].ran) == (4, enqueued)


@pytest.mark.parametrize("failing", ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiateWithFlags"])
def test_where_no_graph_can_be_captured_the_kernels_are_launched_and_it_is_said(
    device: Device, cuda: FakeCuda, expected: Expect, failing: str
) -> None:
    folder = device.bundle()
    cuda.failing = failing
    encoder = load(folder, device="tensorrt")
    cuda.failing, cuda.capture = "", None
    assert session_of(encoder).cuda_graph == f"none: {failing}: out of memory (CUDA error 2)"
    np.testing.assert_array_equal(encoder(values()).indices, expected(values()).indices)
    assert cuda.launched == 0


def test_a_plan_that_tensorrt_does_not_let_be_captured_is_launched(device: Device, expected: Expect) -> None:
    folder = device.bundle()
    device.plan.uncapturable = True
    encoder = load(folder, device="tensorrt")
    assert session_of(encoder).cuda_graph.startswith("none: encoder.jetson-orin.plan cannot be run")
    np.testing.assert_array_equal(encoder(values()).indices, expected(values()).indices)


def test_tensorrt_rtx_captures_its_graph_itself(device: Device, cuda: FakeCuda, expected: Expect) -> None:
    engine = dataclasses.replace(ENGINE, kind="tensorrt-rtx")
    encoder = load(device.bundle(engine, rtx=True), device="tensorrt")
    assert session_of(encoder).cuda_graph == "by TensorRT-RTX"
    np.testing.assert_array_equal(encoder(values()).indices, expected(values()).indices)
    assert cuda.launched == 0


def test_threads_share_a_plan_by_taking_turns(device: Device, expected: Expect) -> None:
    encoder = load(device.bundle(), device="tensorrt")
    batches = [values(seed) for seed in range(48)]
    with ThreadPoolExecutor(4) as pool:
        for given, output in zip(batches, pool.map(encoder, batches), strict=True):
            np.testing.assert_array_equal(output.tokens, expected(given).tokens)


def test_everything_is_freed_with_the_encoder(device: Device, cuda: FakeCuda) -> None:
    encoder = load(device.bundle(), device="tensorrt")
    encoder(values())
    assert len(cuda.device) == len(cuda.host) == 4
    del encoder
    device.plan.contexts.clear()
    gc.collect()
    assert (cuda.device, cuda.host, cuda.queues, cuda.graphs) == ({}, {}, {}, {})


@pytest.mark.parametrize(
    "failing", ["cudaStreamCreateWithFlags", "cudaMallocHost", "cudaMalloc", "cudaStreamSynchronize"]
)
def test_a_gpu_that_cannot_be_used_is_refused_and_nothing_is_left(device: Device, cuda: FakeCuda, failing: str) -> None:
    folder = device.bundle()
    cuda.failing = failing
    with pytest.raises(RequestError, match=f"device tensorrt cannot be used: {failing}: out of memory .*--device cpu"):
        load(folder, device="tensorrt")
    assert (cuda.device, cuda.host, cuda.queues, cuda.graphs) == ({}, {}, {}, {})


def test_a_failure_in_a_run_is_a_failure(device: Device, cuda: FakeCuda) -> None:
    encoder = load(device.bundle(), device="tensorrt")
    cuda.failing = "cudaMemcpyAsync"
    with pytest.raises(EdgepruneError, match="cudaMemcpyAsync: out of memory") as failed:
        encoder(values())
    assert failed.value.exit_code == 1


def test_a_plan_that_tensorrt_cannot_open_is_refused_with_what_it_says(device: Device) -> None:
    folder = device.bundle(content=b"something else")
    with pytest.raises(RequestError, match=r"opened by tensorrt 10\.3\.0: magicTagRead does not match; build"):
        load(folder, device="tensorrt")


def test_a_plan_that_lacks_an_output_is_refused(device: Device) -> None:
    folder = device.bundle()
    del device.plan.tensors["scores"]
    with pytest.raises(
        BundleError, match=r"must have an input and the outputs tokens, indices, scores; it has .*; build it again"
    ):
        load(folder, device="tensorrt")


@pytest.mark.parametrize("tensor", [((-1, 3, 32, 48), "FLOAT"), ((1, 3, 32, 48), "FP8")])
def test_a_plan_with_an_open_shape_or_a_type_that_numpy_lacks_is_refused(device: Device, tensor: Any) -> None:
    folder = device.bundle()
    device.plan.tensors["pixel_values"] = tensor
    with pytest.raises(BundleError, match="pixel_values must have a fixed shape and one of float32, float16, uint8"):
        load(folder, device="tensorrt")


def test_a_plan_of_another_graph_is_refused_by_its_own_name(device: Device) -> None:
    folder = device.bundle()
    device.plan.tensors["tokens"] = ((1, 5, 7), "HALF")
    with pytest.raises(BundleError, match=r"tokens is float16 \[1, 5, 7\] in encoder\.jetson-orin\.plan, manifest"):
        load(folder, device="tensorrt")


@pytest.mark.parametrize("wrong", [values()[0], values().astype(np.float64), values(batch=2)])
def test_an_input_of_another_shape_or_type_never_reaches_the_gpu(device: Device, wrong: NDArray[Any]) -> None:
    session = load(device.bundle(), device="tensorrt").session
    with pytest.raises(ImageError, match=r"pixel_values must be float32 \[1, 3, 32, 48\], got"):
        session.run({"pixel_values": wrong})


def test_a_plan_that_is_closed_has_freed_its_memory_and_runs_no_more(device: Device) -> None:
    with load(device.bundle(), device="tensorrt") as encoder:
        session = session_of(encoder)
        encoder(values())
        assert device.cuda.device
    assert not device.cuda.device
    for call in (lambda: encoder(values()), lambda: session.run({"pixel_values": values()}), lambda: session.times(1)):
        with pytest.raises(RequestError, match=r"encoder\.jetson-orin\.plan is closed; open the bundle again"):
            call()


def test_verify_compares_the_plan_beside_the_graph(device: Device) -> None:
    reports = verify(device.bundle())
    assert [report.device for report in reports][0 :: len(reports) - 1] == ["cpu", "tensorrt"]
    assert reports[-1].passed
    assert list(reports[-1].probes) == ["scene00", "scene01"]


def test_verify_fails_a_plan_that_names_the_wrong_patches(device: Device, expected: Expect) -> None:
    folder = device.bundle()
    device.plan.function = lambda given: expected(given)._replace(indices=expected(given).indices - 1)
    assert not verify(folder, device="tensorrt")[0].passed


def test_a_weakly_typed_plan_is_held_to_the_bounds_of_float16(device: Device, expected: Expect) -> None:
    """TensorRT 8 takes the float32 graph and computes in float16; the plan still takes and gives float32."""

    def rounded(given: NDArray[Any]) -> Any:
        found = expected(given)
        return found._replace(tokens=found.tokens * np.float32(1.003))

    strong, weak = device.bundle(), device.bundle(dataclasses.replace(ENGINE, flags=("FP16",)))
    device.plan.function = rounded
    assert not verify(strong, device="tensorrt")[0].passed
    (report,) = verify(weak, device="tensorrt")
    assert (report.passed, report.dtype) == (True, "float16")


def test_verify_says_why_a_plan_was_not_run_and_does_not_fail_for_it(device: Device) -> None:
    folder = device.bundle(dataclasses.replace(ENGINE, sm=(110,)))
    *ran, plan = verify(folder)
    assert ran[0].passed
    assert "encoder.jetson-orin.plan is for SM 110, the GPU here has SM 87" in plan.not_run
    with pytest.raises(RequestError, match="SM 110"):
        verify(folder, device="tensorrt")


def test_a_board_without_onnxruntime_verifies_its_plan(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = device.bundle()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    cpu, plan = verify(folder)
    assert "onnxruntime" in cpu.not_run
    assert plan.passed


def test_verify_that_can_run_nothing_is_refused(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = device.bundle(dataclasses.replace(ENGINE, sm=(110,)))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RequestError, match="onnxruntime"):
        verify(folder)


@pytest.mark.parametrize("threads", [None, 2])
def test_a_bundle_without_plans_does_not_speak_of_tensorrt(make_bundle: MakeBundle, threads: int | None) -> None:
    assert "tensorrt" not in [report.device for report in verify(make_bundle(), threads=threads)]


def test_bench_times_the_plan_alone_and_the_gpu_apart(device: Device) -> None:
    ledger = bench(device.bundle(), device="tensorrt", rounds=9)
    assert [row.name for row in ledger.rows] == ["pruned"]
    assert (ledger.rounds, ledger.device, ledger.parts) == (9, "tensorrt", {})
    assert ledger.plan is not None
    assert (ledger.plan.by, ledger.plan.cuda_graph, ledger.plan.gpu) == ("edgeprune", "captured", "Orin")
    assert ledger.plan.compute.median_ms == 1.5  # as the events of this device say
    assert ledger.plan.enqueue.median_ms < ledger.row("pruned").p99_ms
    assert ledger.versions["tensorrt"] == "10.3.0"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"against": ["unpruned"]}, "a plan is measured alone, without a baseline 'unpruned'; leave out --against"),
        ({"threads": 2}, "a plan runs on the GPU and takes no --threads, got 2"),
        ({"rounds": 0}, "--rounds must be at least 1"),
    ],
)
def test_what_makes_no_sense_for_a_plan_is_refused(device: Device, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        bench(device.bundle(), device="tensorrt", **options)


def test_without_cuda_bindings_the_release_that_the_driver_takes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_api, "LAYOUTS", ("no_such_module",))
    with pytest.raises(RequestError, match=r"needs the package cuda-bindings, .* pip install 'cuda-bindings==12\.\*'"):
        load_cuda(12)


def test_cuda_bindings_that_are_newer_than_the_driver_are_refused() -> None:
    api = pytest.importorskip("cuda.bindings.runtime")
    release = api.cudaRuntimeGetVersion()[1] // 1000
    assert load_cuda(release).api is api
    with pytest.raises(RequestError, match=f"of CUDA {release - 1}, .* it is of CUDA {release}; pip install"):
        load_cuda(release - 1)


def parameters(api: Any, name: str) -> list[str]:
    """The parameters that a function of cuda-bindings states in the first line of its documentation."""
    stated = re.fullmatch(r"\w+\((.*)\)", str(getattr(api, name).__doc__).splitlines()[0])
    assert stated, name
    return [one.split(":")[0].split()[-1] for one in stated.group(1).split(",") if one]


def test_the_real_cuda_bindings_have_what_is_called_here_with_the_same_parameters() -> None:
    api = pytest.importorskip("cuda.bindings.runtime")
    functions = {name: part for name, part in vars(FakeCuda).items() if name.startswith("cuda") and callable(part)}
    kinds = {name for name, part in functions.items() if isinstance(part, enum.EnumMeta)}
    for kind in kinds:
        assert {one.name: one.value for one in functions[kind]}.items() <= {
            name: int(getattr(getattr(api, kind), name)) for name in dir(getattr(api, kind)) if name.startswith("cuda")
        }.items()
    for name in functions.keys() - kinds - {"cudaGraphExecDestroy"}:
        assert parameters(api, name) == list(inspect.signature(functions[name]).parameters)[1:], name
    assert parameters(api, "cudaGraphExecDestroy") == ["graphExec"]
    assert int(api.cudaStreamNonBlocking) == 1
    assert int(api.cudaStream_t(5)) == 5  # as it is given to TensorRT


def test_the_real_tensorrt_rtx_has_what_is_called_here() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    public = partial(filter, lambda name: not name.startswith("_"))
    own = {"cuda", "tensors", "function", "uncapturable", "contexts", "addresses", "ran", "compute", "array"}
    for fake, real in ((FakePlan, trt.ICudaEngine), (FakeContext, trt.IExecutionContext)):
        assert {*public(vars(fake))} - own - {"engine"} <= {*dir(real)}
    assert hasattr(trt.Runtime, "deserialize_cuda_engine")
    assert hasattr(trt.IRuntimeConfig, "cuda_graph_strategy")
    assert hasattr(trt.CudaGraphStrategy, "WHOLE_GRAPH_CAPTURE")
    assert hasattr(trt.TensorIOMode, "INPUT")
    assert {"FLOAT", "HALF", "UINT8", "INT32", "INT64", "BOOL"} <= {*trt.DataType.__members__}


@NO_GPU
def test_the_real_cuda_says_why_it_cannot_be_used() -> None:
    api = pytest.importorskip("cuda.bindings.runtime")
    with pytest.raises(EdgepruneError, match=r"cudaMalloc: .*driver.* \(CUDA error 35\)"):
        Cuda(api)("cudaMalloc", 16)


@NO_GPU
def test_the_real_tensorrt_rtx_says_why_it_opens_no_plan() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    api = pytest.importorskip("cuda.bindings.runtime")
    engine = dataclasses.replace(ENGINE, kind="tensorrt-rtx", plan="encoder.rtx-desktop.plan")
    with pytest.raises(RequestError, match=r"encoder\.rtx-desktop\.plan cannot be opened by tensorrt-rtx") as refused:
        PlanSession(trt, Cuda(api), b"no plan at all", engine, None)
    assert "does not say why" not in str(refused.value)


@pytest.mark.gpu
@pytest.mark.skipif(find_gpu().sm is None, reason="needs a GPU")
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_real_plan_passes_parity_on_a_real_gpu(make_bundle: MakeBundle, dtype: str) -> None:
    """Not run here. Builds with the first package of the two that knows this GPU, and runs what it built."""
    from edgeprune.export.engine import build_engine

    sm = find_gpu().sm
    target = "datacenter" if sm in (80, 86, 89, 90) and importlib.util.find_spec("tensorrt") else "rtx-desktop"
    folder = make_bundle(dtype=dtype, target=target)
    build_engine(folder, sm=() if target == "datacenter" else (int(sm or 0),))
    (report,) = verify(folder, device="tensorrt")
    assert report.passed, report.worst.reasons
    assert session_of(load(folder, device="tensorrt")).cuda_graph in ("captured", "by TensorRT-RTX")
