from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeprune import bundle as bundles
from edgeprune.bundle import TensorSpec
from edgeprune.errors import BundleError, MissingPackageError, RequestError
from edgeprune.runtime.backends.ort import available_devices, open_encoder, open_session

MakeBundle = Callable[..., Path]
FEEDS = {"pixel_values": np.zeros((1, 3, 32, 48), np.float32)}


def pretend(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """The installed onnxruntime, with some of its attributes replaced."""
    import onnxruntime

    attributes = {**vars(onnxruntime), **changes}
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(**attributes))


def test_a_session_runs_its_graph(make_bundle: MakeBundle) -> None:
    session = open_session(make_bundle() / "encoder.onnx")
    assert session.device == "cpu"
    assert session.inputs == {"pixel_values": TensorSpec((1, 3, 32, 48), "float32")}
    shapes = {"scores": (1, 24), "indices": (1, 5), "tokens": (1, 5, 7)}
    assert {name: spec.shape for name, spec in session.outputs.items()} == shapes
    assert {name: array.shape for name, array in session.run(FEEDS).items()} == shapes


def test_outputs_come_in_the_order_asked_for(make_bundle: MakeBundle) -> None:
    session = open_session(make_bundle() / "encoder.onnx", outputs=["tokens", "indices"])
    got = session.run(FEEDS)
    assert [(name, array.shape) for name, array in got.items()] == [("tokens", (1, 5, 7)), ("indices", (1, 5))]
    assert list(session.outputs) == list(got)


def test_a_graph_may_take_several_inputs(tmp_path: Path) -> None:
    spec = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["pixel_values", "prior"], ["scores"])], "g",
        [spec("pixel_values", 1, [2]), spec("prior", 1, [2])], [spec("scores", 1, [2])],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "x.onnx")
    session = open_session(tmp_path / "x.onnx")
    assert list(session.inputs) == ["pixel_values", "prior"]
    feeds = {"prior": np.array([1, 2], np.float32), "pixel_values": np.array([10, 20], np.float32)}
    assert session.run(feeds)["scores"].tolist() == [11, 22]


def test_a_session_that_was_closed_refuses_to_run(make_bundle: MakeBundle) -> None:
    session = open_session(make_bundle() / "encoder.onnx")
    session.close()
    session.close()
    with pytest.raises(RequestError, match=r"encoder\.onnx is closed; open the bundle again"):
        session.run(FEEDS)


def test_dtypes_carry_the_names_of_numpy(make_bundle: MakeBundle) -> None:
    session = open_session(make_bundle(dtype="float16") / "encoder.onnx")
    dtypes = {name: spec.dtype for name, spec in {**session.inputs, **session.outputs}.items()}
    assert dtypes == {"pixel_values": "float16", "scores": "float32", "indices": "int32", "tokens": "float16"}
    assert open_session(make_bundle(dtype="uint8") / "encoder.onnx").inputs["pixel_values"].dtype == "uint8"


def test_an_open_batch_dimension_is_a_name(make_bundle: MakeBundle) -> None:
    session = open_session(make_bundle(batch="batch") / "encoder.onnx")
    assert session.inputs["pixel_values"].shape == ("batch", 3, 32, 48)


def test_threads_reach_onnxruntime(make_bundle: MakeBundle) -> None:
    graph = make_bundle() / "encoder.onnx"
    assert open_session(graph, threads=3).raw.get_session_options().intra_op_num_threads == 3
    assert open_session(graph).raw.get_session_options().intra_op_num_threads == 0  # its own choice
    with pytest.raises(RequestError, match="threads must be at least 1, got 0"):
        open_session(graph, threads=0)


QUANTISED = {
    "bounds": {"regret": 0.01, "token_median": 0.05, "token_each": 0.15},
    "session": {"cpu": {"disable": ["MatMulAddFusion", "ConstantFolding"]}},
}


def test_what_is_disabled_does_not_run(tmp_path: Path) -> None:
    """A product and a sum become one Gemm, unless the fusion is off: then quantised products would not be found."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in "xy")
    ones = [
        helper.make_tensor(name, TensorProto.FLOAT, shape, [1.0] * np.prod(shape))
        for name, shape in (("w", [3, 3]), ("b", [3]))
    ]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["xw"]), helper.make_node("Add", ["xw", "b"], ["y"])]
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y], ones), opset_imports=opset, ir_version=10)
    onnx.save(model, tmp_path / "g.onnx")

    def ran(disabled: tuple[str, ...]) -> set[str]:
        session = open_session(tmp_path / "g.onnx", profile=tmp_path / f"run{len(disabled)}", disabled=disabled)
        session.run({"x": np.ones((2, 3), np.float32)})
        events = json.loads(Path(session.raw.end_profiling()).read_text())
        return {event["args"]["op_name"] for event in events if event["name"].endswith("kernel_time")}

    assert ran(()) == {"Gemm"}
    assert ran(("MatMulAddFusion",)) == {"MatMul", "Add"}


def test_the_options_of_a_bundle_are_those_of_its_manifest(make_bundle: MakeBundle) -> None:
    key = "optimization.disable_specified_optimizers"
    bundle = bundles.load(make_bundle(precision="int8", quantised=QUANTISED))
    options = open_encoder(bundle).raw.get_session_options()
    assert options.get_session_config_entry(key) == "MatMulAddFusion;ConstantFolding"
    with pytest.raises(RuntimeError, match=key):
        open_encoder(bundles.load(make_bundle())).raw.get_session_options().get_session_config_entry(key)


@pytest.mark.parametrize("where", ["here", "there"])
def test_a_profile_is_written_where_asked(
    make_bundle: MakeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    graph = make_bundle() / "encoder.onnx"
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    session = open_session(graph, profile=where == "here" or tmp_path / "there" / "run")
    session.run(FEEDS)
    trace = Path(session.raw.end_profiling()).resolve()
    assert trace.parent == tmp_path / where
    assert any("TopK" in event["name"] for event in json.loads(trace.read_text()))


def test_nothing_is_profiled_unasked(make_bundle: MakeBundle) -> None:
    assert not open_session(make_bundle() / "encoder.onnx").raw.get_session_options().enable_profiling


def test_an_unknown_device_is_refused(make_bundle: MakeBundle) -> None:
    with pytest.raises(RequestError, match="cpu, cuda, got 'gpu'"):
        open_session(make_bundle() / "encoder.onnx", device="gpu")


def test_cuda_without_its_provider_names_the_extra(make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, get_available_providers=lambda: ["CPUExecutionProvider"])
    assert available_devices() == ["cpu"]
    with pytest.raises(RequestError, match=r"edgeprune\[cuda\]"):
        open_session(make_bundle() / "encoder.onnx", device="cuda")


def test_cuda_that_silently_falls_back_to_the_cpu_is_refused(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    asked: list[Any] = []

    def fall_back(path: str, options: Any, providers: list[Any]) -> Any:
        asked.extend(providers)
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    pretend(monkeypatch, get_available_providers=lambda: both, InferenceSession=fall_back)
    assert available_devices() == ["cpu", "cuda"]
    with pytest.raises(RequestError, match=r"fell back to the CPU.*edgeprune\[cuda\]"):
        open_session(make_bundle() / "encoder.onnx", device="cuda")
    assert asked[0] == ("CUDAExecutionProvider", {"use_tf32": "0"})


def test_without_onnxruntime_the_extra_is_named(make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingPackageError, match=r"onnxruntime.*edgeprune\[cpu\]"):
        open_session(make_bundle() / "encoder.onnx")
    with pytest.raises(MissingPackageError, match="onnxruntime"):
        available_devices()


def test_an_onnxruntime_that_is_there_and_broken_says_what_is_wrong_with_it(
    tmp_path: Path, make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no absence, and another install of edgeprune would not help."""
    folder = make_bundle()
    broken = (
        "ImportError('libcudart.so.13: cannot open')",
        "ModuleNotFoundError('No module named sympy', name='sympy')",
    )
    for error in broken:
        code = f"raise {error}"
        (tmp_path / "onnxruntime.py").write_text(code)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "onnxruntime")
        said = (
            r"onnxruntime, whose import fails \((libcudart|No module named).*\); pip install --force-reinstall onnxrun"
        )
        with pytest.raises(MissingPackageError, match=said):
            open_session(folder / "encoder.onnx")
        monkeypatch.undo()


def test_a_graph_that_fails_on_the_way_is_one_line_and_nothing_else_is_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """An index beyond its table, which no check of the graph can see."""
    nodes = [helper.make_node("Gather", ["x", "at"], ["y"])]
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3]) for name in ("x", "y")]
    at = numpy_helper.from_array(np.array([0, 1, 99]), "at")
    made = helper.make_graph(nodes, "graph", tensors[:1], tensors[1:], [at])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "graph.onnx")
    with pytest.raises(BundleError, match=r"^graph\.onnx cannot be run by ONNX Runtime .*99") as failed:
        open_session(tmp_path / "graph.onnx").run({"x": np.zeros(3, np.float32)})
    assert len(str(failed.value).splitlines()) == 1
    assert capfd.readouterr() == ("", "")


def test_a_file_that_is_no_graph_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "encoder.onnx").write_bytes(b"not a graph")
    with pytest.raises(BundleError, match=r"encoder\.onnx cannot be run by ONNX Runtime") as refused:
        open_session(tmp_path / "encoder.onnx")
    assert "\n" not in str(refused.value)


def test_a_graph_without_the_wanted_output_is_refused(make_bundle: MakeBundle) -> None:
    with pytest.raises(BundleError, match="outputs logits"):
        open_session(make_bundle() / "encoder.onnx", outputs=["logits"])


def test_opening_and_running_print_nothing(make_bundle: MakeBundle, capfd: pytest.CaptureFixture[str]) -> None:
    open_session(make_bundle() / "encoder.onnx").run(FEEDS)
    assert capfd.readouterr() == ("", "")
