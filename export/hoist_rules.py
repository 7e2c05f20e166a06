"""Where a selection goes above an operator: facts about operators, one rule each.

    Rule          moves because
    pointwise     every element stands alone; operands that broadcast along the dimension stay as they are
    linear, norm  rows are independent unless the dimension is contracted or normalised; softmax is such a norm
    matmul        rows belong to the left operand, columns to the right one
    attention     query rows are independent; keys and values stay whole (never under a causal mask)
    reshape       the dimension keeps its size and what stands before and behind it
    permutations  transpose, permute, unsqueeze, squeeze: the dimension has a new number
    slice, reductions, concatenation: along another dimension

An operator without a rule stops the selection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

__all__ = ["Operands", "argument_of", "dim_of", "moved_to", "same", "shape_of", "slice_dim", "source_of", "value_of"]

aten = torch.ops.aten

# Where the selection goes: (operand, dimension there); the operands left out stay whole. None: it must not move.
Operands = list[tuple[Node, int]] | None
Rule = Callable[[Node, int], Operands]
_RULES: dict[Any, Rule] = {}


def moved_to(node: Node, dim: int) -> Operands:
    """Where a selection along `dim` of the node's result goes; asked about dimension 0, where the images are."""
    return _RULES.get(node.target, _pointwise)(node, dim)


def _rule(*targets: Any) -> Callable[[Rule], Rule]:
    def add(rule: Rule) -> Rule:
        _RULES.update(dict.fromkeys(targets, rule))
        return rule

    return add


def _broadcast(node: Node, dim: int, sources: Iterable[Any]) -> Operands:
    """Aligned at the last dimension; a source that has no such dimension, or only one row, is left out."""
    moved = []
    for source in sources:
        at = dim - len(shape_of(node)) + len(shape_of(source))
        if at >= 0 and not same(shape_of(source)[at], 1):
            moved.append((source, at))
    return moved


def _pointwise(node: Node, dim: int) -> Operands:
    alone = isinstance(node.target, torch._ops.OpOverload) and torch.Tag.pointwise in node.target.tags
    sources = node.all_input_nodes if alone else []
    return _broadcast(node, dim, sources) if all(isinstance(value_of(source), Tensor) for source in sources) else None


@_rule(aten.alias.default, aten.contiguous.default, aten.to.dtype, aten.to.device, aten._to_copy.default)
def _same_place(node: Node, dim: int) -> Operands:
    return [(source_of(node), dim)]


@_rule(aten.dropout.default)
def _dropout(node: Node, dim: int) -> Operands:
    return [(source_of(node), dim)] if not node.args[2] else None  # training: random per element


@_rule(aten.linear.default, aten.layer_norm.default, aten.rms_norm.default)
def _last(node: Node, dim: int) -> Operands:
    used = 1 if node.target is aten.linear.default else len(cast(list[int], node.args[1]))
    return [(source_of(node), dim)] if dim < len(shape_of(node)) - used else None


@_rule(aten.softmax.int)
def _softmax(node: Node, dim: int) -> Operands:
    return [(source_of(node), dim)] if dim != dim_of(node, node.args[1]) else None


@_rule(aten.matmul.default, aten.bmm.default)
def _matmul(node: Node, dim: int) -> Operands:
    left, right = node.args
    if len(shape_of(left)) < 2 or len(shape_of(right)) < 2 or left is right:
        return None
    behind = len(shape_of(node)) - dim
    return _broadcast(node, dim, {2: (left,), 1: (right,)}.get(behind, (left, right)))


@_rule(aten.scaled_dot_product_attention.default)
def _attention(node: Node, dim: int) -> Operands:
    query, key, value = node.args[:3]
    masks = [mask] if (mask := argument_of(node, 3, "attn_mask", None)) is not None else []
    if dim == 0:
        return _broadcast(node, dim, (query, key, value, *masks))
    alone = query not in (key, value) and not argument_of(node, 4, "dropout_p", 0)
    if not alone or argument_of(node, 5, "is_causal", False) or dim != len(shape_of(node)) - 2:
        return None
    return _broadcast(node, dim, (query, *masks))


@_rule(aten.reshape.default, aten.flatten.using_ints)
def _reshape(node: Node, dim: int) -> Operands:
    before, after = shape_of(source_of(node)), shape_of(node)
    for at, size in enumerate(before):
        if (
            same(size, after[dim])
            and same(prod(before[:at]), prod(after[:dim]))
            and same(prod(before[at + 1 :]), prod(after[dim + 1 :]))
        ):
            return [(source_of(node), at)]
    return None


@_rule(aten.unflatten.int)
def _unflatten(node: Node, dim: int) -> Operands:
    first, sizes = dim_of(source_of(node), node.args[1]), cast(list[Any], node.args[2])
    return _reshape(node, dim) if not 0 <= dim - first < len(sizes) else None  # its sizes would name the rows


@_rule(aten.transpose.int)
def _transpose(node: Node, dim: int) -> Operands:
    first, second = dim_of(node, node.args[1]), dim_of(node, node.args[2])
    return [(source_of(node), {first: second, second: first}.get(dim, dim))]


@_rule(aten.permute.default)
def _permute(node: Node, dim: int) -> Operands:
    return [(source_of(node), dim_of(node, cast(list[int], node.args[1])[dim]))]


@_rule(aten.unsqueeze.default)
def _unsqueeze(node: Node, dim: int) -> Operands:
    added = dim_of(node, node.args[1])
    return [(source_of(node), dim - (dim > added))] if dim != added else None


@_rule(aten.squeeze.dim)
def _squeeze(node: Node, dim: int) -> Operands:
    source, dropped = source_of(node), dim_of(node.args[0], node.args[1])
    # A squeeze that drops nothing would drop a single kept row, or a single image.
    return [(source, dim + (dim >= dropped))] if len(shape_of(node)) < len(shape_of(source)) else None


@_rule(aten.slice.Tensor)
def _slice(node: Node, dim: int) -> Operands:
    return [(source_of(node), dim)] if dim != slice_dim(node) else None


@_rule(aten.mean.dim, aten.sum.dim_IntList)
def _reduce(node: Node, dim: int) -> Operands:
    source = source_of(node)
    axes = {dim_of(source, axis) for axis in cast(Any, node.args[1]) or ()}
    keepdim = argument_of(node, 2, "keepdim", False)
    if not axes or (keepdim and dim in axes):  # none named: all
        return None
    kept = [axis for axis in range(len(shape_of(source))) if keepdim or axis not in axes]
    return [(source, kept[dim])]


@_rule(aten.cat.default)
def _cat(node: Node, dim: int) -> Operands:
    joined = dim_of(node, argument_of(node, 1, "dim", 0))
    return [(source, dim) for source in cast(list[Node], node.args[0])] if dim != joined else None


# What a node says of itself


def source_of(node: Node) -> Node:
    return cast(Node, node.args[0])


def argument_of(node: Node, position: int, name: str, default: Any) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def value_of(node: Node) -> Any:
    return node.meta["val"]


def shape_of(node: Any) -> Any:
    return value_of(node).shape


def dim_of(node: Any, dim: Any) -> int:
    """The dimension counted from the front."""
    return cast(int, dim % len(shape_of(node)))


def same(left: Any, right: Any) -> bool:
    return bool(statically_known_true(left == right))


def slice_dim(node: Node) -> int:
    return dim_of(source_of(node), argument_of(node, 1, "dim", 0))
