"""No work on rows that are thrown away: move the selection up through everything that works row by row.

    Before   rows = take(linear(gelu(linear(x))), kept)            N rows computed, K used
    After    rows = linear(gelu(linear(take(x, kept))))            K rows computed

A *selection* is `edgeprune::take` (rows known at run time) or a static slice. It moves above an operator when every
user of that operator's result is a selection along the same dimension, when together they keep no more rows than there
are, and when a rule below says which dimension of which operand they keep instead. An operator without a rule stops it.
Rows differ per image, so a `take` also needs the images to be dimension 0 of what it moves to.
Nothing here knows an encoder: the rules are facts about operators.

    Rule          moves because
    pointwise     every element stands alone; operands that broadcast along the dimension stay as they are
    linear, norm  rows are independent unless the dimension is contracted or normalised; softmax is such a norm
    matmul        rows belong to the left operand, columns to the right one
    attention     query rows are independent; keys and values stay whole (never under a causal mask)
    reshape       the dimension keeps its size and what stands before and behind it
    permutations  transpose, permute, unsqueeze, squeeze: the dimension has a new number
    slice, reductions, concatenation: along another dimension
    take(slice)   slicing first only shifts the rows: take(x[:, s:], rows) = take(x, rows + s)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import takewhile
from math import prod
from typing import Any, cast

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import TensorArgument
from torch.fx import Graph, Node
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.fx.node import Argument

import edgeprune.pruners._select  # noqa: F401  (defines the operator edgeprune::take)

__all__ = ["hoist"]

aten = torch.ops.aten
TAKE = torch.ops.edgeprune.take.default

# Where the selection goes: (operand, dimension there); the operands left out stay whole. None: it must not move.
Operands = list[tuple[Node, int]] | None
Rule = Callable[[Node, int], Operands]
_RULES: dict[Any, Rule] = {}


def hoist(program: ExportedProgram) -> int:
    """Move every selection of the program up as far as the rules allow, in place, and drop what nobody reads.

    Returns the number of moves. The program's inputs, outputs and their values (up to rounding) stay the same.
    Nothing moves across an operator that writes in place: all that stands before the last of them stays as it is
    (`program.run_decompositions({})` takes the writing out).
    """
    graph = program.graph_module.graph
    _normalise(graph)
    moves = 0
    free = list(takewhile(lambda node: not _writes(node), reversed(graph.nodes)))
    for node in free:  # users first: one sweep sees every selection that moved up to it
        if _is_slice(node):
            moves += _shift_takes(graph, node, free[-1])
        _merge_equal(graph, node)
        if (operands := _movable(node)) is not None:
            for user in list(node.users):
                _move(graph, node, user, operands)
            moves += 1
        if not node.users and not _has_effect(node):
            graph.erase_node(node)
    graph.eliminate_dead_code(_has_effect)
    graph.lint()
    program.graph_module.recompile()
    outputs = cast(tuple[Argument, ...], graph.output_node().args[0])
    for spec, value in zip(program.graph_signature.output_specs, outputs, strict=True):
        if isinstance(spec.arg, TensorArgument) and isinstance(value, Node):
            spec.arg.name = value.name
    return moves


def _has_effect(node: Node) -> bool:
    """Whether a node must stay though nobody reads it. Attention may draw random numbers; unread, they are none."""
    return bool(node.is_impure(impure_random=False))


def _normalise(graph: Graph) -> None:
    """Drop what does nothing, let views copy (a moved selection changes strides), write x[:, i] as a slice."""
    for node in list(graph.nodes):
        if node.target is aten._assert_tensor_metadata.default:
            graph.erase_node(node)
        elif node.target is aten.detach_.default:  # torch.tensor(...) in traced code; it writes nothing but history
            node.replace_all_uses_with(_source(node))
            graph.erase_node(node)
        elif node.target in (aten.view.default, aten._unsafe_view.default):
            node.target = aten.reshape.default
        elif node.target is aten.slice.Tensor and all(map(_same, _shape(node), _shape(_source(node)))):
            node.replace_all_uses_with(_source(node))
            graph.erase_node(node)
        elif node.target is aten.select.int:
            source, dim, index = node.args
            dim = _dim(source, dim)
            size = _shape(source)[dim]
            if not isinstance(index, int) or not isinstance(size, int):
                continue
            with graph.inserting_before(node):
                row = _emit(graph, node, aten.slice.Tensor, (source, dim, index % size, index % size + 1))
                node.replace_all_uses_with(_emit(graph, node, aten.squeeze.dim, (row, dim)))
            graph.erase_node(node)


def _merge_equal(graph: Graph, node: Node) -> None:
    """One selection where several users asked for the same rows, so that what stands behind it is computed once."""
    first: dict[tuple[Any, ...], Node] = {}
    for user in sorted(node.users):  # nodes compare by their place in the graph
        if user.target is TAKE or _is_slice(user):
            kept = first.setdefault((user.target, user.args), user)
            if kept is not user:
                user.replace_all_uses_with(kept)
                graph.erase_node(user)


def _movable(node: Node) -> Operands:
    """Where the selections that read the node may move; None when it has to stay."""
    rule = _RULES.get(node.target, _pointwise)
    takes = [user for user in node.users if user.target is TAKE]
    dims = {_selected_dim(user, node) for user in node.users}
    if not takes or len(dims) != 1 or None in dims:
        return None
    dim = cast(int, dims.pop())
    operands, images = rule(node, dim), rule(node, 0)
    if not operands or not statically_known_true(sum(_shape(user)[dim] for user in node.users) <= _shape(node)[dim]):
        return None
    # Rows differ per image: dimension 0 of the result must be the images, and stay dimension 0 in every operand.
    if images is None or not all(_same(_shape(user.args[1])[0], _shape(node)[0]) for user in takes):
        return None
    return operands if all(_keeps_images(node, *operand, dict(images)) for operand in operands) else None


def _keeps_images(node: Node, source: Node, dim: int, images: dict[Node, int]) -> bool:
    """Whether `take` does the same on an operand, given where its images are. All may share it: [1, N, C] or [N, C]."""
    if source in images:
        return images[source] == 0 and dim > 0
    return len(_shape(source)) == len(_shape(node)) - (dim == 0)


def _move(graph: Graph, node: Node, selection: Node, operands: list[tuple[Node, int]]) -> None:
    dim = cast(int, _selected_dim(selection, node))
    with graph.inserting_before(selection):
        chosen = {source: _emit(graph, selection, *_reselect(selection, source, at)) for source, at in operands}
        inputs = (_resized(node, dim, selection), node.kwargs)
        args, kwargs = torch.fx.map_arg(cast(Any, inputs), lambda source: chosen.get(source, source))
        moved = _emit(graph, node, node.target, args, kwargs)
    assert _shape(moved) == _shape(selection), f"{node.target}: {_shape(moved)} instead of {_shape(selection)}"
    selection.replace_all_uses_with(moved)
    graph.erase_node(selection)


def _shift_takes(graph: Graph, node: Node, first: Node) -> int:
    """take(x[:, start:], rows) -> take(x, rows + start)."""
    source, dim = _source(node), _slice_dim(node)
    start, size = _argument(node, 2, "start", None) or 0, _shape(source)[dim]
    if not isinstance(start, int) or not isinstance(size, int):
        return 0
    takes = [user for user in node.users if user.target is TAKE and user.args[0] is node and user.args[2] == dim]
    for user in takes:
        rows = cast(Node, user.args[1])
        shifted = _shifted(graph, rows, start if start >= 0 else max(start + size, 0), first, user)
        with graph.inserting_before(user):
            user.replace_all_uses_with(_emit(graph, user, TAKE, (source, shifted, dim)))
        graph.erase_node(user)
    return len(takes)


def _shifted(graph: Graph, rows: Node, start: int, first: Node, take: Node) -> Node:
    """rows + start, once, not in front of `first`: later takes use the sum that is there."""
    if start == 0:
        return rows
    for user in rows.users:
        if user.target is aten.add.Tensor and user.args == (rows, start) and not user.kwargs and first < user < take:
            return user
    place = max(rows.next, first)
    while place.op == "placeholder":
        place = place.next
    with graph.inserting_before(place):
        return _emit(graph, take, aten.add.Tensor, (rows, start))


# Selections


def _is_slice(node: Node) -> bool:
    return node.target is aten.slice.Tensor and len(node.args) < 5  # the fifth is a step


def _slice_dim(node: Node) -> int:
    return _dim(_source(node), _argument(node, 1, "dim", 0))


def _selected_dim(user: Node, node: Node) -> int | None:
    """The dimension of `node` along which `user` selects; None when it is no selection, or of something else."""
    if user.target is TAKE:
        _, rows, dim = user.args
        return cast(int, dim) or None if rows is not node else None  # rows of a table without batch stay
    return _slice_dim(user) if _is_slice(user) else None


def _reselect(selection: Node, source: Node, dim: int) -> tuple[Any, tuple[Any, ...]]:
    """The same selection on another tensor and dimension."""
    if selection.target is TAKE:
        return TAKE, (source, selection.args[1], dim)
    return aten.slice.Tensor, (source, dim, *selection.args[2:])


# Rules: where does a selection along `dim` of the node's result go? Asked about dimension 0, they say where images are.


def _rule(*targets: Any) -> Callable[[Rule], Rule]:
    def add(rule: Rule) -> Rule:
        _RULES.update(dict.fromkeys(targets, rule))
        return rule

    return add


def _broadcast(node: Node, dim: int, sources: Iterable[Any]) -> Operands:
    """Aligned at the last dimension; a source that has no such dimension, or only one row, is left out."""
    found = []
    for source in sources:
        at = dim - len(_shape(node)) + len(_shape(source))
        if at >= 0 and not _same(_shape(source)[at], 1):
            found.append((source, at))
    return found


def _pointwise(node: Node, dim: int) -> Operands:
    alone = isinstance(node.target, torch._ops.OpOverload) and torch.Tag.pointwise in node.target.tags
    sources = node.all_input_nodes if alone else []
    return _broadcast(node, dim, sources) if all(isinstance(_value(source), Tensor) for source in sources) else None


@_rule(aten.alias.default, aten.contiguous.default, aten.to.dtype, aten.to.device, aten._to_copy.default)
def _same_place(node: Node, dim: int) -> Operands:
    return [(_source(node), dim)]


@_rule(aten.dropout.default)
def _dropout(node: Node, dim: int) -> Operands:
    return [(_source(node), dim)] if not node.args[2] else None  # training: random per element


@_rule(aten.linear.default, aten.layer_norm.default, aten.rms_norm.default)
def _last(node: Node, dim: int) -> Operands:
    used = 1 if node.target is aten.linear.default else len(cast(list[int], node.args[1]))
    return [(_source(node), dim)] if dim < len(_shape(node)) - used else None


@_rule(aten.softmax.int)
def _softmax(node: Node, dim: int) -> Operands:
    return [(_source(node), dim)] if dim != _dim(node, node.args[1]) else None


@_rule(aten.matmul.default, aten.bmm.default)
def _matmul(node: Node, dim: int) -> Operands:
    left, right = node.args
    if len(_shape(left)) < 2 or len(_shape(right)) < 2 or left is right:
        return None
    behind = len(_shape(node)) - dim
    return _broadcast(node, dim, {2: (left,), 1: (right,)}.get(behind, (left, right)))


@_rule(aten.scaled_dot_product_attention.default)
def _attention(node: Node, dim: int) -> Operands:
    query, key, value = node.args[:3]
    masks = [mask] if (mask := _argument(node, 3, "attn_mask", None)) is not None else []
    if dim == 0:
        return _broadcast(node, dim, (query, key, value, *masks))
    alone = query not in (key, value) and not _argument(node, 4, "dropout_p", 0)
    if not alone or _argument(node, 5, "is_causal", False) or dim != len(_shape(node)) - 2:
        return None
    return _broadcast(node, dim, (query, *masks))


@_rule(aten.reshape.default, aten.flatten.using_ints)
def _reshape(node: Node, dim: int) -> Operands:
    before, after = _shape(_source(node)), _shape(node)
    for at, size in enumerate(before):
        if (
            _same(size, after[dim])
            and _same(prod(before[:at]), prod(after[:dim]))
            and _same(prod(before[at + 1 :]), prod(after[dim + 1 :]))
        ):
            return [(_source(node), at)]
    return None


@_rule(aten.unflatten.int)
def _unflatten(node: Node, dim: int) -> Operands:
    first, sizes = _dim(_source(node), node.args[1]), cast(list[Any], node.args[2])
    return _reshape(node, dim) if not 0 <= dim - first < len(sizes) else None  # its sizes would name the rows


@_rule(aten.transpose.int)
def _transpose(node: Node, dim: int) -> Operands:
    first, second = _dim(node, node.args[1]), _dim(node, node.args[2])
    return [(_source(node), {first: second, second: first}.get(dim, dim))]


@_rule(aten.permute.default)
def _permute(node: Node, dim: int) -> Operands:
    return [(_source(node), _dim(node, cast(list[int], node.args[1])[dim]))]


@_rule(aten.unsqueeze.default)
def _unsqueeze(node: Node, dim: int) -> Operands:
    added = _dim(node, node.args[1])
    return [(_source(node), dim - (dim > added))] if dim != added else None


@_rule(aten.squeeze.dim)
def _squeeze(node: Node, dim: int) -> Operands:
    source, dropped = _source(node), _dim(node.args[0], node.args[1])
    # A squeeze that drops nothing would drop a single kept row, or a single image.
    return [(source, dim + (dim >= dropped))] if len(_shape(node)) < len(_shape(source)) else None


@_rule(aten.slice.Tensor)
def _slice(node: Node, dim: int) -> Operands:
    return [(_source(node), dim)] if dim != _slice_dim(node) else None


@_rule(aten.mean.dim, aten.sum.dim_IntList)
def _reduce(node: Node, dim: int) -> Operands:
    source = _source(node)
    axes = {_dim(source, axis) for axis in cast(Any, node.args[1]) or ()}
    keepdim = _argument(node, 2, "keepdim", False)
    if not axes or (keepdim and dim in axes):  # none named: all
        return None
    kept = [axis for axis in range(len(_shape(source))) if keepdim or axis not in axes]
    return [(source, kept[dim])]


@_rule(aten.cat.default)
def _cat(node: Node, dim: int) -> Operands:
    joined = _dim(node, _argument(node, 1, "dim", 0))
    return [(source, dim) for source in cast(list[Node], node.args[0])] if dim != joined else None


def _resized(node: Node, dim: int, selection: Node) -> tuple[Argument, ...]:
    """The node's arguments with the written-out size of the dimension replaced by the number of kept rows."""
    if node.target is not aten.reshape.default:
        return node.args
    sizes = list(cast(Iterable[Any], node.args[1]))
    if sizes[dim] != -1:
        sizes[dim] = _shape(selection)[dim]
    return node.args[0], sizes


# The graph


def _emit(graph: Graph, like: Node, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Node:
    """A new node with the origin of `like`, and its value's shape and dtype computed by running it on fake tensors."""
    node = graph.call_function(target, args, kwargs or {})
    node.meta = {key: value for key, value in like.meta.items() if key != "val"}
    values, named = cast(Any, torch.fx.map_arg((args, kwargs or {}), _value))
    mode = torch._guards.detect_fake_mode([_value(source) for source in node.all_input_nodes])
    with mode or torch.no_grad():
        node.meta["val"] = target(*values, **named)
    return node


def _writes(node: Node) -> bool:
    """Whether the node may change a tensor in place, also inside the graphs it calls."""
    if isinstance(node.target, torch._ops.OpOverload):
        return node.target._schema.is_mutable
    if node.target is torch.ops.higher_order.scan:
        return any(_writes(inner) for inner in _body(node).graph.nodes)
    return isinstance(node.target, torch._ops.HigherOrderOperator)


def _body(scan: Node) -> torch.fx.GraphModule:
    """What a scan runs in every step. Nothing moves into it: scan has no rule, and this graph lacks its nodes."""
    name, module = cast(Node, scan.args[0]).target, scan.graph.owning_module
    assert module is not None
    return cast(torch.fx.GraphModule, module.get_submodule(cast(str, name)))


def _source(node: Node) -> Node:
    return cast(Node, node.args[0])


def _argument(node: Node, position: int, name: str, default: Any) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def _value(node: Node) -> Any:
    return node.meta["val"]


def _shape(node: Any) -> Any:
    return _value(node).shape


def _dim(node: Any, dim: Any) -> int:
    """The dimension counted from the front."""
    return cast(int, dim % len(_shape(node)))


def _same(left: Any, right: Any) -> bool:
    return bool(statically_known_true(left == right))
