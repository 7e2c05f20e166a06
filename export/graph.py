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
import torch
from onnx_ir.passes.common import InlinePass
from torch import Tensor, nn

from edgeprune.errors import EdgepruneError
from edgeprune.export.hoist import hoist
from edgeprune.export.optimize import optimize
from edgeprune.export.translate import translate
from edgeprune.pruners._select import lower_take

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
    others: Mapping[str, Tensor] | None = None,
) -> ir.Model:
    """The ONNX model of a module that takes `pixel_values`, shaped like the example.

    others: what it takes behind them, by name and in order

    Initializers keep the names of the module's parameters (a transposed one ends in `.T`) and share their memory.
    Raises EdgepruneError when a dimension other than the batch is not static, or the opset is not the one asked for.
    """
    dynamic = None
    if dynamic_batch:
        free = {0: torch.export.Dim(BATCH)}
        dynamic = (free, (free,) * len(others)) if others else (free,)
    with torch.no_grad(), _quiet():
        program = torch.export.export(module.eval(), (example, *(others or {}).values()), dynamic_shapes=dynamic)
        if hoisted:
            hoist(program)
        model = translate(
            program,
            LOWERED,
            opset_version=opset,
            input_names=["pixel_values", *(others or {})],
            output_names=list(outputs),
            optimize=False,
            verbose=False,
        )
        InlinePass()(model)  # the body of a Scan comes as a call of a function
        if dynamic_batch:
            _name_batch(model.graph)
        _transpose_weights(model.graph)
        optimize(model)
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


def _eye(size: int, *, dtype: torch.dtype | None = None, **_: object) -> Tensor:
    """The unit matrix [size, size]. The exporter's own compares numbers of 16 bits, which TensorRT does not read."""
    place = torch.arange(size)
    return (place.unsqueeze(-1) == place).to(dtype or torch.get_default_dtype())


LOWERED = {
    torch.ops.edgeprune.take.default: lower_take,
    torch.ops.aten.eye.default: _eye,
    torch.ops.aten.scaled_dot_product_attention.default: _attention,
}


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    """The inputs and all that nodes compute, also inside the bodies of loops."""
    for part in (graph, *graph.subgraphs()):
        yield from part.inputs
    for node in graph.all_nodes():
        yield from node.outputs


def _name_batch(graph: ir.Graph) -> None:
    """torch invents a symbol for the free dimension; call it what it is."""
    pixel_values = graph.inputs[0]
    assert pixel_values.shape is not None
    symbol = pixel_values.shape[0]
    for value in _values(graph):
        if value.shape is not None and any(size == symbol for size in value.shape):
            value.shape = ir.Shape([BATCH if size == symbol else size for size in value.shape])


def _transpose_weights(graph: ir.Graph) -> None:
    """Before  MatMul(x, Transpose(w))    After  MatMul(x, w.T)    w.T is written out when the file is."""
    for node in list(graph.all_nodes()):
        weight = node.inputs[0] if node.op_type == "Transpose" else None
        if weight is None or weight.name not in graph.initializers or weight.const_value is None:
            continue
        order = list(reversed(range(len(weight.const_value.shape))))
        if list(node.attributes.get_ints("perm", order)) != order:  # a table of positions, whose rows are taken
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
        assert isinstance(node.graph, ir.Graph)
        node.graph.remove(node, safe=True)


def _turned(source: ir.TensorProtocol, name: str) -> ir.TensorProtocol:
    return ir.Tensor(np.ascontiguousarray(source.numpy().T), name=name)


def _use_module_names(graph: ir.Graph, parameters: set[str]) -> None:
    """Name nodes and values after the module they come from: `encoder.layers.22.self_attn.q_proj/MatMul`.

    What the top module does itself, outside its parts, is the selection. A constant that is no parameter is named after
    the node and input that read it first. What stands in the body of a loop is named after the loop, so that no name is
    there twice: `selection/Scan/ArgMax`; what the body is given is `selection/Scan/in`, `selection/Scan/in:1` and on.
    """
    taken = {value.name for value in (*graph.inputs, *graph.outputs)}

    def name_nodes(part: ir.Graph, loop: str | None) -> None:
        for node in part:
            name = _free(f"{loop or _module(node)}/{node.op_type}", taken)
            node.name = name
            _name_values(node.outputs, name, graph.outputs)
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.GRAPH:
                    body = attribute.as_graph()
                    body.name = name
                    _name_values(body.inputs, _free(f"{name}/in", taken))
                    name_nodes(body, name)

    name_nodes(graph, None)
    for value in list(graph.initializers.values()):
        if str(value.name).removesuffix(".T") not in parameters and value not in graph.outputs and value.uses():
            reader = next(iter(value.uses()))
            value.name = f"{reader.node.name}.input{reader.idx}"


def _module(node: ir.Node) -> str:
    scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "['']"))
    return (scopes[-2] if len(scopes) > 1 else scopes[-1]) or "selection"


def _free(base: str, taken: set[str | None]) -> str:
    """The name, or with the first number that makes it a new one; it is taken then."""
    name, count = base, 1
    while name in taken:
        count += 1
        name = f"{base}_{count}"
    taken.add(name)
    return name


def _name_values(values: Sequence[ir.Value], name: str, named: Sequence[ir.Value] = ()) -> None:
    for at, value in enumerate(values):
        if value not in named:
            value.name = name if at == 0 else f"{name}:{at}"


def _forget_origin(model: ir.Model) -> None:
    """No stack traces: they hold the paths of the exporting machine."""
    model.doc_string = None
    for part in (model.graph, *model.graph.subgraphs()):
        part.doc_string = None
        part.metadata_props.clear()
        for value in part.initializers.values():
            value.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
    for value in _values(model.graph):
        value.metadata_props.clear()
        value.doc_string = None


def _check(model: ir.Model, opset: int, dynamic_batch: bool) -> None:
    if model.opset_imports[""] != opset:
        raise EdgepruneError(f"the graph must have opset {opset}, the exporter wrote {model.opset_imports['']}")
    if model.functions:
        raise EdgepruneError(f"the graph must have no functions of its own, the exporter left {len(model.functions)}")
    allowed = {BATCH} if dynamic_batch else set()
    for value in _values(model.graph):
        if value.shape is None:
            raise EdgepruneError(f"every shape must be known; that of {value.name} is not")
        free = {str(size) for size in value.shape if not isinstance(size, int)}
        if (free and not dynamic_batch) or (value in model.graph.inputs and free - allowed):
            raise EdgepruneError(f"every shape must be static; {value.name} has {value.shape}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters print to stdout and warn of packages nobody asked for; errors still come as exceptions.

    Where in the code a node was made, which torch asks Python for at each of them, is left out: no graph keeps it.
    """
    loggers = {name: logging.getLogger(name) for name in ("torch.onnx", "onnx_ir", "onnxscript")}
    levels = {name: logger.level for name, logger in loggers.items()}
    for logger in loggers.values():
        logger.setLevel(logging.ERROR)
    traced = getattr(torch.fx.config, "do_not_emit_stack_traces", None)
    try:
        torch.fx.config.do_not_emit_stack_traces = True
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.fx.config.do_not_emit_stack_traces = bool(traced)
        for name, level in levels.items():
            loggers[name].setLevel(level)
