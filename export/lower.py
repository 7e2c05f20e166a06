"""Operators that ONNX lacks written as others, each where it stands: what `run_decompositions` makes of a program of
static shapes, in a tenth of the time, because what ONNX has is not traced again.

    Before   scaled_dot_product_attention(q, k, v)           After   softmax((q * f) @ (k * f).T) @ v
             take(x, rows), flatten(x), to(x, float32)               index_select(x, 1, rows), view(x, sizes), x
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor
from torch._decomp import _should_decompose_because_unsafe_op as _should_decompose
from torch.export import ExportedProgram
from torch.export.graph_signature import TensorArgument
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_leaves

__all__ = ["lower"]

aten = torch.ops.aten

Functions = Mapping[Any, Callable[..., Any]]


class _NeedsMore(Exception):
    """Something that only torch's own pass takes apart."""


def lower(program: ExportedProgram, functions: Functions, known: Collection[Any]) -> bool:
    """Put the operators' functions in their place, also in the bodies of loops; in place.

    functions: operator -> what stands for it; known: operators, and what is called beside such, that may stay

    Returns False when something is left for `run_decompositions`: a free dimension, an operator that writes in place,
    or one that is neither known nor has a function. What was replaced until then computes the same.
    """
    modules = [module for module in program.graph_module.modules() if isinstance(module, GraphModule)]
    try:
        for module in modules:
            _check(module.graph, functions, known)
        for module in modules:
            _lower(module.graph, functions, known, {})
            module.recompile()
    except _NeedsMore:
        return False
    finally:
        outputs: Any = program.graph.output_node().args[0]
        for spec, value in zip(program.graph_signature.output_specs, outputs, strict=True):
            if isinstance(spec.arg, TensorArgument) and isinstance(value, Node):
                spec.arg.name = value.name
    return True


def _check(graph: Graph, functions: Functions, known: Collection[Any]) -> None:
    """Raises _NeedsMore."""
    for node in graph.nodes:
        if node.op != "call_function" or node.target is aten._assert_tensor_metadata.default:
            continue
        sizes = [getattr(value, "shape", None) for value in tree_leaves(node.meta.get("val"))]
        static = all(size is not None and all(isinstance(one, int) for one in size) for size in sizes)
        stays = node.target in known and not _taken_apart(node.target)
        replaced = node.target in _LOOKS or (node.target in functions and not _writes(node.target))
        if not static or not (stays or replaced):
            raise _NeedsMore


def _taken_apart(target: Any) -> bool:
    """Whether torch takes the operator apart whatever is known of it: it writes in place, or is made of others and says
    how numbers are looked at, or is made of others that may write.
    """
    if not isinstance(target, torch._ops.OpOverload):
        return False
    aliases = any(argument.alias_info is not None for argument in target._schema.arguments)
    return _writes(target) or (target._can_decompose() and (aliases or _should_decompose(target)))


def _writes(target: Any) -> bool:
    return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable


def _lower(graph: Graph, functions: Functions, known: Collection[Any], traced: dict[str, Graph]) -> None:
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in _LOOKS:
            _LOOKS[node.target](graph, node)
        elif node.op == "call_function" and node.target in functions:
            _inline(graph, node, functions, known, traced)
    graph.eliminate_dead_code()


# What only says how numbers are looked at, or nothing: torch takes these apart whether ONNX has them or not.


def _becomes(graph: Graph, node: Node, target: Any, *args: Any, **kwargs: Any) -> None:
    with graph.inserting_before(node):
        other = graph.call_function(target, args, kwargs)
    other.meta = node.meta
    node.replace_all_uses_with(other)
    graph.erase_node(node)


def _nothing(graph: Graph, node: Node) -> None:
    node.replace_all_uses_with(node.all_input_nodes[0])
    graph.erase_node(node)


def _view(graph: Graph, node: Node) -> None:
    """A view of a copy: what it is of may be in any order in memory, which ONNX does not know of."""
    (source,) = node.all_input_nodes
    with graph.inserting_before(node):
        copied = graph.call_function(aten.clone.default, (source,), {"memory_format": torch.contiguous_format})
    copied.meta = {**node.meta, "val": source.meta["val"]}
    _becomes(graph, node, aten._unsafe_view.default, copied, list(node.meta["val"].shape))


def _expand(graph: Graph, node: Node) -> None:
    _becomes(graph, node, aten.expand.default, node.args[0], list(node.meta["val"].shape))


def _turn(graph: Graph, node: Node) -> None:
    _becomes(graph, node, aten.transpose.int, node.args[0], -2, -1)


def _reverse(graph: Graph, node: Node) -> None:
    _becomes(graph, node, aten.permute.default, node.args[0], [*reversed(range(node.meta["val"].dim()))])


def _dropped(graph: Graph, node: Node) -> None:
    if node.args[2]:  # in training
        raise _NeedsMore
    _nothing(graph, node)


def _cast(graph: Graph, node: Node) -> None:
    (source,), dtype = node.all_input_nodes, node.meta["val"].dtype
    if source.meta["val"].dtype == dtype:
        _nothing(graph, node)
    else:
        _becomes(graph, node, aten._to_copy.default, source, dtype=dtype)


_LOOKS: dict[Any, Callable[[Graph, Node], None]] = {
    aten._assert_tensor_metadata.default: lambda graph, node: graph.erase_node(node),
    aten.contiguous.default: _nothing,
    aten.detach_.default: _nothing,  # torch.tensor(...) in traced code
    aten.dropout.default: _dropped,
    aten.expand_as.default: _expand,
    aten.flatten.using_ints: _view,
    aten.mT.default: _turn,
    aten.numpy_T.default: _reverse,
    aten.reshape.default: _view,
    aten.to.dtype: _cast,
    aten.unflatten.int: _view,
}


# What has a function


def _inline(graph: Graph, node: Node, functions: Functions, known: Collection[Any], traced: dict[str, Graph]) -> None:
    sources = node.all_input_nodes
    given: Any = (node.args, node.kwargs)
    key = f"{node.target} {torch.fx.map_arg(given, lambda source: _kind(source, sources))}"
    if key not in traced:
        traced[key] = _trace(node, sources, functions)
        _lower(traced[key], {}, known, traced)
        _check(traced[key], {}, known)
    inner = traced[key]
    values = dict(zip((one for one in inner.nodes if one.op == "placeholder"), sources, strict=True))
    origin = {name: value for name, value in node.meta.items() if name != "val"}
    with graph.inserting_before(node):
        for one in inner.nodes:
            if one.op == "call_function":
                values[one] = graph.node_copy(one, values.__getitem__)
                values[one].meta = {**origin, "val": one.meta["val"]}
    result: Any = torch.fx.map_arg(inner.output_node().args[0], values.__getitem__)
    if isinstance(result, Node):
        node.replace_all_uses_with(result)
    else:
        for user in list(node.users):  # several results, each taken out by a getitem
            user.replace_all_uses_with(result[user.args[1]])
            graph.erase_node(user)
    graph.erase_node(node)


def _kind(source: Node, sources: list[Node]) -> str:
    """As far as a trace depends on an argument: which it is, its dtype and its shape."""
    value = source.meta.get("val")
    if not isinstance(value, Tensor):
        raise _NeedsMore
    return f"{sources.index(source)} {value.dtype} {list(value.shape)}"


def _trace(node: Node, sources: list[Node], functions: Functions) -> Graph:
    def run(*tensors: Tensor) -> Any:
        values = dict(zip(sources, tensors, strict=True))
        args, kwargs = torch.fx.map_arg((node.args, node.kwargs), values.__getitem__)
        return functions[node.target](*args, **kwargs)

    with torch._guards.detect_fake_mode([node.meta["val"]]) or contextlib.nullcontext():
        traced = make_fx(run, dict(functions), pre_dispatch=True)(*(source.meta["val"] for source in sources))
    if any(one.op == "get_attr" for one in traced.graph.nodes):  # a constant of its own
        raise _NeedsMore
    return traced.graph
