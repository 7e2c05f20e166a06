"""The graph in the words of an older TensorRT: opset 17, and operators on the dtypes that it computes.

    operator              opset 18                    written as
    Reduce*               the axes are an input       the axes are an attribute
    Split                 num_outputs                 the sizes of the parts, or nothing where they are equal
    Pad                   pads of the named axes      pads of every axis
    LayerNormalization    where it is forbidden       (x - mean) / sqrt(variance + epsilon) * scale + bias
    TopK, CumSum, Clip,   of integers, where only     the same between a cast to float32 and a cast back,
    Reduce*               floats are computed         exact up to 2^24
    TopK                  K is computed, but static   K is a constant

Of these only the norm changes arithmetic: it is computed in float32, as ONNX defines it. What else opset 18 changed is
refused by the name of its node: no reader shall take an operator for an older one.

Source  https://github.com/onnx/onnx/blob/main/docs/Changelog.md, version 18
        https://github.com/onnx/onnx-tensorrt/blob/release/8.5-GA/docs/operators.md, the dtypes of each operator
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx.defs
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from edgeprune.errors import TargetError
from edgeprune.targets import Target

__all__ = ["REDUCTIONS", "TRACED_OPSET", "downgrade", "floats_only", "integers"]

TRACED_OPSET = 18
"""the oldest that torch's exporter writes"""

REDUCTIONS = ("ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum")


def downgrade(model: ir.Model, target: Target) -> ir.Model:
    """Rewrite the graph, in place, where the target wants it older; returns the same model.

    model: as `to_onnx` made it, with the target's opset or, where that is older, TRACED_OPSET
    Raises TargetError when a node cannot be said in the target's opset.
    """
    for node in list(model.graph.all_nodes()):
        if node.op_type == "LayerNormalization" and node.op_type in target.onnx.forbidden_ops:
            _write_out_layer_norm(node)
        elif node.op_type in floats_only(target) and (dtype := integers(node)):
            _compute_in_float(node, dtype)
        elif node.op_type == "MatMul" and not target.onnx.float32_matmul:
            _write_out_matmul(node)
        if node.op_type == "TopK" and target.engine.kind != "onnxruntime":
            _fix_k(node)
    if target.onnx.opset < model.opset_imports[""]:
        _to_opset_17(model, target)
    RemoveUnusedNodesPass()(model)  # what a K was computed from, and axes that are attributes now
    model.ir_version = min(model.ir_version, target.onnx.ir_version)
    return model


def floats_only(target: Target) -> frozenset[str]:
    """The operators that TensorRT computes for floats alone: Clip and CumSum in every release, reductions before 9, and
    TopK where the target says so.
    """
    kinds: set[str] = set()
    if target.engine.kind == "tensorrt":
        kinds.update(("Clip", "CumSum"))
    if target.engine.typing == "weak_fp16":
        kinds.update(REDUCTIONS)
    if target.onnx.index_float:
        kinds.add("TopK")
    return frozenset(kinds)


def integers(node: ir.Node) -> ir.DataType | None:
    """The dtype of what the node computes on, when that is integers."""
    dtype = None if not node.inputs or node.inputs[0] is None else node.inputs[0].dtype
    return dtype if dtype is not None and dtype.is_integer() else None


# Opset 18 -> 17


def _to_opset_17(model: ir.Model, target: Target) -> None:
    if (model.opset_imports[""], target.onnx.opset) != (18, 17):
        asked = f"{model.opset_imports['']} -> {target.onnx.opset}"
        raise TargetError(f"only opset 18 -> 17 can be written, {target.name} asks for {asked}; set its onnx.opset")
    for node in list(model.graph.all_nodes()):
        if node.domain or onnx.defs.get_schema(node.op_type, 18).since_version < 18:
            continue
        rewrite = _REWRITES.get(node.op_type)
        if rewrite is None or not rewrite(node):
            raise TargetError(
                f"{node.name}: opset 17 of {target.name} cannot say this {node.op_type}; "
                "choose another --method, or a --target with opset 18"
            )
    for graph in (model.graph, *model.graph.subgraphs()):
        graph.opset_imports[""] = 17


# Each returns whether opset 17 can say what the node does.


def _reduce(node: ir.Node) -> bool:
    noop = node.attributes.get_int("noop_with_empty_axes", 0)
    node.attributes.pop("noop_with_empty_axes", None)
    if (given := _input(node, 1)) is None:
        return not noop  # all axes, in both
    if (axes := _constant(given)) is None or (not axes.size and noop):
        return False
    if axes.size:
        node.attributes["axes"] = ir.AttrInt64s("axes", axes.tolist())
    node.resize_inputs(1)
    return True


def _split(node: ir.Node) -> bool:
    if node.attributes.pop("num_outputs", None) is None:
        return True  # the sizes are given
    axis = node.attributes.get_int("axis", 0)
    sizes = [_shape(part)[axis] for part in node.outputs]
    if not all(isinstance(size, int) for size in sizes):
        return False
    if len(set(sizes)) > 1:  # the last part is what is left
        node.resize_inputs(2)
        node.replace_input_with(1, _initializer(node, "split", np.array(sizes, np.int64)))
    return True


def _pad(node: ir.Node) -> bool:
    if (given := _input(node, 3)) is None:
        return True
    axes, pads, rank = _constant(given), _constant(_input(node, 1)), len(_shape(node.inputs[0]))
    if axes is None or pads is None:
        return False
    every = np.zeros((2, rank), np.int64)
    every[:, axes % rank] = pads.reshape(2, -1)
    node.replace_input_with(1, _initializer(node, "pads", every.flatten()))
    node.resize_inputs(3)
    return True


def _scatter(node: ir.Node) -> bool:
    return node.attributes.get_string("reduction", "none") not in ("max", "min")


def _resize(node: ir.Node) -> bool:
    stretched = node.attributes.get_string("keep_aspect_ratio_policy", "stretch") == "stretch"
    return stretched and not node.attributes.get_int("antialias", 0) and "axes" not in node.attributes


_REWRITES: dict[str, Callable[[ir.Node], bool]] = {
    "Pad": _pad,
    "Resize": _resize,
    "ScatterElements": _scatter,
    "ScatterND": _scatter,
    "Split": _split,
    **dict.fromkeys((*REDUCTIONS, "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"), _reduce),
}


# Operators in other words


def _write_out_layer_norm(node: ir.Node) -> None:
    """The definition, in float32: https://onnx.ai/onnx/operators/onnx__LayerNormalization.html"""
    x, scale, bias = node.inputs[0], node.inputs[1], _input(node, 2)
    statistics = any(value.uses() or value.is_graph_output() for value in node.outputs[1:])
    if statistics or node.attributes.get_int("stash_type", 1) != 1:
        raise TargetError(f"{node.name}: only the float32 form with one output can be written out; use --target cpu")
    assert x is not None
    assert x.dtype is not None
    shape, dtype = _shape(x), x.dtype
    first = node.attributes.get_int("axis", -1) % len(shape)
    axes = _initializer(node, "axes", np.arange(first, len(shape), dtype=np.int64))
    epsilon = _initializer(node, "epsilon", np.array(node.attributes.get_float("epsilon", 1e-5), np.float32))
    row = ir.Shape([*list(shape)[:first], *[1] * (len(shape) - first)])

    def add(op: str, *inputs: ir.Value, like: ir.Shape = shape, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
        return _add(node, op, inputs, dtype, like)

    wide = x if dtype == ir.DataType.FLOAT else _cast(node, x, ir.DataType.FLOAT)
    deviation = add("Sub", wide, add("ReduceMean", wide, axes, like=row))
    variance = add("ReduceMean", add("Mul", deviation, deviation), axes, like=row)
    normal = add("Div", deviation, add("Sqrt", add("Add", variance, epsilon, like=row), like=row))
    if dtype != ir.DataType.FLOAT:
        normal = _cast(node, normal, dtype)
    assert scale is not None
    result = add("Mul", normal, scale, dtype=dtype)
    if bias is not None:
        result = add("Add", result, bias, dtype=dtype)
    _replace(node.outputs[0], result)
    assert isinstance(node.graph, ir.Graph)
    node.graph.remove(node, safe=True)


def _write_out_matmul(node: ir.Node) -> None:
    """A product of float32 as what it is, multiplications and a sum; of float16 it stays."""
    left, right = node.inputs
    assert left is not None
    assert right is not None
    if left.dtype != ir.DataType.FLOAT:
        return
    a, b, product = list(_shape(left)), list(_shape(right)), list(_shape(node.outputs[0]))
    if min(len(a), len(b)) < 2:
        raise TargetError(f"{node.name}: only a product of matrices can be written out; choose another --method")

    def add(op: str, x: ir.Value, y: ir.Value, sizes: list[Any]) -> ir.Value:
        return _add(
            node, op, (x, y), ir.DataType.FLOAT, ir.Shape(sizes), {"keepdims": 0} if op == "ReduceSum" else None
        )

    last, middle, third = (_initializer(node, f"axis{-at}", np.array([at], np.int64)) for at in (-1, -2, -3))
    columns = add("Unsqueeze", left, last, [*a, 1])
    rows = add("Unsqueeze", right, third, [*b[:-2], 1, *b[-2:]])
    each = add("Mul", columns, rows, [*product[:-1], a[-1], product[-1]])
    _replace(node.outputs[0], add("ReduceSum", each, middle, product))
    assert isinstance(node.graph, ir.Graph)
    node.graph.remove(node, safe=True)


def _fix_k(node: ir.Node) -> None:
    """A static K that is asked for at run time, as under a free batch, is written down: TensorRT wants a constant."""
    size = _shape(node.outputs[0])[node.attributes.get_int("axis", -1)]
    if isinstance(size, int) and _constant(node.inputs[1]) is None:
        node.replace_input_with(1, _initializer(node, "k", np.array([size], np.int64)))


def _compute_in_float(node: ir.Node, dtype: ir.DataType) -> None:
    """Integers -> float32, the node, and back to integers; the indices of a TopK stay what they are."""
    values = node.outputs[0]
    for at, given in enumerate(node.inputs[:3] if node.op_type == "Clip" else node.inputs[:1]):  # and its bounds
        if given is not None:
            node.replace_input_with(at, _cast(node, given, ir.DataType.FLOAT))
    values.type = ir.TensorType(ir.DataType.FLOAT)
    if values.uses() or values.is_graph_output():
        readers = [(reader, at) for reader, at in values.uses()]
        back = _cast(node, values, dtype, behind=True)
        for reader, at in readers:
            reader.replace_input_with(at, back)
        if values.is_graph_output():
            _replace_output(values, back)


# The graph


def _add(
    node: ir.Node,
    op: str,
    inputs: tuple[ir.Value, ...],
    dtype: ir.DataType,
    shape: ir.Shape,
    attributes: dict[str, int] | None = None,
    behind: bool = False,
) -> ir.Value:
    """A new node in front of `node` or behind it, named after it: `norm/LayerNormalization/Mul`, `.../Mul_2`."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    taken = {one.name for one in graph if str(one.name).startswith(f"{node.name}/")}
    name, count = f"{node.name}/{op}", 1
    while name in taken:
        count += 1
        name = f"{node.name}/{op}_{count}"
    new = ir.node(op, inputs, attributes, name=name)
    value = new.outputs[0]
    value.name, value.dtype, value.shape = name, dtype, shape
    (graph.insert_after if behind else graph.insert_before)(node, new)
    return value


def _cast(node: ir.Node, value: ir.Value, dtype: ir.DataType, behind: bool = False) -> ir.Value:
    return _add(node, "Cast", (value,), dtype, _shape(value), {"to": dtype.value}, behind)


def _initializer(node: ir.Node, what: str, array: np.ndarray) -> ir.Value:
    """A constant of the node's graph, named `<node>.<what>`."""
    tensor = ir.tensor(array, name=f"{node.name}.{what}")
    value = ir.val(tensor.name, tensor.dtype, array.shape, const_value=tensor)
    assert isinstance(node.graph, ir.Graph)
    node.graph.register_initializer(value)
    return value


def _replace(old: ir.Value, new: ir.Value) -> None:
    if old.is_graph_output():
        _replace_output(old, new)
    old.replace_all_uses_with(new)


def _replace_output(old: ir.Value, new: ir.Value) -> None:
    """What the graph hands out keeps its name."""
    assert old.graph is not None
    outputs, name = old.graph.outputs, old.name
    outputs[outputs.index(old)] = new
    old.name, new.name = new.name, name


def _input(node: ir.Node, at: int) -> ir.Value | None:
    return node.inputs[at] if len(node.inputs) > at else None


def _shape(value: ir.Value | None) -> ir.Shape:
    assert value is not None
    assert isinstance(value.shape, ir.Shape)
    return value.shape


def _constant(value: ir.Value | None) -> np.ndarray | None:
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()
