"""What stands for an operator is written where it stands, and the program computes the same."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.export import ExportedProgram

from edgeprune.export.lower import lower
from edgeprune.pruners._loop import repeat

aten = torch.ops.aten
KNOWN = {operator.getitem, aten.add.Tensor, aten.mul.Tensor, aten.relu.default, aten.topk.default}
COPIES = {aten.clone.default, aten._unsafe_view.default}

X = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))


def relu(x: Tensor) -> Tensor:
    return x * (x > 0)


def targets(program: ExportedProgram) -> set[Any]:
    graphs = [module.graph for module in program.graph_module.modules() if isinstance(module, torch.fx.GraphModule)]
    return {node.target for graph in graphs for node in graph.nodes if node.op == "call_function"}


def same(program: ExportedProgram, function: Callable[[Tensor], Any]) -> None:
    torch.testing.assert_close(program.module()(X), function(X))


def test_a_function_stands_for_its_operator(program_of: Callable[..., ExportedProgram]) -> None:
    def function(x: Tensor) -> Tensor:
        return x.relu() + x.mul(2).relu()

    program = program_of(function, X)
    assert lower(program, {aten.relu.default: relu}, {*KNOWN, aten.gt.Scalar})
    assert targets(program) == {aten.mul.Tensor, aten.gt.Scalar, aten.add.Tensor}
    same(program, function)


def test_what_a_function_is_made_of_is_written_as_others_too(program_of: Callable[..., ExportedProgram]) -> None:
    functions: dict[Any, Any] = {
        aten.relu.default: lambda x: torch.clamp(x, min=0),
        aten.clamp.default: lambda x, min: relu(x),
    }
    program = program_of(torch.relu, X)
    assert lower(program, functions, {*KNOWN, aten.gt.Scalar})
    assert targets(program) == {aten.mul.Tensor, aten.gt.Scalar}
    same(program, torch.relu)


@pytest.mark.parametrize(
    ("function", "left"),
    [
        (lambda x: x.flatten(1) + 1, {*COPIES, aten.add.Tensor}),
        (lambda x: x.mT.reshape(2, -1) * 2, {*COPIES, aten.transpose.int, aten.mul.Tensor}),
        (lambda x: x.unflatten(2, (2, 2)) + 1, {*COPIES, aten.add.Tensor}),
        (lambda x: x[0].T + 1, {aten.select.int, aten.permute.default, aten.add.Tensor}),
        (lambda x: x.mT.contiguous() * 2, {aten.transpose.int, aten.mul.Tensor}),
        (lambda x: x[:, :1].expand_as(x) + x, {aten.slice.Tensor, aten.expand.default, aten.add.Tensor}),
        (lambda x: torch.dropout(x, 0.5, train=False) + 1, {aten.add.Tensor}),
        (lambda x: x.to(torch.float32) + 1, {aten.add.Tensor}),
        (lambda x: (x + 1).to(torch.float16), {aten.add.Tensor, aten._to_copy.default}),
    ],
)
def test_views_and_casts_are_the_plain_ones(
    program_of: Callable[..., ExportedProgram], function: Callable[[Tensor], Tensor], left: set[Any]
) -> None:
    program = program_of(function, X)
    assert lower(program, {}, {*KNOWN, aten.transpose.int, aten.slice.Tensor, aten.select.int})
    assert targets(program) == left
    same(program, function)


def test_each_of_several_results_finds_its_readers(program_of: Callable[..., ExportedProgram]) -> None:
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        values, indices = x.topk(2)
        return values + 1, indices

    def descending(x: Tensor, k: int, *rest: Any) -> tuple[Tensor, Tensor]:
        values, indices = x.sort(dim=-1, descending=True)
        return values[..., :k], indices[..., :k]

    program = program_of(function, X)
    assert lower(program, {aten.topk.default: descending}, {*KNOWN, aten.sort.default, aten.slice.Tensor})
    assert aten.topk.default not in targets(program)
    same(program, function)


@pytest.mark.slow
def test_the_body_of_a_loop_is_written_so_too(program_of: Callable[..., ExportedProgram]) -> None:
    def function(x: Tensor) -> Tensor:
        return repeat(lambda carry, at: ((carry[0].relu() + 1,), carry[0] * 2), (x,), 3)[1]

    program = program_of(function, X)
    assert aten.relu.default in targets(program)
    known = {*KNOWN, torch.ops.higher_order.scan, aten.gt.Scalar, aten.clone.default, aten.arange.default}
    assert lower(program, {aten.relu.default: relu}, known)
    assert aten.relu.default not in targets(program)


def test_the_origin_of_what_is_replaced_is_kept(program_of: Callable[..., ExportedProgram]) -> None:
    program = program_of(torch.nn.Sequential(torch.nn.ReLU()), X)
    assert lower(program, {aten.relu.default: relu}, {*KNOWN, aten.gt.Scalar})
    scopes = [node.meta["nn_module_stack"] for node in program.graph.nodes if node.op == "call_function"]
    assert [list(one.values())[-1][0] for one in scopes] == ["0", "0"]


@pytest.mark.parametrize(
    ("function", "dynamic"),
    [
        (lambda x: x.flatten(1).sigmoid(), False),
        (lambda x: x.flatten(1).clone().add_(1), False),
        (lambda x: x.flatten(1).narrow(1, 0, 2) + 1, False),
        (lambda x: x.flatten(1) + 1, True),
        (lambda x: x.flatten(1), True),
        (lambda x: torch.dropout(x + 1, 0.0, train=True), False),
    ],
    ids=["unknown", "writes in place", "another view", "free dimension", "free dimension alone", "training"],
)
def test_what_needs_more_is_left_as_it_is(
    program_of: Callable[..., ExportedProgram], function: Callable[[Tensor], Tensor], dynamic: bool
) -> None:
    program = program_of(function, X, dynamic=dynamic)
    before = str(program.graph)
    assert not lower(program, {}, {*KNOWN, aten.clone.default, aten.add_.Tensor, aten.narrow.default})
    assert str(program.graph) == before
    same(program, function)


def test_a_constant_in_a_function_needs_more(program_of: Callable[..., ExportedProgram]) -> None:
    program = program_of(torch.relu, X)
    assert not lower(program, {aten.relu.default: lambda x: x * torch.tensor([1.0, 2.0, 3.0, 4.0])}, KNOWN)
    same(program, torch.relu)
