"""A torch module -> an ONNX model with static shapes, readable names and nothing of the machine it was made on.

module --torch.export--> program --hoist--> program --torch.onnx--> model --fold, name, stamp--> model
"""

from __future__ import annotations

import ast
import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import onnx_ir as ir
import onnxscript.optimizer
import torch
from torch import Tensor, nn

from edgeprune.errors import EdgepruneError
from edgeprune.export.hoist import hoist
from edgeprune.selection import lower_take

__all__ = ["to_onnx"]

BATCH = "batch"


def to_onnx(
    module: nn.Module,
    example: Tensor,
    outputs: Sequence[str],
    *,
    opset: int,
    ir_version: int,
    dynamic_batch: bool = False,
    hoisted: bool = True,
    metadata: Mapping[str, str] | None = None,
) -> ir.Model:
    """The ONNX model of a module with one input, `pixel_values`, shaped like the example.

    Initializers keep the names of the module's parameters (a transposed one ends in `.T`) and share their memory.
    Raises EdgepruneError when a dimension other than the batch is not static, or the opset is not the one asked for.
    """
    dynamic = ({0: torch.export.Dim(BATCH)},) if dynamic_batch else None
    with torch.no_grad(), _quiet():
        program = torch.export.export(module.eval(), (example,), dynamic_shapes=dynamic)
        if hoisted:
            hoist(program)
        program = program.run_decompositions(LOWERED)
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=opset,
            input_names=["pixel_values"],
            output_names=list(outputs),
            optimize=False,
            verbose=False,
        )
        assert exported is not None
        model: ir.Model = exported.model
        if dynamic_batch:
            _name_batch(model.graph)
        _transpose_weights(model.graph)
        onnxscript.optimizer.optimize_ir(model)
    _use_module_names(model.graph, set(module.state_dict()))
    _forget_origin(model)
    model.ir_version = ir_version
    model.producer_name, model.producer_version = "edgeprune", None
    model.metadata_props.clear()
    model.metadata_props.update(metadata or {})
    _check(model, opset, dynamic_batch)
    return model


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """scaled_dot_product_attention as two products around a softmax, scaled on both sides before the first: the form
    that TensorRT fuses. The exporter's own asks for the shape of the keys at run time when the batch is free.
    """
    if is_causal or enable_gqa or dropout_p:
        raise EdgepruneError("attention of a vision encoder must not be causal, grouped or dropped out")
    factor = (query.shape[-1] ** -0.5 if scale is None else scale) ** 0.5
    weights: Tensor = (query * factor) @ (key * factor).transpose(-1, -2)
    if attn_mask is not None:
        weights = weights.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else weights + attn_mask
    attended: Tensor = weights.softmax(dim=-1) @ value
    return attended


LOWERED = {
    torch.ops.edgeprune.take.default: lower_take,
    torch.ops.aten.scaled_dot_product_attention.default: _attention,
}


def _name_batch(graph: ir.Graph) -> None:
    """torch invents a symbol for the free dimension; call it what it is."""
    pixel_values = graph.inputs[0]
    assert pixel_values.shape is not None
    symbol = pixel_values.shape[0]
    for value in (*graph.inputs, *(value for node in graph for value in node.outputs)):
        if value.shape is not None and any(size == symbol for size in value.shape):
            value.shape = ir.Shape([BATCH if size == symbol else size for size in value.shape])


def _transpose_weights(graph: ir.Graph) -> None:
    """Before  MatMul(x, Transpose(w))    After  MatMul(x, w.T)    w.T is written out when the file is."""
    for node in list(graph):
        weight = node.inputs[0] if node.op_type == "Transpose" else None
        if weight is None or weight.name not in graph.initializers or weight.const_value is None:
            continue
        name = f"{weight.name}.T"
        if name not in graph.initializers:
            source = weight.const_value
            shape = ir.Shape(tuple(reversed(source.shape.numpy())))
            turned = ir.Value(name=name, shape=shape, type=ir.TensorType(source.dtype))
            turned.const_value = ir.LazyTensor(
                partial(_turned, source, name), dtype=source.dtype, shape=shape, name=name
            )
            graph.register_initializer(turned)
        ir.convenience.replace_all_uses_with(node.outputs[0], graph.initializers[name])
        graph.remove(node, safe=True)


def _turned(source: ir.TensorProtocol, name: str) -> ir.TensorProtocol:
    return ir.Tensor(np.ascontiguousarray(source.numpy().T), name=name)


def _use_module_names(graph: ir.Graph, parameters: set[str]) -> None:
    """Name nodes and values after the module they come from: `encoder.layers.22.self_attn.q_proj/MatMul`.

    What the top module does itself, outside its parts, is the selection. A constant that is no parameter is named after
    the node and input that read it first.
    """
    taken = {value.name for value in (*graph.inputs, *graph.outputs)}
    for node in graph:
        scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "['']"))
        module = (scopes[-2] if len(scopes) > 1 else scopes[-1]) or "selection"
        base = name = f"{module}/{node.op_type}"
        count = 1
        while name in taken:
            count += 1
            name = f"{base}_{count}"
        taken.add(name)
        node.name = name
        for at, value in enumerate(node.outputs):
            if value not in graph.outputs:
                value.name = name if at == 0 else f"{name}:{at}"
    for value in list(graph.initializers.values()):
        if str(value.name).removesuffix(".T") not in parameters and value not in graph.outputs and value.uses():
            reader = next(iter(value.uses()))
            value.name = f"{reader.node.name}.input{reader.idx}"


def _forget_origin(model: ir.Model) -> None:
    """No stack traces: they hold the paths of the exporting machine."""
    model.doc_string = None
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()


def _check(model: ir.Model, opset: int, dynamic_batch: bool) -> None:
    if model.opset_imports[""] != opset:
        raise EdgepruneError(f"the graph must have opset {opset}, the exporter wrote {model.opset_imports['']}")
    allowed = {BATCH} if dynamic_batch else set()
    for value in (*model.graph.inputs, *(value for node in model.graph for value in node.outputs)):
        if value.shape is None:
            raise EdgepruneError(f"every shape must be known; that of {value.name} is not")
        free = {str(size) for size in value.shape if not isinstance(size, int)}
        if (free and not dynamic_batch) or (value in model.graph.inputs and free - allowed):
            raise EdgepruneError(f"every shape must be static; {value.name} has {value.shape}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters print to stdout and warn of packages nobody asked for; errors still come as exceptions."""
    loggers = {name: logging.getLogger(name) for name in ("torch.onnx", "onnx_ir", "onnxscript")}
    levels = {name: logger.level for name, logger in loggers.items()}
    for logger in loggers.values():
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            loggers[name].setLevel(level)
