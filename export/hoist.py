"""No work on rows that are thrown away: move the selection up through everything that works row by row.

    Before   rows = take(linear(gelu(linear(x))), kept)            N rows computed, K used
    After    rows = linear(gelu(linear(take(x, kept))))            K rows computed

A *selection* is `edgeprune::take` (rows known at run time) or a static slice. It moves above an operator when every
user of that operator's result is a selection along the same dimension, when together they keep no more rows than there
are, and when a rule of `hoist_rules` says which dimension of which operand they keep instead. Rows differ per image, so
a `take` also needs the images to be dimension 0 of what it moves to. Slicing first only shifts the rows:
take(x[:, s:], rows) = take(x, rows + s). Nothing here knows an encoder.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import takewhile
from typing import Any, cast

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import TensorArgument
from torch.fx import Graph, Node
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.fx.node import Argument

import edgeprune.pruners._select  # noqa: F401  (defines the operator edgeprune::take)
from edgeprune.export.hoist_rules import (
    Operands,
    argument_of,
    dim_of,
    moved_to,
    same,
    shape_of,
    slice_dim,
    source_of,
    value_of,
)

__all__ = ["hoist"]

aten = torch.ops.aten
TAKE = torch.ops.edgeprune.take.default


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
            node.replace_all_uses_with(source_of(node))
            graph.erase_node(node)
        elif node.target in (aten.view.default, aten._unsafe_view.default):
            node.target = aten.reshape.default
        elif node.target is aten.slice.Tensor and all(map(same, shape_of(node), shape_of(source_of(node)))):
            node.replace_all_uses_with(source_of(node))
            graph.erase_node(node)
        elif node.target is aten.select.int:
            source, dim, index = node.args
            dim = dim_of(source, dim)
            size = shape_of(source)[dim]
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
    takes = [user for user in node.users if user.target is TAKE]
    dims = {_selected_dim(user, node) for user in node.users}
    if not takes or len(dims) != 1 or None in dims:
        return None
    dim = cast(int, dims.pop())
    operands, images = moved_to(node, dim), moved_to(node, 0)
    if not operands or not statically_known_true(
        sum(shape_of(user)[dim] for user in node.users) <= shape_of(node)[dim]
    ):
        return None
    # Rows differ per image: dimension 0 of the result must be the images, and stay dimension 0 in every operand.
    if images is None or not all(same(shape_of(user.args[1])[0], shape_of(node)[0]) for user in takes):
        return None
    return operands if all(_keeps_images(node, *operand, dict(images)) for operand in operands) else None


def _keeps_images(node: Node, source: Node, dim: int, images: dict[Node, int]) -> bool:
    """Whether `take` does the same on an operand, given where its images are. All may share it: [1, N, C] or [N, C]."""
    if source in images:
        return images[source] == 0 and dim > 0
    return len(shape_of(source)) == len(shape_of(node)) - (dim == 0)


def _move(graph: Graph, node: Node, selection: Node, operands: list[tuple[Node, int]]) -> None:
    dim = cast(int, _selected_dim(selection, node))
    with graph.inserting_before(selection):
        chosen = {source: _emit(graph, selection, *_reselect(selection, source, at)) for source, at in operands}
        inputs = (_resized(node, dim, selection), node.kwargs)
        args, kwargs = torch.fx.map_arg(cast(Any, inputs), lambda source: chosen.get(source, source))
        moved = _emit(graph, node, node.target, args, kwargs)
    assert shape_of(moved) == shape_of(selection), f"{node.target}: {shape_of(moved)} instead of {shape_of(selection)}"
    selection.replace_all_uses_with(moved)
    graph.erase_node(selection)


def _shift_takes(graph: Graph, node: Node, first: Node) -> int:
    """take(x[:, start:], rows) -> take(x, rows + start)."""
    source, dim = source_of(node), slice_dim(node)
    start, size = argument_of(node, 2, "start", None) or 0, shape_of(source)[dim]
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


def _selected_dim(user: Node, node: Node) -> int | None:
    """The dimension of `node` along which `user` selects; None when it is no selection, or of something else."""
    if user.target is TAKE:
        _, rows, dim = user.args
        return cast(int, dim) or None if rows is not node else None  # rows of a table without batch stay
    return slice_dim(user) if _is_slice(user) else None


def _reselect(selection: Node, source: Node, dim: int) -> tuple[Any, tuple[Any, ...]]:
    """The same selection on another tensor and dimension."""
    if selection.target is TAKE:
        return TAKE, (source, selection.args[1], dim)
    return aten.slice.Tensor, (source, dim, *selection.args[2:])


def _resized(node: Node, dim: int, selection: Node) -> tuple[Argument, ...]:
    """The node's arguments with the written-out size of the dimension replaced by the number of kept rows."""
    if node.target is not aten.reshape.default:
        return node.args
    sizes = list(cast(Iterable[Any], node.args[1]))
    if sizes[dim] != -1:
        sizes[dim] = shape_of(selection)[dim]
    return node.args[0], sizes


# The graph


def _emit(graph: Graph, like: Node, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Node:
    """A new node with the origin of `like`, and its value's shape and dtype computed by running it on fake tensors."""
    node = graph.call_function(target, args, kwargs or {})
    node.meta = {key: value for key, value in like.meta.items() if key != "val"}
    values, named = cast(Any, torch.fx.map_arg((args, kwargs or {}), value_of))
    mode = torch._guards.detect_fake_mode([value_of(source) for source in node.all_input_nodes])
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
