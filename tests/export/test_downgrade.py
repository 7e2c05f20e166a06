"""The graph for older TensorRT: ONNX Runtime computes the same, and what opset 17 cannot say is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from edgeprune import pruners, targets
from edgeprune.errors import TargetError
from edgeprune.export.downgrade import downgrade, floats_only
from edgeprune.export.lint import lint
from edgeprune.targets import Target

OUTPUTS = ("tokens", "indices", "scores")
Traced = Callable[..., ir.Model]

JP60 = targets.load("jetson-orin-jp60")
"""opset 17, and reductions of floats only"""
JP51 = targets.load("jetson-orin-jp51")
"""without LayerNormalization, too, and TopK of floats only"""

NORM_ERROR = 1e-6
"""of one norm, whose sums are rounded in another order"""
GRAPH_ERROR = 1e-5
"""relative to the largest value: what the norms of three layers become in a difference of cosines"""


ALWAYS = ("aim", "holov", "scope")
"""together they have every operator of a method that opset 17 says otherwise; one of them in every run, the others in
slow, all other methods are cells"""


def marks_of(name: str) -> Any:
    if name not in ALWAYS:
        return pytest.mark.cells
    return () if name == "scope" else pytest.mark.slow


METHODS = [pytest.param(name, marks=marks_of(name)) for name in pruners.names()]


@pytest.fixture(params=METHODS)
def model(request: pytest.FixtureRequest, traced: Traced) -> ir.Model:
    return traced(request.param)


@pytest.fixture
def ranked(traced: Traced) -> ir.Model:
    return traced("fastervlm")


def run(model: ir.Model, dtype: Any = np.float32) -> list[np.ndarray]:
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    pixels = np.random.default_rng(3).standard_normal((1, 3, 48, 48)).astype(dtype)
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[np.ndarray] = session.run(list(OUTPUTS), {"pixel_values": pixels})
    return found


def operators(model: ir.Model) -> set[str]:
    return {node.op_type for node in model.graph.all_nodes()}


def test_opset_17_computes_the_same_bit_for_bit(model: ir.Model) -> None:
    older = downgrade(model.clone(), JP60)
    assert older.opset_imports == {"": 17}
    assert older.ir_version == 8
    assert not lint(older, JP60)
    for got, wanted in zip(run(older), run(model), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_written_out_norms_and_sorts_in_float_select_the_same(model: ir.Model) -> None:
    older = downgrade(model.clone(), JP51)
    assert "LayerNormalization" not in operators(older)
    assert not lint(older, JP51)
    got, wanted = run(older), run(model)
    np.testing.assert_array_equal(got[1], wanted[1])
    for at in (0, 2):
        finite = np.isfinite(wanted[at])
        np.testing.assert_array_equal(np.isfinite(got[at]), finite)
        size = np.abs(wanted[at][finite]).max()
        np.testing.assert_allclose(got[at][finite] / size, wanted[at][finite] / size, rtol=0, atol=GRAPH_ERROR)


@pytest.mark.slow
def test_products_of_float32_are_written_out_where_the_target_has_none(ranked: ir.Model) -> None:
    turing = targets.load("rtx-turing")
    written = downgrade(ranked.clone(), turing)
    assert "MatMul" in operators(ranked)
    assert not operators(written) & {"MatMul", "Gemm"}
    for got, wanted in zip(run(written), run(ranked), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_loop_stays_and_computes_the_same(traced: Traced) -> None:
    looped = traced("divprune", form="looped")
    older = downgrade(looped.clone(), replace(JP60, onnx=replace(JP60.onnx, greedy="looped")))
    assert "Scan" in operators(older)
    for got, wanted in zip(run(older), run(looped), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_no_shape_or_dtype_is_lost(ranked: ir.Model) -> None:
    older = downgrade(ranked.clone(), JP51)
    for node in older.graph.all_nodes():
        for value in node.outputs:
            assert value.shape is not None, node
            assert value.dtype is not None, node
    inferred = onnx.shape_inference.infer_shapes(ir.to_proto(older), strict_mode=True)
    assert {value.name: value.type for value in inferred.graph.value_info} == {
        value.name: value.type for value in ir.to_proto(older).graph.value_info
    }


def test_new_nodes_are_named_after_the_one_they_stand_for(ranked: ir.Model) -> None:
    names = [str(node.name) for node in downgrade(ranked.clone(), JP51).graph]
    norm = "encoder.encoder.layers.1.layer_norm1/LayerNormalization/"
    assert [name.removeprefix(norm) for name in names if name.startswith(norm)] == [
        "ReduceMean", "Sub", "Mul", "ReduceMean_2", "Add", "Sqrt", "Div", "Mul_2", "Add_2",
    ]  # fmt: skip
    assert len(set(names)) == len(names)


def test_axes_that_became_attributes_leave_no_constant_behind(ranked: ir.Model) -> None:
    older = downgrade(ranked.clone(), JP51)
    assert all(value.uses() for value in older.graph.initializers.values())
    for node in older.graph:
        if node.op_type in ("ReduceMean", "ReduceMax", "ReduceL2"):
            assert len(node.inputs) == 1
            assert node.attributes.get_ints("axes")


@pytest.mark.parametrize("name", ["cpu", "jetson-orin"])
def test_a_graph_for_newer_targets_stays_as_it_is(ranked: ir.Model, name: str) -> None:
    same = downgrade(ranked.clone(), targets.load(name))
    assert ir.to_proto(same) == ir.to_proto(ranked)


@pytest.mark.slow
def test_a_norm_of_float16_is_computed_in_float32(traced: Traced) -> None:
    model, orin = traced("fastervlm", "float16"), targets.load("jetson-orin")
    forbidding = replace(orin, onnx=replace(orin.onnx, forbidden_ops=("Attention", "LayerNormalization")))
    older = downgrade(model.clone(), forbidding)
    roots = [node for node in older.graph if str(node.name).endswith("LayerNormalization/Sqrt")]
    assert roots
    assert {node.outputs[0].dtype for node in roots} == {ir.DataType.FLOAT}
    got, wanted = run(older, np.float16), run(model, np.float16)
    np.testing.assert_array_equal(got[1], wanted[1])
    np.testing.assert_allclose(got[0].astype(np.float32), wanted[0].astype(np.float32), rtol=1e-2, atol=1e-2)


def test_only_old_releases_compute_floats_alone() -> None:
    assert {"TopK", "CumSum", "ReduceSum"} <= floats_only(JP51)
    assert {"Clip", "CumSum", "ReduceSum"} <= floats_only(JP60)
    assert "TopK" not in floats_only(JP60)
    assert floats_only(targets.load("jetson-orin")) == {"Clip", "CumSum"}
    assert not floats_only(targets.load("cpu"))


# One operator at a time


def small(text: str) -> ir.Model:
    """The graph of onnx's text form in opset 18, its nodes named after their operators."""
    parsed = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 18]> small {text}')
    model = ir.from_proto(onnx.shape_inference.infer_shapes(parsed))
    for node in model.graph:
        node.name = node.op_type
    return model


def agree(text: str, given: np.ndarray, target: Target = JP60, error: float = 0) -> ir.Model:
    """The older form, having computed the same as the newer one, or what differs by no more than `error`."""
    model = small(text)
    older = downgrade(model.clone(), target)
    results = []
    for one in (older, model):
        onnx.checker.check_model(ir.to_proto(one), full_check=True)
        session = onnxruntime.InferenceSession(ir.to_proto(one).SerializeToString(), providers=["CPUExecutionProvider"])
        results.append(session.run(None, {"x": given}))
    for got, wanted in zip(*results, strict=True):
        assert got.dtype == wanted.dtype
        np.testing.assert_allclose(got, wanted, rtol=0, atol=error)
    assert [value.name for value in older.graph.outputs] == [value.name for value in model.graph.outputs]
    return older


ROW = np.arange(7, dtype=np.float32)


def test_equal_parts_need_no_sizes() -> None:
    older = agree("(float[6] x) => (float[3] a, float[3] b) { a, b = Split <num_outputs = 2> (x) }", ROW[:6])
    assert len(older.graph[0].inputs) == 1


def test_of_unequal_parts_the_last_is_what_is_left() -> None:
    text = "(float[7] x) => (float[3] a, float[3] b, float[1] c) { a, b, c = Split <num_outputs = 3> (x) }"
    sizes = agree(text, ROW).graph[0].inputs[1]
    assert sizes is not None
    assert sizes.const_value is not None
    assert sizes.const_value.numpy().tolist() == [3, 3, 1]


def test_pads_of_one_axis_become_pads_of_all() -> None:
    agree(
        "(float[1, 7] x) => (float[1, 10] y) <int64[2] pads = {1, 2}, float v = {5}, int64[1] axes = {-1}>"
        "{ y = Pad (x, pads, v, axes) }",
        ROW[None],
    )


def test_a_reduction_without_axes_takes_all_of_them() -> None:
    agree("(float[7] x) => (float[1] y) { y = ReduceMax (x) }", ROW)


def test_a_static_k_that_is_computed_becomes_a_constant() -> None:
    older = agree(
        "(float[7] x) => (float[7] y, int64[7] at) { k = Shape (x) y, at = TopK (x, k) }",
        ROW,
        targets.load("rtx-desktop"),
    )
    assert [node.op_type for node in older.graph] == ["TopK"]


def test_integers_are_clipped_in_float32() -> None:
    bounds = "<int64 least = {1}, int64 most = {3}>"
    older = agree(
        f"(int64[7] x) => (int64[7] y) {bounds} {{ y = Clip (x, least, most) }}",
        ROW.astype(np.int64),
        targets.load("jetson-orin"),
    )
    assert {value.dtype for value in older.graph.node("Clip").inputs if value is not None} == {ir.DataType.FLOAT}
    agree(f"(int64[7] x) => (int64[7] y) {bounds} {{ y = Clip (x, , most) }}", ROW.astype(np.int64))


def test_a_norm_keeps_its_scale_bias_and_axes() -> None:
    older = agree(
        "(float[2, 3, 4] x) => (float[2, 3, 4] y) <float[3, 4] scale = {1, 2, 3, 4, 5, 6, 7, 8, 9, 8, 7, 6},"
        "float[3, 4] bias = {0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6}>"
        "{ y = LayerNormalization <axis = 1, epsilon = 0.5> (x, scale, bias) }",
        np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32),
        JP51,
        NORM_ERROR * 9,  # the largest scale
    )
    assert older.graph[0].attributes.get_ints("axes") == (1, 2)
    agree(
        "(float[1, 4] x) => (float[1, 4] y) <float[4] s = {1, 1, 1, 1}> { y = LayerNormalization (x, s) }",
        np.array([[1, 2, 4, 9]], np.float32),
        JP51,
        NORM_ERROR,
    )


def test_statistics_of_a_norm_cannot_be_written_out() -> None:
    with pytest.raises(TargetError, match=r"^LayerNormalization: only the float32 form with one output"):
        downgrade(small("(float[1, 4] x) => (float[1, 4] y, float[1, 1] m) { y, m = LayerNormalization (x, x) }"), JP51)


def test_integers_are_sorted_and_summed_in_float32() -> None:
    numbers = np.array([[5, 3, 2**24 - 1, 3, 0]], np.int64)
    older = agree(
        "(int64[1, 5] x) => (int64[1, 2] values, int64[1, 2] at) <int64[1] k = {2}> { values, at = TopK (x, k) }",
        numbers,
        JP51,
    )
    assert [node.op_type for node in older.graph] == ["Cast", "TopK", "Cast"]
    agree("(int64[1, 5] x) => (int64[1, 1] y) <int64[1] axes = {1}> { y = ReduceSum (x, axes) }", numbers - 9)
    agree("(int64[1, 5] x) => (int64[1, 5] y) <int64 axis = {1}> { y = CumSum (x, axis) }", numbers - 9)


REFUSED = {
    "Mish": "(float[7] x) => (float[7] y) { y = Mish (x) }",
    "BitwiseNot": "(int32[7] x) => (int32[7] y) { y = BitwiseNot (x) }",
    "ReduceMean": "(float[7] x, int64[1] axes) => (float[n] y) { y = ReduceMean (x, axes) }",
    "ReduceMax": "(float[7] x) => (float[7] y) { y = ReduceMax <noop_with_empty_axes = 1> (x) }",
    "ScatterElements": "(float[7] x, int64[7] at) => (float[7] y) "
    '{ y = ScatterElements <reduction = "max"> (x, at, x) }',
    "Resize": "(float[1, 1, 8, 8] x) => (float[1, 1, 4, 4] y) <float[4] by = {1, 1, 0.5, 0.5}> "
    '{ y = Resize <antialias = 1, mode = "linear"> (x, , by) }',
    "Pad": "(float[1, 7] x, int64[2] pads) => (float[1, n] y) <int64[1] axes = {1}> { y = Pad (x, pads, , axes) }",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_opset_17_cannot_say_is_refused_by_name(name: str) -> None:
    with pytest.raises(TargetError) as caught:
        downgrade(small(REFUSED[name]), JP60)
    assert str(caught.value) == (
        f"{name}: opset 17 of jetson-orin-jp60 cannot say this {name}; "
        "choose another --method, or a --target with opset 18"
    )


def test_no_other_step_between_opsets_is_made() -> None:
    model = small("(float[7] x) => (float[7] y) { y = Relu (x) }")
    model.opset_imports[""] = 20
    with pytest.raises(TargetError, match="only opset 18 -> 17 can be written, jetson-orin-jp60 asks for 20 -> 17"):
        downgrade(model, JP60)
