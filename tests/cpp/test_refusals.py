"""What the C interface refuses: a status, and one line that says what must hold, what was given, and the remedy."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from edgeprune.errors import EdgepruneError
from edgeprune.runtime import load
from edgeprune.runtime.backends import plan as plans
from tests.brightest import MakeBundle, graph
from tests.cpp import library as c
from tests.cpp.library import Buffer, Failure, Handle, Library, buffers, seal

Feeds = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def library(cpp: Path) -> Library:
    return Library(cpp)


@pytest.fixture
def opened(library: Library, make_bundle: MakeBundle) -> Any:
    with library.open(make_bundle(picks=True), threads=1) as handle:
        yield handle


@pytest.fixture
def feeds() -> Feeds:
    return {"pixel_values": np.random.default_rng(0).normal(size=(1, 3, 32, 48)).astype(np.float32)}


def refusal(call: Callable[[], object], status: int) -> str:
    with pytest.raises(Failure) as caught:
        call()
    assert caught.value.status == status
    text = str(caught.value)
    assert text
    assert text.isprintable()
    return text


def run_with(handle: Handle, inputs: list[Buffer], outputs: list[Buffer], status: int) -> str:
    given, wanted = (Buffer * len(inputs))(*inputs), (Buffer * len(outputs))(*outputs)
    run = handle.raw.edgeprune_run
    return refusal(lambda: handle.check(run(handle.handle, given, len(given), wanted, len(wanted))), status)


def test_inputs_and_outputs_that_are_not_the_graph_s(opened: Handle, feeds: Feeds) -> None:
    outputs = opened.empty()
    pixels, tokens = buffers(feeds)[0], buffers({"tokens": outputs["tokens"]})[0]
    for inputs, wanted, said in (
        ([], [tokens], "the graph must be given pixel_values; it was given none"),
        ([pixels], [], "at least one output must be asked for"),
        ([pixels, pixels], [tokens], "the input pixel_values must be given once"),
        ([pixels], [tokens, tokens], "the output tokens must be given once"),
        ([Buffer(b"pixels", pixels.data, 9)], [tokens], "no input pixels; it has pixel_values"),
        ([pixels], [Buffer(b"token", 64, 9)], "no output token; it has tokens, indices, scores, picks"),
        ([Buffer(None, 64, 9)], [tokens], "input number 0 must have a name, got NULL"),
        ([Buffer(b"pixel_values", None, pixels.nbytes)], [tokens], "data of pixel_values must not be NULL"),
        ([Buffer(b"pixel_values", pixels.data + 2, pixels.nbytes)], [tokens], "aligned to the 4 bytes of a float32"),
        ([Buffer(b"pixel_values", pixels.data, 4)], [tokens], "18432 bytes, for it is float32 [1, 3, 32, 48], got 4"),
        ([pixels], [Buffer(b"tokens", tokens.data, 2**63)], "140 bytes, for it is float32 [1, 5, 7], got 9223372"),
        ([pixels], [Buffer(b"tokens", pixels.data, 140)], "tokens and pixel_values overlap"),
        ([pixels], [tokens, Buffer(b"picks", tokens.data + 120, 20)], "tokens and picks overlap"),
    ):
        assert said in run_with(opened, inputs, wanted, c.WRONG_REQUEST)
    opened.run_into(feeds, outputs)  # none of it stays


def test_a_batch_that_is_open_is_the_same_for_all(library: Library, make_bundle: MakeBundle) -> None:
    with library.open(make_bundle(batch="images"), threads=1) as handle:
        feeds = {"pixel_values": np.zeros((2, 3, 32, 48), np.float32)}
        three = {"tokens": handle.empty(3)["tokens"]}
        said = refusal(lambda: handle.run_into(feeds, three), c.WRONG_REQUEST)
        assert said == "all tensors must be of as many images, tokens is of 3, those before it of 2"
        part = {"pixel_values": feeds["pixel_values"].reshape(-1)[:-1]}
        assert "18432 bytes for each image" in refusal(lambda: handle.run_into(part, three), c.WRONG_REQUEST)
        none = {"pixel_values": feeds["pixel_values"][:0]}
        assert "18432 bytes for each image" in refusal(lambda: handle.run_into(none, three), c.WRONG_REQUEST)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none(dtype: str, wrong: float, library: Library, make_bundle: MakeBundle) -> None:
    folder = make_bundle(dtype=dtype)
    values = np.ones((1, 3, 32, 48), dtype)
    values[0, 1, 2, 3] = values[0, 2, 31, 47] = wrong
    with load(folder, device="cpu") as python, pytest.raises(EdgepruneError) as expected:
        python.run({"pixel_values": values})
    with library.open(folder) as handle:
        assert refusal(lambda: handle.run({"pixel_values": values}), c.BAD_IMAGE) == str(expected.value)
        handle.run({"pixel_values": np.full((1, 3, 32, 48), np.finfo(dtype).max, dtype)})
    with library.open(folder, skip_finite=1) as handle:
        handle.run({"pixel_values": values})


def test_budgets_that_cannot_be_cut(library: Library, make_bundle: MakeBundle) -> None:
    for folder, keep in (
        (make_bundle(picks=True), 3),
        (make_bundle(nested=True), 3),
        (make_bundle(picks=True, nested=True), 6),
        (make_bundle(picks=True, nested=True), -1),
    ):
        with pytest.raises(EdgepruneError) as expected:
            load(folder, device="cpu", keep=keep)
        assert refusal(partial(library.open, folder, keep=keep), c.WRONG_REQUEST) == str(expected.value)


def test_memory_of_a_gpu_on_a_cpu(opened: Handle, feeds: Feeds) -> None:
    given, wanted = buffers(feeds), buffers(opened.empty())
    status = opened.raw.edgeprune_run_cuda(opened.handle, given, len(given), wanted, len(wanted), None)
    said = refusal(lambda: opened.check(status), c.WRONG_REQUEST)
    assert said.startswith("memory of a GPU needs a bundle that is open on one, this one is open on cpu;")


def test_devices_that_are_not_there(library: Library, make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_bundle()
    assert "without CUDAExecutionProvider" in refusal(lambda: library.open(folder, device=c.CUDA), c.NO_DEVICE)
    assert "ort-tensorrt cannot" in refusal(lambda: library.open(folder, device=c.ORT_TENSORRT), c.NO_DEVICE)
    assert "ort-tensorrt-rtx cannot" in refusal(lambda: library.open(folder, device=c.ORT_TENSORRT_RTX), c.NO_DEVICE)
    assert "got 6" in refusal(lambda: library.open(folder, device=6), c.WRONG_REQUEST)
    assert "threads must" in refusal(lambda: library.open(folder, threads=-1), c.WRONG_REQUEST)
    assert "gpu must" in refusal(lambda: library.open(folder, gpu=-1), c.WRONG_REQUEST)
    with pytest.raises(EdgepruneError) as expected:
        load(folder, device="tensorrt")
    assert refusal(lambda: library.open(folder, device=c.TENSORRT), c.NO_DEVICE) == str(expected.value)
    log: list[str] = []
    with library.open(folder, log) as handle:
        assert handle.info().device == b"cpu"
    assert log[0] == "not tensorrt: the bundle has no plan"
    assert log[1].startswith("not cuda: this ONNX Runtime (")


def test_a_plan_says_what_it_does_not_fit(library: Library, make_bundle: MakeBundle) -> None:
    folder = make_bundle()
    (folder / "encoder.jetson-orin.plan").write_bytes(b"left by trtexec")
    with pytest.raises(EdgepruneError) as expected:
        load(folder, device="tensorrt")
    assert refusal(lambda: library.open(folder, device=c.TENSORRT), c.NO_DEVICE) == str(expected.value)
    if plans.find_gpu().sm is None:
        assert "does not list it" in str(expected.value)


def test_a_library_that_is_not_onnx_runtime(
    library: Library, make_bundle: MakeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, none = make_bundle(), tmp_path / "libonnxruntime.so"
    said = refusal(lambda: library.open(folder, onnxruntime=bytes(none)), c.NO_DEVICE)
    assert said.startswith("ONNX Runtime is not to be had: ")
    assert "EDGEPRUNE_ONNXRUNTIME" in said
    none.write_text("no library")
    assert str(none) in refusal(lambda: library.open(folder, onnxruntime=bytes(none)), c.NO_DEVICE)
    monkeypatch.setenv("EDGEPRUNE_ONNXRUNTIME", str(none))
    assert str(none) in refusal(lambda: library.open(folder, onnxruntime=None), c.NO_DEVICE)
    monkeypatch.setenv("EDGEPRUNE_ONNXRUNTIME", str(c.onnxruntime_library()))
    with library.open(folder, onnxruntime=None, device=c.CPU) as handle:
        assert handle.info().device == b"cpu"
    said = refusal(lambda: library.open(folder, onnxruntime=b"libc.so.6"), c.NO_DEVICE)
    assert said.startswith("libc.so.6 must be the library of ONNX Runtime")


def test_a_graph_with_other_tensors_than_the_manifest(library: Library, make_bundle: MakeBundle) -> None:
    for change in ("dtype", "input", "output"):
        folder = make_bundle()
        model = graph(1, "float16" if change == "dtype" else "float32", 0, prior=change == "input")
        if change == "output":
            del model.graph.output[1]
        onnx.save(model, folder / "encoder.onnx")
        seal(folder)
        with pytest.raises(EdgepruneError) as expected:
            load(folder, device="cpu")
        assert refusal(partial(library.open, folder, device=c.CPU), c.BAD_BUNDLE) == str(expected.value)


def test_a_graph_that_is_none(library: Library, make_bundle: MakeBundle) -> None:
    folder = make_bundle()
    (folder / "encoder.onnx").write_bytes(b"\x00" * 100)
    seal(folder)
    said = refusal(lambda: library.open(folder, device=c.CPU), c.BAD_BUNDLE)
    assert said.startswith("encoder.onnx cannot be run by ONNX Runtime ")


def test_null_is_refused_everywhere(library: Library, opened: Handle) -> None:
    raw, handle = library.raw, opened.handle
    raw.edgeprune_close(None)
    assert raw.edgeprune_label(None, 0) is None
    assert raw.edgeprune_label(handle, 0) is None
    assert raw.edgeprune_open(None, None, ctypes.byref(ctypes.c_void_p())) == c.WRONG_REQUEST
    assert raw.edgeprune_error(None) == b"folder must not be NULL"
    assert raw.edgeprune_open(b"x", None, None) == c.WRONG_REQUEST
    for name, arguments in {
        "get_info": (None,),
        "get_input": (0, None),
        "get_output": (0, None),
        "find": (None, None),
        "run": (None, 0, None, 0),
        "preprocess": (None, 1, 1, 0, None, 0),
        "detect": (None, 0, None, 0, 1, 1, 0.5, None, 1, None),
        "tile_order": (None, 0, 1, 1, None, 0),
    }.items():
        function = getattr(raw, f"edgeprune_{name}")
        assert function(None, *arguments) == c.WRONG_REQUEST
        assert raw.edgeprune_error(None) == b"bundle must be a handle of edgeprune_open, got NULL"
        assert function(handle, *arguments) == c.WRONG_REQUEST, name
    assert raw.edgeprune_run_cuda(None, None, 0, None, 0, None) == c.WRONG_REQUEST


def test_names_and_numbers_that_are_not_there(opened: Handle) -> None:
    tensor = c.Tensor()

    def find(name: bytes) -> None:
        opened.check(opened.raw.edgeprune_find(opened.handle, name, ctypes.byref(tensor)))

    find(b"tokens")
    assert (tensor.name, tensor.nbytes) == (b"tokens", 140)
    assert "no tensor x y; it has the inputs pixel_values" in refusal(lambda: find(b"x\ny"), c.WRONG_REQUEST)
    assert "no tensor ??;" in refusal(lambda: find(b"\xff\xc3"), c.WRONG_REQUEST)
    long = refusal(lambda: find("ä".encode() * 3000), c.WRONG_REQUEST)
    assert len(long.encode()) < 1024
    assert "ä...ä" in long
    assert long.endswith("scores, picks")
    for kind in ("input", "output"):
        get = getattr(opened.raw, f"edgeprune_get_{kind}")
        wrong = lambda: opened.check(get(opened.handle, 9, ctypes.byref(tensor)))  # noqa: B023, E731
        assert "got number 9" in refusal(wrong, c.WRONG_REQUEST)


def test_structs_of_another_size(library: Library, opened: Handle, make_bundle: MakeBundle) -> None:
    assert "EDGEPRUNE_OPTIONS" in refusal(lambda: library.open(make_bundle(), struct_nbytes=8), c.WRONG_REQUEST)
    info = c.Info(struct_nbytes=0)
    said = refusal(lambda: opened.check(opened.raw.edgeprune_get_info(opened.handle, ctypes.byref(info))), 1)
    assert "EDGEPRUNE_INFO" in said


def test_an_error_is_of_its_thread_and_handle(library: Library, make_bundle: MakeBundle) -> None:
    folder = make_bundle()
    with library.open(folder) as one, library.open(folder) as other:
        for handle, name in ((one, b"first"), (other, b"second")):
            handle.raw.edgeprune_find(handle.handle, name, ctypes.byref(c.Tensor()))
        assert b"first" in library.raw.edgeprune_error(one.handle)
        assert b"second" in library.raw.edgeprune_error(other.handle)
        seen: list[bytes] = []
        thread = threading.Thread(target=lambda: seen.append(library.raw.edgeprune_error(one.handle)))
        thread.start()
        thread.join()
        assert seen == [b""]
    with library.open(folder) as again:  # perhaps at the address of one that was closed
        assert library.raw.edgeprune_error(again.handle) == b""


def test_what_a_bundle_is(library: Library, make_bundle: MakeBundle) -> None:
    with library.open(make_bundle(batch=2, picks=True, nested=True), keep=3, device=c.CPU) as handle:
        info = handle.info()  # whose texts live as long as the handle
        shown = {name: getattr(info, name) for name, *_ in c.Info._fields_[1:]}
    assert shown == {
        "method": b"brightest",
        "model": b"none",
        "precision": b"float32",
        "device": b"cpu",
        "source": b"encoder.onnx",
        "batch": 2,
        "tiles": 1,
        "pooled": 0,
        "grid_rows": 4,
        "grid_columns": 6,
        "keep": 3,
        "nested": 1,
        "detects": 0,
        "height": 32,
        "width": 48,
        "image_nbytes": 4 * 3 * 32 * 48,
        "seen_nbytes": 0,
        "inputs": 1,
        "outputs": 4,
        "labels": 0,
    }
