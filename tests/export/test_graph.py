"""The exported graph: static, at the target's opset, readable, and free of the machine it was made on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

from edgeprune import pruners
from edgeprune.encoders import Encoder
from edgeprune.errors import EdgepruneError
from edgeprune.export.graph import to_onnx
from edgeprune.fit import build_method
from edgeprune.pruners import divprune, fastervlm
from edgeprune.pruners._loop import Form, written_as
from edgeprune.reference import OfficialEncoder
from edgeprune.trace import PrunedEncoder

OUTPUTS = ("tokens", "indices", "scores", "picks")
Traced = Callable[..., ir.Model]


@pytest.fixture(scope="module")
def encoder(tiny_llava: Callable[..., Encoder]) -> Encoder:
    return tiny_llava()


def export(encoder: Encoder, batch: int = 1, **options: Any) -> ir.Model:
    module = PrunedEncoder(encoder, fastervlm.Method(8))
    example = torch.zeros(batch, 3, 48, 48)
    return to_onnx(module, example, OUTPUTS, opset=18, ir_version=10, metadata={"edgeprune.keep": "8"}, **options)


@pytest.fixture(scope="module")
def model(encoder: Encoder) -> ir.Model:
    return export(encoder)


def values(model: ir.Model) -> list[ir.Value]:
    """Inputs and what nodes compute, also inside of loops."""
    graphs = (model.graph, *model.graph.subgraphs())
    return [value for part in graphs for value in (*part.inputs, *(value for n in part for value in n.outputs))]


def run(model: ir.Model, pixels: torch.Tensor, path: Path) -> list[np.ndarray]:
    ir.save(model, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    outputs: list[np.ndarray] = session.run(list(OUTPUTS), {"pixel_values": pixels.numpy()})
    return outputs


@pytest.mark.slow
def test_opset_and_ir_version_are_the_targets(model: ir.Model) -> None:
    assert model.opset_imports == {"": 18}
    assert model.ir_version == 10


def test_no_dimension_is_dynamic(model: ir.Model) -> None:
    for value in values(model):
        assert value.shape is not None
        assert value.shape.is_static(), value


def test_inputs_and_outputs_have_the_names_shapes_and_dtypes_of_the_contract(model: ir.Model) -> None:
    found = {
        value.name: (list(value.shape or ()), value.dtype) for value in (*model.graph.inputs, *model.graph.outputs)
    }
    assert found == {
        "pixel_values": ([1, 3, 48, 48], ir.DataType.FLOAT),
        "tokens": ([1, 8, 48], ir.DataType.FLOAT),
        "indices": ([1, 8], ir.DataType.INT32),
        "picks": ([1, 8], ir.DataType.INT32),
        "scores": ([1, 36], ir.DataType.FLOAT),
    }


def test_the_attention_operator_is_never_used(model: ir.Model) -> None:
    assert "Attention" not in {node.op_type for node in model.graph}


def test_nodes_are_named_after_modules_and_values_after_nodes(model: ir.Model) -> None:
    names = {node.name for node in model.graph}
    assert "encoder.encoder.layers.2.self_attn.q_proj/MatMul" in names
    assert "projector.linear_2/MatMul" in names
    assert "selection/TopK" in names
    assert len(names) == len(list(model.graph))
    outputs = set(OUTPUTS)
    assert all(
        value.name in outputs or str(value.name).split(":")[0] in names for n in model.graph for value in n.outputs
    )


def test_weights_keep_their_parameters_names(model: ir.Model) -> None:
    large = [
        name for name, value in model.graph.initializers.items() if value.const_value and value.const_value.size > 64
    ]
    assert "encoder.encoder.layers.2.mlp.fc1.weight.T" in large
    assert all(name.startswith(("encoder.", "projector.")) for name in large)
    assert not [name for name in model.graph.initializers if name.startswith("val_")]


def test_layers_behind_the_features_are_gone(model: ir.Model) -> None:
    names = " ".join([*(str(node.name) for node in model.graph), *model.graph.initializers])
    assert "layers.2." in names
    assert "layers.3." not in names
    assert "post_layernorm" not in names


def test_metadata_are_ours_and_no_path_or_stack_trace_is_left(model: ir.Model, tmp_path: Path) -> None:
    assert dict(model.metadata_props) == {"edgeprune.keep": "8"}
    ir.save(model, tmp_path / "m.onnx")
    written = (tmp_path / "m.onnx").read_bytes()
    assert b"site-packages" not in written
    assert b".py" not in written


@pytest.mark.parametrize("batch", [1, 3])
def test_on_onnx_runtime_it_equals_the_reference(encoder: Encoder, model: ir.Model, batch: int, tmp_path: Path) -> None:
    pixels = torch.randn(batch, 3, 48, 48, generator=torch.Generator().manual_seed(3))
    got = run(model if batch == 1 else export(encoder, batch), pixels, tmp_path / "m.onnx")
    with torch.inference_mode():
        expected = OfficialEncoder(encoder, fastervlm.Method(8))(pixels)
    np.testing.assert_array_equal(got[1], expected[1].numpy())
    np.testing.assert_allclose(got[2], expected[2].numpy(), rtol=1e-4)
    np.testing.assert_allclose(got[0], expected[0].numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_with_the_moved_selection_and_without_it_outputs_agree(
    encoder: Encoder, model: ir.Model, tmp_path: Path
) -> None:
    pixels = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(4))
    moved = run(model, pixels, tmp_path / "on.onnx")
    plain = run(export(encoder, hoisted=False), pixels, tmp_path / "off.onnx")
    np.testing.assert_array_equal(moved[1], plain[1])
    np.testing.assert_allclose(moved[2], plain[2], rtol=1e-5)
    np.testing.assert_allclose(moved[0], plain[0], rtol=1e-4, atol=1e-5)


def test_only_the_batch_is_free_with_a_dynamic_batch(encoder: Encoder, tmp_path: Path) -> None:
    model = export(encoder, batch=2, dynamic_batch=True)
    for value in (*model.graph.inputs, *model.graph.outputs):
        assert [str(size) for size in value.shape or () if not isinstance(size, int)] == ["batch"]
    for batch in (1, 2, 5):
        pixels = torch.randn(batch, 3, 48, 48, generator=torch.Generator().manual_seed(batch))
        with torch.inference_mode():
            expected = OfficialEncoder(encoder, fastervlm.Method(8))(pixels)
        got = run(model, pixels, tmp_path / "m.onnx")
        np.testing.assert_array_equal(got[1], expected[1].numpy())
        np.testing.assert_allclose(got[0], expected[0].numpy(), rtol=1e-3, atol=1e-4)


def test_a_shape_that_depends_on_the_data_is_refused() -> None:
    class Dynamic(nn.Module):
        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            return pixel_values[pixel_values > 0]

    with pytest.raises(EdgepruneError, match="every shape must be static"):
        to_onnx(Dynamic(), torch.randn(4), ("out",), opset=18, ir_version=10)


def test_float16_weights_give_a_typed_graph_with_float32_scores(traced: Traced) -> None:
    model = traced("fastervlm", "float16")
    dtypes = {value.name: value.dtype for value in values(model)}
    assert dtypes["pixel_values"] == dtypes["tokens"] == ir.DataType.FLOAT16
    assert dtypes["scores"] == ir.DataType.FLOAT
    for node in model.graph:
        if "/MatMul" in str(node.name):
            expected = ir.DataType.FLOAT if str(node.name).startswith("selection") else ir.DataType.FLOAT16
            assert node.outputs[0].dtype == expected, node.name


# Loops

GREEDY = ("scope", *(pytest.param(name, marks=pytest.mark.slow) for name in ("divprune", "dpp", "todre")))


def greedy_graph(encoder: Encoder, name: str, form: Form, batch: int = 1) -> ir.Model:
    module = PrunedEncoder(encoder, build_method(pruners.get(name), name, encoder, 6))
    with written_as(form):
        return to_onnx(module, torch.zeros(batch, 3, 48, 48), OUTPUTS, opset=18, ir_version=10)


@pytest.fixture
def looped(traced: Traced) -> ir.Model:
    return traced("divprune", form="looped")


def body(model: ir.Model) -> ir.Graph:
    (scan,) = [node for node in model.graph if node.op_type == "Scan"]
    return scan.attributes["body"].as_graph()


@pytest.mark.slow
@pytest.mark.parametrize("name", GREEDY)
def test_looped_and_unrolled_select_the_same(encoder: Encoder, name: str, tmp_path: Path) -> None:
    pixels = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(5))
    once, often = (
        run(greedy_graph(encoder, name, form, batch=2), pixels, tmp_path / f"{form}.onnx")
        for form in ("looped", "unrolled")
    )
    np.testing.assert_array_equal(once[1], often[1])
    np.testing.assert_allclose(once[2], often[2], rtol=1e-6)
    np.testing.assert_allclose(once[0], often[0], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_loop_takes_a_free_batch(encoder: Encoder, traced: Traced, tmp_path: Path) -> None:
    model = traced("divprune", form="looped", free=True)
    assert {str(size) for value in body(model).inputs for size in value.shape or ()} == {"batch", "36"}
    assert not {"Shape", "Range"} & {node.op_type for node in body(model)}  # asked once, in front of the loop
    with torch.inference_mode():
        for batch in (1, 2, 5):
            pixels = torch.randn(batch, 3, 48, 48, generator=torch.Generator().manual_seed(batch))
            expected = PrunedEncoder(encoder, divprune.Method(6))(pixels)
            np.testing.assert_array_equal(run(model, pixels, tmp_path / "m.onnx")[1], expected[1].numpy())


def test_a_loop_is_a_valid_model(looped: ir.Model) -> None:
    assert not looped.functions
    onnx.checker.check_model(ir.to_proto(looped), full_check=True)


def test_no_shape_inside_a_loop_is_unknown_or_dynamic(looped: ir.Model) -> None:
    test_no_dimension_is_dynamic(looped)
    assert all(value in values(looped) for value in body(looped).outputs)


@pytest.mark.slow
def test_an_unknown_shape_inside_a_loop_is_refused(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeprune.export import graph

    def forget(model: ir.Model) -> None:
        body(model).outputs[0].shape = None

    monkeypatch.setattr(graph, "_forget_origin", forget)
    with pytest.raises(EdgepruneError, match="every shape must be known; that of selection/Scan/Where"):
        greedy_graph(encoder, "divprune", "looped")


def test_nodes_inside_a_loop_are_named_after_it_and_no_name_is_there_twice(looped: ir.Model) -> None:
    names = [node.name for node in looped.graph.all_nodes()]
    assert "selection/Scan/ReduceMax" in names
    assert [value.name for value in body(looped).inputs] == [
        "selection/Scan/in",
        "selection/Scan/in:1",
        "selection/Scan/in:2",
    ]
    assert len(set(names)) == len(names)
    all_values = [value.name for value in (*values(looped), *looped.graph.initializers.values())]
    assert len(set(all_values)) == len(all_values)
    assert body(looped).name == "selection/Scan"


def test_nothing_of_the_machine_is_left_inside_a_loop(looped: ir.Model, tmp_path: Path) -> None:
    for graph in (looped.graph, *looped.graph.subgraphs()):
        for part in (graph, *graph, *graph.inputs, *(value for node in graph for value in node.outputs)):
            assert not part.metadata_props
            assert not part.doc_string
    ir.save(looped, tmp_path / "m.onnx")
    written = (tmp_path / "m.onnx").read_bytes()
    for trace in (b".py", b"site-packages", b"scan_combine", b"torch"):
        assert trace not in written


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dpp", pytest.param("scope", marks=pytest.mark.slow)])
def test_a_loop_in_a_float16_graph_is_float32(name: str, traced: Traced, tmp_path: Path) -> None:
    model = traced(name, "float16", "looped")
    assert ir.DataType.FLOAT16 not in {value.dtype for value in (*body(model).inputs, *body(model).outputs)}
    assert ir.DataType.FLOAT16 not in {value.dtype for node in body(model) for value in node.outputs}
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    outputs = run(model, torch.randn(1, 3, 48, 48).half(), tmp_path / "m.onnx")
    assert len(set(outputs[1][0].tolist())) == 6


def test_unit_matrices_compare_numbers_that_tensorrt_reads() -> None:
    class Unit(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.eye(x.shape[1]) - 3 * torch.eye(x.shape[1], dtype=torch.bool).float()

    model = to_onnx(Unit(), torch.zeros(1, 300, 300), ("out",), opset=18, ir_version=10)
    small = {ir.DataType.UINT16, ir.DataType.INT16, ir.DataType.UINT8, ir.DataType.INT8}
    assert not small & {value.dtype for value in (*values(model), *model.graph.initializers.values())}
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    got = session.run(None, {"pixel_values": np.zeros((1, 300, 300), np.float32)})[0]
    np.testing.assert_array_equal(got[0], -2 * np.eye(300))
