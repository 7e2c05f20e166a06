"""Quantised products into the graph, each between float tensors.

    before   MatMul(x, w)
    after    MatMul(DequantizeLinear(QuantizeLinear(x)), DequantizeLinear(w'))         w' of 8 bits, a scale a column
    dynamic  Cast(MatMulInteger(q, w', zero)) * (scale * w' scale)                     q, scale, zero =
                                                                                       DynamicQuantizeLinear(x)

Products of one tensor share its QuantizeLinear. A Gemm, which a product of two dimensions is exported as, is written as
a MatMul and an addition. Sums, norms and what is between layers stay float.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import torch

from edgeprune.export.quantise.arithmetic import Affine, affine_of, quantised_weight, scales_of
from edgeprune.export.quantise.scheme import Scheme

__all__ = ["write_quantised"]

TYPES = {"u8": ir.DataType.UINT8, "s8": ir.DataType.INT8, "s7": ir.DataType.INT8, "f8e4m3": ir.DataType.FLOAT8E4M3FN}


def write_quantised(model: ir.Model, names: Mapping[str, tuple[float, float]], scheme: Scheme) -> set[str]:
    """Quantise these products, in place; returns those that are in the graph.

    model: in the float of the scheme; names: of products, with the range of each one's input
    """
    writer, written = _Writer(model.graph, scheme), set()
    for node in list(model.graph):
        name = str(node.name).rpartition("/")[0]
        if node.op_type in ("MatMul", "Gemm") and name in names and writer.weight_of(node) is not None:
            writer.quantise(node, names[name])
            written.add(name)
    for name, value in list(model.graph.initializers.items()):
        if not value.uses() and value not in model.graph.outputs:
            del model.graph.initializers[name]
    for part in (model.graph, *model.graph.subgraphs()):
        part.opset_imports[""] = max(part.opset_imports[""], scheme.opset)
    return written


class _Writer:
    def __init__(self, graph: ir.Graph, scheme: Scheme) -> None:
        self._graph, self._scheme = graph, scheme
        self._float = ir.DataType.FLOAT16 if scheme.rest == "float16" else ir.DataType.FLOAT
        self._inputs: dict[tuple[ir.Value, Affine | None], tuple[ir.Value, ...]] = {}

    def weight_of(self, node: ir.Node) -> ir.Value | None:
        value = node.inputs[1]
        return value if value is not None and value.is_initializer() and value.const_value is not None else None

    def quantise(self, node: ir.Node, range_: tuple[float, float]) -> None:
        given, weight = node.inputs[0], self.weight_of(node)
        assert given is not None
        assert weight is not None
        turned = node.op_type == "Gemm" and bool(node.attributes.get_int("transB", 0))
        quantised, scales = self._weight(weight, turned)
        if self._scheme.dynamic:
            product = self._dynamic(node, given, quantised, scales)
        else:
            affine = affine_of(*range_, self._scheme.activations, getattr(torch, self._scheme.rest))
            assert scales.const_value is not None
            zeros = np.zeros(scales.const_value.size, TYPES[self._scheme.weights].numpy())
            zero = self._constant(f"{quantised.name}.zero", zeros)
            back = self._node(
                f"{node.name}/DequantizeLinear", "DequantizeLinear", (quantised, scales, zero), self._float,
                quantised.shape, node, {"axis": 1},
            )  # fmt: skip
            (x,) = self._input(node, given, affine)
            product = self._node(f"{node.name}/product", "MatMul", (x, back), self._float, node.outputs[0].shape, node)
        if node.op_type == "Gemm" and len(node.inputs) > 2 and node.inputs[2] is not None:
            sum_ = (product, node.inputs[2])
            product = self._node(f"{node.name}/Add", "Add", sum_, self._float, node.outputs[0].shape, node)
        self._replace(node, product)

    def _replace(self, node: ir.Node, product: ir.Value) -> None:
        """The last of what is written takes the node's name, and its output's."""
        old, new = node.outputs[0], product.producer()
        assert new is not None
        name = node.name
        if old.is_graph_output():
            outputs = self._graph.outputs
            outputs[outputs.index(old)] = product
        old.replace_all_uses_with(product)
        self._graph.remove(node, safe=True)
        new.name, product.name = name, old.name

    def _weight(self, weight: ir.Value, turned: bool) -> tuple[ir.Value, ir.Value]:
        """[C, D] of 8 bits, and the scale of each column; turned: whether it stands as [D, C]"""
        name = str(weight.name) if not turned else f"{weight.name}.T"
        kind = self._scheme.weights
        if (there := self._graph.initializers.get(f"{name}.{kind}")) is not None:
            return there, self._graph.initializers[f"{name}.scale"]
        assert weight.const_value is not None
        rows = torch.from_numpy(np.ascontiguousarray(weight.const_value.numpy())).float()
        rows = rows if turned else rows.T.contiguous()  # [D, C]
        scales = scales_of(rows, kind, getattr(torch, self._scheme.rest))
        columns = quantised_weight(rows, scales, kind).T.contiguous()
        stored = columns.view(torch.uint8).numpy().view(TYPES[kind].numpy()) if kind == "f8e4m3" else columns.numpy()
        return self._constant(f"{name}.{kind}", stored), self._float_constant(f"{name}.scale", scales.numpy())

    def _input(self, node: ir.Node, value: ir.Value, affine: Affine) -> tuple[ir.Value, ...]:
        """The value through the integers and back, once for each range."""
        if (value, affine) not in self._inputs:
            kind, name = TYPES[affine.kind], self._free(f"{value.name}/QuantizeLinear")
            scale = self._float_constant(f"{name}.scale", np.array(affine.scale))
            zero = self._constant(f"{name}.zero", np.array(affine.zero, kind.numpy()))
            quantised = self._node(name, "QuantizeLinear", (value, scale, zero), kind, value.shape, node)
            back = self._node(
                name.replace("/Quantize", "/Dequantize"), "DequantizeLinear", (quantised, scale, zero), self._float,
                value.shape, node,
            )  # fmt: skip
            self._inputs[value, affine] = (back,)
        return self._inputs[value, affine]

    def _dynamic(self, node: ir.Node, value: ir.Value, weight: ir.Value, scales: ir.Value) -> ir.Value:
        if (value, None) not in self._inputs:
            name = self._free(f"{value.name}/DynamicQuantizeLinear")
            new = ir.node("DynamicQuantizeLinear", (value,), num_outputs=3, name=name)
            types = (ir.DataType.UINT8, value.shape), (self._float, ir.Shape([])), (ir.DataType.UINT8, ir.Shape([]))
            for at, (one, (dtype, shape)) in enumerate(zip(new.outputs, types, strict=True)):
                one.name, one.dtype, one.shape = name if at == 0 else f"{name}:{at}", dtype, shape
            self._graph.insert_before(node, new)
            self._inputs[value, None] = tuple(new.outputs)
        quantised, scale, zero = self._inputs[value, None]
        shape = node.outputs[0].shape
        both = self._node(f"{node.name}/scale", "Mul", (scale, scales), self._float, scales.shape, node)
        whole = self._node(
            f"{node.name}/MatMulInteger", "MatMulInteger", (quantised, weight, zero), ir.DataType.INT32, shape, node
        )
        cast = self._node(f"{node.name}/Cast", "Cast", (whole,), self._float, shape, node, {"to": self._float.value})
        return self._node(f"{node.name}/Mul", "Mul", (cast, both), self._float, shape, node)

    def _node(
        self,
        name: str,
        operator: str,
        inputs: tuple[ir.Value, ...],
        dtype: ir.DataType,
        shape: ir.Shape | None,
        before: ir.Node,
        attributes: dict[str, int] | None = None,
    ) -> ir.Value:
        new = ir.node(operator, inputs, attributes, name=name)
        value = new.outputs[0]
        value.name, value.dtype, value.shape = name, dtype, shape
        self._graph.insert_before(before, new)
        return value

    def _free(self, name: str) -> str:
        """A tensor that products of two ranges read has two."""
        taken = {one.name for one in self._graph if str(one.name).startswith(name)}
        return name if not taken else f"{name}_{len(taken) + 1}"

    def _float_constant(self, name: str, array: np.ndarray) -> ir.Value:
        return self._constant(name, array.astype(self._float.numpy()))

    def _constant(self, name: str, array: np.ndarray) -> ir.Value:
        if (there := self._graph.initializers.get(name)) is not None:
            return there
        tensor = ir.tensor(array, name=name)
        value = ir.val(name, tensor.dtype, array.shape, const_value=tensor)
        self._graph.register_initializer(value)
        return value
