"""The pass: which selections move, past what, and that no value changes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from edgeprune.export.hoist import hoist
from edgeprune.pruners._select import take, top_in_order
from tests.export.hoisting import (
    ALL,
    BIAS,
    FEW,
    LINEAR,
    ROWS,
    TABLE,
    TAKE,
    WEIGHT,
    X4,
    B,
    C,
    H,
    Hoisted,
    K,
    N,
    ProgramOf,
    Shapes,
    ShapesOf,
    X,
    aten,
    random_rows,
    random_tensor,
)


def test_take_moves_through_a_whole_mlp(hoisted: Hoisted, shapes: Shapes) -> None:
    program = hoisted(lambda x, rows: take(F.linear(F.gelu(F.linear(x, WEIGHT)), WEIGHT, BIAS), rows), X, ROWS)
    assert shapes(program, LINEAR) == [FEW, FEW]
    assert shapes(program, TAKE) == [FEW]


@pytest.mark.parametrize("keep", [1, N])
def test_one_row_and_all_rows_move_too(keep: int, hoisted: Hoisted, shapes: Shapes) -> None:
    function = lambda x, rows: take(F.linear(x.relu(), WEIGHT).view(B, N, H, -1), rows)  # noqa: E731
    program = hoisted(function, X, random_rows(keep=keep))
    assert shapes(program, LINEAR) == [(B, keep, C)]


def test_same_rows_asked_twice_are_computed_once(hoisted: Hoisted, shapes: Shapes) -> None:
    def function(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        y = F.linear(x, WEIGHT)
        return take(y, rows), take(y, rows).relu()

    program = hoisted(function, X, ROWS)
    assert shapes(program, LINEAR) == shapes(program, TAKE) == [FEW]


def test_same_rows_of_an_input_are_taken_once(hoisted: Hoisted, shapes: Shapes) -> None:
    program = hoisted(lambda x, rows: take(x + F.linear(x, WEIGHT), rows), X, ROWS)
    assert shapes(program, TAKE) == [FEW]


def test_different_rows_move_apart_while_they_are_few(shapes_of: ShapesOf) -> None:
    def function(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        y = F.linear(x, WEIGHT)
        return take(y, rows), take(y, (rows + 1) % N)

    assert shapes_of(LINEAR, function, X, ROWS) == [FEW, FEW]
    assert shapes_of(LINEAR, function, X, random_rows(keep=N // 2 + 1)) == [ALL]


def test_class_row_is_computed_beside_the_kept_rows(shapes_of: ShapesOf) -> None:
    def function(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        y = F.linear(x, WEIGHT)
        return y[:, 0], take(y[:, 1:], rows)

    assert sorted(shapes_of(LINEAR, function, X, random_rows(rows=N - 1))) == [(B, 1, C), FEW]


@pytest.mark.parametrize("index", [-1, 0, 2])
def test_any_single_row_is_a_selection(index: int, shapes_of: ShapesOf) -> None:
    def function(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        y = F.linear(x, WEIGHT)
        return y[:, index], take(y, rows)

    assert sorted(shapes_of(LINEAR, function, X, ROWS)) == [(B, 1, C), FEW]


def test_rows_may_depend_on_other_rows_of_the_value(shapes_of: ShapesOf) -> None:
    def function(x: Tensor) -> Tensor:
        y = F.linear(x, WEIGHT)
        return take(y[:, 1:], top_in_order(y[:, 0, : N - 1], K))

    assert sorted(shapes_of(LINEAR, function, X)) == [(B, 1, C), FEW]


def test_rows_that_depend_on_the_whole_value_stop_it(shapes_of: ShapesOf) -> None:
    def function(x: Tensor) -> Tensor:
        y = F.linear(x, WEIGHT)
        return take(y, top_in_order(y.mean(-1), K))

    assert shapes_of(LINEAR, function, X) == [ALL]


def test_value_may_be_its_own_rows(hoisted: Hoisted) -> None:
    def function(x: Tensor) -> Tensor:
        rows = x.mean(-1).argsort(dim=1) + 0
        return take(rows, rows)

    hoisted(function, X)


SLICES = [slice(1, None), slice(-4, None), slice(-N - 5, None), slice(2, -1), slice(None, 4), slice(1, 100)]


@pytest.mark.parametrize("part", SLICES, ids=str)
def test_take_of_a_slice_shifts_the_rows(part: slice, hoisted: Hoisted, shapes: Shapes) -> None:
    rows = random_rows(rows=len(range(N)[part]))
    program = hoisted(lambda x, rows: take(F.linear(x, WEIGHT)[:, part], rows), X, rows)
    assert shapes(program, LINEAR) == [FEW]
    assert shapes(program, aten.slice.Tensor) == []


def test_rows_are_shifted_once(hoisted: Hoisted, shapes: Shapes) -> None:
    def function(x: Tensor, rows: Tensor) -> Tensor:
        return take(x[:, 1:], rows) + take(F.linear(x, WEIGHT)[:, 1:], rows)

    program = hoisted(function, X, random_rows(rows=N - 1))
    assert shapes(program, aten.add.Tensor) == [(B, K), FEW]
    assert shapes(program, TAKE) == [FEW]


def test_a_later_sum_is_not_used_for_an_earlier_take(hoisted: Hoisted) -> None:
    def function(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        return take(F.linear(x, WEIGHT)[:, 1:], rows), rows + 1

    hoisted(function, X, random_rows(rows=N - 1))


def test_take_of_a_take_stays_behind_it(shapes_of: ShapesOf) -> None:
    function = lambda x, rows: take(take(F.linear(x, WEIGHT), rows), rows % K, 2)  # noqa: E731
    assert shapes_of(LINEAR, function, X, ROWS) == [FEW]


def test_view_of_kept_rows_survives_their_new_strides(hoisted: Hoisted, shapes: Shapes) -> None:
    program = hoisted(lambda x, rows: take(x.mT.relu().transpose(1, 2), rows).view(B * K, C), X, ROWS, lower=True)
    assert shapes(program, aten.relu.default) == [(B, C, K)]


# Operands


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("table", [TABLE, TABLE[None]], ids=["NC", "1NC"])
def test_table_of_all_images_is_taken_per_image(batch: int, table: Tensor, hoisted: Hoisted, shapes: Shapes) -> None:
    function = lambda x, rows: take(F.linear(x, WEIGHT) + table, rows)  # noqa: E731
    inputs = random_tensor(batch, N, C), random_rows(batch)
    for dynamic in (False, batch > 1):
        assert shapes(hoisted(function, *inputs, dynamic=dynamic), LINEAR)[0][1:] == (K, C)


@pytest.mark.parametrize("batch", [1, H])
def test_table_of_heads_is_not_taken_for_one_of_images(batch: int, shapes_of: ShapesOf) -> None:
    function = lambda x, rows: take(x + X4[0], rows, 2)  # noqa: E731
    assert shapes_of(aten.add.Tensor, function, X4[:batch], random_rows(batch)) == [(batch, H, N, C)]


def test_operand_that_repeats_along_the_rows_stays(hoisted: Hoisted, shapes: Shapes) -> None:
    program = hoisted(lambda x, rows: take(x * x.mean(1, keepdim=True), rows), X, ROWS)
    assert shapes(program, aten.mul.Tensor) == [FEW]
    assert shapes(program, aten.mean.dim) == [(B, 1, C)]


def test_square_batch_is_not_taken_for_rows(hoisted: Hoisted, shapes: Shapes) -> None:
    x = random_tensor(N, N, C)
    function = lambda x, rows: take(F.linear(x.transpose(0, 1), WEIGHT), rows)  # noqa: E731
    program = hoisted(function, x, random_rows(N))
    assert shapes(program, LINEAR) == [(N, K, C)]
    assert shapes(program, aten.transpose.int) == [(N, N, C)]


# In place


def test_nothing_crosses_a_write(hoisted: Hoisted, shapes: Shapes) -> None:
    def function(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        y = x.relu()
        z = y * 2
        before = take(y, rows)
        y.add_(1)
        return take(z, rows), take(F.linear(take(y, rows) + before, WEIGHT), rows % K)

    program = hoisted(function, X, ROWS)
    assert shapes(program, aten.mul.Tensor) == [ALL]
    assert shapes(program, LINEAR) == [FEW]


def test_an_input_that_is_written_stays_right(shapes_of: ShapesOf) -> None:
    def function(x: Tensor, rows: Tensor) -> Tensor:
        y = x.clone()
        first, second = take(y, rows), y[:, 0]
        second.mul_(3)
        first.add_(1)
        return take(F.linear(y, WEIGHT), rows) + take(y, rows) + first

    assert shapes_of(LINEAR, function, X, ROWS) == [FEW]


def test_rows_that_were_written_are_shifted_behind_it(shapes_of: ShapesOf) -> None:
    def function(x: Tensor, rows: Tensor) -> Tensor:
        rows = rows + 0
        early = rows + 1
        rows.mul_(0)
        return take(x.relu()[:, 1:], rows) + early.unsqueeze(-1)

    assert shapes_of(aten.relu.default, function, X, random_rows(rows=N - 1)) == [FEW]


def test_whole_slice_of_an_input_may_be_an_output(hoisted: Hoisted) -> None:
    hoisted(lambda x, rows: (x[:], x[:, :], take(x[:], rows)), X, ROWS)


def test_functional_program_moves_the_same(program_of: ProgramOf, shapes: Shapes) -> None:
    def module(x: Tensor, rows: Tensor) -> Tensor:
        return take(F.linear(F.relu(F.linear(x, WEIGHT).double().float(), True), WEIGHT), rows)

    program = program_of(module, X, ROWS).run_decompositions({})
    hoist(program)
    assert shapes(program, LINEAR) == [FEW, FEW]
    torch.testing.assert_close(program.module()(X, ROWS), module(X, ROWS), rtol=1e-5, atol=1e-5)
