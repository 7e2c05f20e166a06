"""Tries that cannot match are left out, and the graph is the same. Whole ones: test_translate.py."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import onnxscript.rewriter
import pytest
from onnxscript.optimizer import optimize_ir
from onnxscript.optimizer._constant_folding import FoldConstantsPass

from edgeprune.export.optimize import RULES, _rules_narrowed, optimize

GRAPHS = {
    "a cast to what it is": "(float[2, 8] x) => (float[2, 8] y) { c = Cast <to = 1> (x) y = Relu (c) }",
    "two reshapes": "(float[2, 8] x) => (float[16] y) <int64[3] a = {2, 4, 2}, int64[1] b = {16}>"
    "{ r = Reshape (x, a) y = Reshape (r, b) }",
    "two transposes": "(float[2, 8] x) => (float[2, 8] y)"
    "{ t = Transpose <perm = [1, 0]> (x) y = Transpose <perm = [1, 0]> (t) }",
    "two bounds": "(float[2, 8] x) => (float[2, 8] y) <float a = {0}, float b = {6}>{ m = Max (x, a) y = Min (m, b) }",
    "two slices": "(float[2, 8] x) => (float[2, 4] y, float[2, 4] z)"
    "<int64[1] a = {0}, int64[1] b = {4}, int64[1] c = {8}, int64[1] axis = {1}>"
    "{ s = Slice (x, a, b, axis) t = Slice (x, b, c, axis) y = Relu (s) z = Relu (t) }",
    "a product with one": "(float[2, 8] x) => (float[2, 8] y) <float one = {1}> { m = Mul (x, one) y = Relu (m) }",
    "nothing": "(float[2, 8] x) => (float[2, 8] y) { y = Relu (x) }",
}


SAME = ("two slices", "nothing")


def model_of(text: str) -> ir.Model:
    parsed = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 18]> small {text}')
    return ir.from_proto(onnx.shape_inference.infer_shapes(parsed))


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_is_what_the_optimizer_makes_of_it(name: str) -> None:
    ours, theirs = model_of(GRAPHS[name]), model_of(GRAPHS[name])
    optimize(ours)
    optimize_ir(theirs)
    assert ir.to_proto(ours) == ir.to_proto(theirs)
    before = [node.op_type for node in model_of(GRAPHS[name]).graph]
    assert ([node.op_type for node in ours.graph] == before) == (name in SAME)


def test_the_rules_are_there_again_also_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    before, infer = getattr(onnxscript.rewriter, RULES), FoldConstantsPass._do_inference
    optimize(model_of(GRAPHS["nothing"]))
    assert (getattr(onnxscript.rewriter, RULES), FoldConstantsPass._do_inference) == (before, infer)
    monkeypatch.setattr("onnxscript.optimizer.optimize_ir", lambda model: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        optimize(model_of(GRAPHS["nothing"]))
    assert (getattr(onnxscript.rewriter, RULES), FoldConstantsPass._do_inference) == (before, infer)


def test_shapes_that_are_not_known_are_inferred() -> None:
    text = "(float[2, 8] x) => (float[2, 8] y) { a = Relu (x) b = Exp (a) y = Neg (b) }"
    ours, theirs = (
        ir.from_proto(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 18]> small {text}')) for _ in "ab"
    )
    optimize(ours)
    optimize_ir(theirs)
    assert ir.to_proto(ours) == ir.to_proto(theirs)
    assert [value.shape for node in ours.graph for value in node.outputs] == [ir.Shape([2, 8])] * 3


def test_a_release_that_keeps_its_patterns_elsewhere_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = (*getattr(onnxscript.rewriter, RULES), "a rule without a pattern that could be read")
    monkeypatch.setattr(onnxscript.rewriter, RULES, rules)
    with _rules_narrowed():
        assert getattr(onnxscript.rewriter, RULES) is rules
