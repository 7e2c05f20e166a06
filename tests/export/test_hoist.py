"""The pass: what moves, what stays, and that no value changes."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from transformers import CLIPVisionConfig, CLIPVisionModel

from edgeprune.export.hoist import hoist
from edgeprune.pruners._greedy import Pick, cosine, greedy
from edgeprune.pruners._select import lower_take, take, top_in_order

B, H, N, C, K = 2, 2, 6, 8, 2
ROUNDING = 1e-5  # float32: the same sums, blocked differently
aten: Any = torch.ops.aten
TAKE = torch.ops.edgeprune.take.default
LINEAR, ATTENTION = aten.linear.default, aten.scaled_dot_product_attention.default
Shapes = list[tuple[int, ...]]


class Function(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Any:
        return self.function(x) if rows is None else self.function(x, rows)


def random_tensor(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_rows(batch: int = B, rows: int = N, keep: int = K) -> Tensor:
    return top_in_order(random_tensor(batch, rows, seed=1), keep)


def exported(module: nn.Module, *inputs: Tensor, dynamic: bool = False) -> ExportedProgram:
    sizes = {name: {0: Dim("batch")} for name, _ in zip(("x", "rows"), inputs, strict=False)} if dynamic else None
    with torch.no_grad():  # clone: torch guards the base of an input that is a view, and fails on it later
        return torch.export.export(module.eval(), tuple(map(torch.clone, inputs)), dynamic_shapes=sizes)


def hoisted(
    function: nn.Module | Callable[..., Any], *inputs: Tensor, dynamic: bool = False, lower: bool = False
) -> ExportedProgram:
    """The program behind the pass, after a check that it still computes what the module does."""
    module = function if isinstance(function, nn.Module) else Function(function)
    program = exported(module, *inputs, dynamic=dynamic)
    hoist(program)
    assert hoist(program) == 0  # one sweep is enough
    names = [spec.arg.name for spec in program.graph_signature.output_specs]
    outputs: Any = program.graph.output_node().args[0]
    assert names == [value.name for value in outputs]
    with torch.no_grad():
        runs = [program.module()] + ([program.run_decompositions({TAKE: lower_take}).module()] if lower else [])
        for batch in (1, 2, 3) if dynamic else (0,):
            images = torch.arange(batch) % len(inputs[0])
            given = [value[images] for value in inputs] if dynamic else inputs
            for run in runs:
                torch.testing.assert_close(run(*given), module(*given), rtol=ROUNDING, atol=ROUNDING)
    return program


def shapes(program: ExportedProgram, target: Any) -> Shapes:
    """The shapes of all results of an operator."""
    return [tuple(node.meta["val"].shape) for node in program.graph.nodes if node.target is target]


def shapes_of(target: Any, function: Callable[..., Any], *inputs: Tensor) -> Shapes:
    return shapes(hoisted(function, *inputs), target)


X, X4, ROWS = random_tensor(B, N, C), random_tensor(B, H, N, C), random_rows()
WEIGHT, BIAS, TABLE = random_tensor(C, C, seed=2), random_tensor(C, seed=3), random_tensor(N, C, seed=4)
KERNEL = random_tensor(N, N, 3, seed=5)
FEW, ALL = (B, K, C), (B, N, C)


# One line per rule: the operator, and the shape it has left.

MOVES: dict[str, tuple[Any, tuple[int, ...], Callable[[Tensor, Tensor], Any]]] = {
    "linear": (LINEAR, FEW, lambda x, rows: take(F.linear(x, WEIGHT, BIAS), rows)),
    "layer_norm": (aten.layer_norm.default, FEW, lambda x, rows: take(F.layer_norm(x, (C,), BIAS), rows)),
    "rms_norm": (aten.rms_norm.default, FEW, lambda x, rows: take(F.rms_norm(x, (C,), BIAS), rows)),
    "softmax": (aten.softmax.int, FEW, lambda x, rows: take(x.softmax(-1), rows)),
    "dropout": (aten.dropout.default, FEW, lambda x, rows: take(F.dropout(x, 0.5, training=False), rows)),
    "clone": (aten.clone.default, FEW, lambda x, rows: take(x.clone(), rows)),
    "contiguous": (aten.contiguous.default, (B, C, K), lambda x, rows: take(x.transpose(1, 2).contiguous(), rows, 2)),
    "dtype": (aten.to.dtype, FEW, lambda x, rows: take(x.to(torch.float64), rows)),
    "gelu": (aten.gelu.default, FEW, lambda x, rows: take(F.gelu(x), rows)),
    "quick_gelu": (aten.sigmoid.default, FEW, lambda x, rows: take(x * torch.sigmoid(1.702 * x), rows)),
    "sum": (aten.add.Tensor, FEW, lambda x, rows: take(x + x.tanh(), rows)),
    "square": (aten.mul.Tensor, FEW, lambda x, rows: take(x * x, rows)),
    "power": (aten.pow.Tensor_Tensor, FEW, lambda x, rows: take(x.exp() ** x, rows)),
    "power_of_two": (aten.pow.Scalar, FEW, lambda x, rows: take(2**x, rows)),
    "where": (aten.where.self, FEW, lambda x, rows: take(torch.where(x > 0, x, BIAS), rows)),
    "masked_fill": (aten.masked_fill.Scalar, FEW, lambda x, rows: take(x.masked_fill(x > 0, -1.0), rows)),
    "scores": (aten.relu.default, (B, K), lambda x, rows: take(x[..., 0].relu(), rows)),
    "matmul_rows": (aten.matmul.default, FEW, lambda x, rows: take(x @ WEIGHT, rows)),
    "matmul_of_images": (aten.matmul.default, (B, K, N), lambda x, rows: take(x @ x.relu().mT, rows)),
    "matmul_columns": (aten.matmul.default, (B, N, K), lambda x, rows: take(x @ x.relu().transpose(1, 2), rows, 2)),
    "matmul_of_table": (aten.matmul.default, FEW, lambda x, rows: take(TABLE @ x[:, :C, :C].mT @ x, rows)),
    "bmm": (aten.bmm.default, (B, K, N), lambda x, rows: take(torch.bmm(x, x.relu().mT), rows)),
    "reshape": (aten.reshape.default, (B, K, H, C // H), lambda x, rows: take(x.reshape(B, N, H, -1), rows)),
    "reshape_inferred": (aten.reshape.default, (B, K, H, C // H), lambda x, rows: take(x.view(B, -1, H, C // H), rows)),
    "unflatten": (
        aten.unflatten.int,
        (B, K, H, C // H),
        lambda x, rows: take(torch.unflatten(x, 2, (H, -1)), rows),
    ),
    "device": (aten.to.device, FEW, lambda x, rows: take(torch.as_tensor(x, device="cpu"), rows)),
    "flatten": (aten.flatten.using_ints, FEW, lambda x, rows: take(x.view(B, N, H, -1).flatten(2), rows)),
    "transpose": (aten.transpose.int, (B, C, K), lambda x, rows: take(x.transpose(-1, -2), rows, 2)),
    "permute": (aten.permute.default, (B, C, K), lambda x, rows: take(x.permute(0, -1, -2), rows, -1)),
    "unsqueeze": (aten.unsqueeze.default, (B, 1, K, C), lambda x, rows: take(x.unsqueeze(1), rows, 2)),
    "unsqueeze_behind": (aten.unsqueeze.default, (B, K, C, 1), lambda x, rows: take(x.unsqueeze(-1), rows)),
    "squeeze": (aten.squeeze.dim, (B, K), lambda x, rows: take(x[..., :1].relu().squeeze(-1), rows)),
    "squeeze_before": (aten.squeeze.dim, FEW, lambda x, rows: take(x[:, None].relu().squeeze(1), rows)),
    "select": (aten.squeeze.dim, (B, K), lambda x, rows: take(x.relu()[..., -1], rows)),
    "slice": (aten.slice.Tensor, (B, K, 3), lambda x, rows: take(x.relu()[..., 1:-4], rows)),
    "slice_with_step": (aten.slice.Tensor, (B, K, C // 2), lambda x, rows: take(x.relu()[..., ::2], rows)),
    "mean": (aten.mean.dim, (B, K), lambda x, rows: take(x.mean(-1), rows)),
    "mean_before": (aten.mean.dim, FEW, lambda x, rows: take(x[:, None].expand(-1, 3, -1, -1).mean(1), rows)),
    "sum_kept": (aten.sum.dim_IntList, (B, K, 1), lambda x, rows: take(x.sum([-1], keepdim=True), rows)),
    "concatenation": (aten.cat.default, (B, K, 3 * C), lambda x, rows: take(torch.cat([x, x.relu(), x], -1), rows)),
}


@pytest.mark.parametrize("rule", MOVES)
def test_operator_has_kept_rows_only(rule: str) -> None:
    target, shape, function = MOVES[rule]
    program = hoisted(function, X, ROWS)
    assert shapes(program, target)[-1] == shape
    assert program.graph.output_node().all_input_nodes[0].target is not TAKE


@pytest.mark.parametrize("rule", ["linear", "scores", "matmul_of_table", "transpose", "slice", "mean", "concatenation"])
def test_operator_has_kept_rows_only_with_free_batch(rule: str) -> None:
    target, shape, function = MOVES[rule]
    program = hoisted(function, X, ROWS, dynamic=True)
    assert shapes(program, target)[-1][1:] == shape[1:]


# Refusals: the operator keeps all its rows.

STAYS: dict[str, tuple[Any, Callable[[Tensor, Tensor], Any]]] = {
    "softmax_over_rows": (aten.softmax.int, lambda x, rows: take(x.softmax(1), rows)),
    "norm_over_rows": (aten.layer_norm.default, lambda x, rows: take(F.layer_norm(x, (N, C)), rows)),
    "dropout_in_training": (aten.dropout.default, lambda x, rows: take(F.dropout(x, 0.0, training=True), rows)),
    "sum_over_rows_then_kept": (aten.cumsum.default, lambda x, rows: take(x.cumsum(1), rows)),
    "linear_over_columns": (LINEAR, lambda x, rows: take(F.linear(x, WEIGHT), rows, 2)),
    "value_read_by_output": (LINEAR, lambda x, rows: ((y := F.linear(x, WEIGHT)), take(y, rows))),
    "value_read_whole": (LINEAR, lambda x, rows: ((y := F.linear(x, WEIGHT)).mean(1), take(y, rows))),
    "slices_and_take_of_more_rows": (LINEAR, lambda x, rows: ((y := F.linear(x, WEIGHT))[:, 1:], take(y, rows))),
    "selection_in_another_dimension": (LINEAR, lambda x, rows: ((y := F.linear(x, WEIGHT))[..., :1], take(y, rows))),
    "slice_with_step": (LINEAR, lambda x, rows: ((y := F.linear(x, WEIGHT))[:, ::6], take(y, rows))),
    "slice_of_images": (LINEAR, lambda x, rows: ((y := F.linear(x, WEIGHT))[:1], take(y, rows))),
    "concatenation_of_rows": (aten.cat.default, lambda x, rows: take(torch.cat([x[:, :1], x[:, 1:]], 1), rows)),
    "concatenation_of_images": (aten.cat.default, lambda x, rows: take(torch.cat([x[:1], x[1:]]), rows)),
    "permuted_images": (aten.permute.default, lambda x, rows: take(x[:, :B].permute(1, 0, 2), rows % B)),
    "reduced_images": (aten.mean.dim, lambda x, rows: take(x[None].expand(3, -1, -1, -1).mean(0), rows)),
    "convolution_over_rows": (aten.conv1d.default, lambda x, rows: take(F.conv1d(x, KERNEL, padding=1), rows, 2)),
    "mean_of_everything": (aten.mean.dim, lambda x, rows: take(x[:1].mean(None, keepdim=True), rows[:1, :1] * 0)),
    "split_rows": (aten.unflatten.int, lambda x, rows: take(torch.unflatten(x, 1, (1, N)), rows, 2)),
    "merged_images": (aten.reshape.default, lambda x, rows: take(x.reshape(1, B * N, C), rows[:1])),
    "expansion": (aten.expand.default, lambda x, rows: take(x[:, :1].expand(-1, N, -1), rows)),
    "squeeze_of_nothing": (aten.squeeze.dim, lambda x, rows: take(x.relu().squeeze(1), rows[:, :1])),
    "product_with_itself": (aten.matmul.default, lambda x, rows: take(y := x[:, :N, :N].relu(), rows) @ (y @ y)),
    "table_of_tables": (aten.mul.Tensor, lambda x, rows: take(TABLE[None] * BIAS, rows) + take(x, rows)),
    "unsqueezed_table": (aten.unsqueeze.default, lambda x, rows: take(TABLE.unsqueeze(0), rows)),
    "table_without_batch": (aten.mul.Tensor, lambda x, rows: take(TABLE * BIAS, rows, 0)),
}


@pytest.mark.parametrize("reason", STAYS)
def test_operator_keeps_all_rows(reason: str) -> None:
    target, function = STAYS[reason]
    program = exported(Function(function), X, ROWS)
    before = shapes(program, target)
    assert shapes(hoisted(function, X, ROWS), target) == before


# Selections


def test_take_moves_through_a_whole_mlp() -> None:
    program = hoisted(lambda x, rows: take(F.linear(F.gelu(F.linear(x, WEIGHT)), WEIGHT, BIAS), rows), X, ROWS)
    assert shapes(program, LINEAR) == [FEW, FEW]
    assert shapes(program, TAKE) == [FEW]


@pytest.mark.parametrize("keep", [1, N])
def test_one_row_and_all_rows_move_too(keep: int) -> None:
    function = lambda x, rows: take(F.linear(x.relu(), WEIGHT).view(B, N, H, -1), rows)  # noqa: E731
    program = hoisted(function, X, random_rows(keep=keep))
    assert shapes(program, LINEAR) == [(B, keep, C)]


def test_same_rows_asked_twice_are_computed_once() -> None:
    def function(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        y = F.linear(x, WEIGHT)
        return take(y, rows), take(y, rows).relu()

    program = hoisted(function, X, ROWS)
    assert shapes(program, LINEAR) == shapes(program, TAKE) == [FEW]


def test_same_rows_of_an_input_are_taken_once() -> None:
    program = hoisted(lambda x, rows: take(x + F.linear(x, WEIGHT), rows), X, ROWS)
    assert shapes(program, TAKE) == [FEW]


def test_different_rows_move_apart_while_they_are_few() -> None:
    def function(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        y = F.linear(x, WEIGHT)
        return take(y, rows), take(y, (rows + 1) % N)

    assert shapes_of(LINEAR, function, X, ROWS) == [FEW, FEW]
    assert shapes_of(LINEAR, function, X, random_rows(keep=N // 2 + 1)) == [ALL]


def test_class_row_is_computed_beside_the_kept_rows() -> None:
    def function(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        y = F.linear(x, WEIGHT)
        return y[:, 0], take(y[:, 1:], rows)

    assert sorted(shapes_of(LINEAR, function, X, random_rows(rows=N - 1))) == [(B, 1, C), FEW]


@pytest.mark.parametrize("index", [-1, 0, 2])
def test_any_single_row_is_a_selection(index: int) -> None:
    def function(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        y = F.linear(x, WEIGHT)
        return y[:, index], take(y, rows)

    assert sorted(shapes_of(LINEAR, function, X, ROWS)) == [(B, 1, C), FEW]


def test_rows_may_depend_on_other_rows_of_the_value() -> None:
    def function(x: Tensor) -> Tensor:
        y = F.linear(x, WEIGHT)
        return take(y[:, 1:], top_in_order(y[:, 0, : N - 1], K))

    assert sorted(shapes_of(LINEAR, function, X)) == [(B, 1, C), FEW]


def test_rows_that_depend_on_the_whole_value_stop_it() -> None:
    def function(x: Tensor) -> Tensor:
        y = F.linear(x, WEIGHT)
        return take(y, top_in_order(y.mean(-1), K))

    assert shapes_of(LINEAR, function, X) == [ALL]


def test_value_may_be_its_own_rows() -> None:
    def function(x: Tensor) -> Tensor:
        rows = x.mean(-1).argsort(dim=1) + 0
        return take(rows, rows)

    hoisted(function, X)


SLICES = [slice(1, None), slice(-4, None), slice(-N - 5, None), slice(2, -1), slice(None, 4), slice(1, 100)]


@pytest.mark.parametrize("part", SLICES, ids=str)
def test_take_of_a_slice_shifts_the_rows(part: slice) -> None:
    rows = random_rows(rows=len(range(N)[part]))
    program = hoisted(lambda x, rows: take(F.linear(x, WEIGHT)[:, part], rows), X, rows)
    assert shapes(program, LINEAR) == [FEW]
    assert shapes(program, aten.slice.Tensor) == []


def test_rows_are_shifted_once() -> None:
    def function(x: Tensor, rows: Tensor) -> Tensor:
        return take(x[:, 1:], rows) + take(F.linear(x, WEIGHT)[:, 1:], rows)

    program = hoisted(function, X, random_rows(rows=N - 1))
    assert shapes(program, aten.add.Tensor) == [(B, K), FEW]
    assert shapes(program, TAKE) == [FEW]


def test_a_later_sum_is_not_used_for_an_earlier_take() -> None:
    def function(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        return take(F.linear(x, WEIGHT)[:, 1:], rows), rows + 1

    hoisted(function, X, random_rows(rows=N - 1))


def test_take_of_a_take_stays_behind_it() -> None:
    function = lambda x, rows: take(take(F.linear(x, WEIGHT), rows), rows % K, 2)  # noqa: E731
    assert shapes_of(LINEAR, function, X, ROWS) == [FEW]


def test_view_of_kept_rows_survives_their_new_strides() -> None:
    program = hoisted(lambda x, rows: take(x.mT.relu().transpose(1, 2), rows).view(B * K, C), X, ROWS, lower=True)
    assert shapes(program, aten.relu.default) == [(B, C, K)]


# Operands


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("table", [TABLE, TABLE[None]], ids=["NC", "1NC"])
def test_table_of_all_images_is_taken_per_image(batch: int, table: Tensor) -> None:
    function = lambda x, rows: take(F.linear(x, WEIGHT) + table, rows)  # noqa: E731
    inputs = random_tensor(batch, N, C), random_rows(batch)
    for dynamic in (False, batch > 1):
        assert shapes(hoisted(function, *inputs, dynamic=dynamic), LINEAR)[0][1:] == (K, C)


@pytest.mark.parametrize("batch", [1, H])
def test_table_of_heads_is_not_taken_for_one_of_images(batch: int) -> None:
    function = lambda x, rows: take(x + X4[0], rows, 2)  # noqa: E731
    assert shapes_of(aten.add.Tensor, function, X4[:batch], random_rows(batch)) == [(batch, H, N, C)]


def test_operand_that_repeats_along_the_rows_stays() -> None:
    program = hoisted(lambda x, rows: take(x * x.mean(1, keepdim=True), rows), X, ROWS)
    assert shapes(program, aten.mul.Tensor) == [FEW]
    assert shapes(program, aten.mean.dim) == [(B, 1, C)]


def test_square_batch_is_not_taken_for_rows() -> None:
    x = random_tensor(N, N, C)
    function = lambda x, rows: take(F.linear(x.transpose(0, 1), WEIGHT), rows)  # noqa: E731
    program = hoisted(function, x, random_rows(N))
    assert shapes(program, LINEAR) == [(N, K, C)]
    assert shapes(program, aten.transpose.int) == [(N, N, C)]


# Attention


def attend(x: Tensor, **options: Any) -> Tensor:
    """[B, N, C] -> [B, N, C] with H heads; query, key and value are the three thirds of x."""
    heads = [F.linear(x, WEIGHT * sign).view(-1, N, H, C // H).transpose(1, 2) for sign in (1, -1, 2)]
    out = F.scaled_dot_product_attention(heads[0], heads[1], heads[2], **options)
    return out.transpose(1, 2).reshape(-1, N, C)


MASKS = {
    "B1SS": random_tensor(B, 1, N, N),
    "11SS": random_tensor(1, 1, N, N),
    "111S": random_tensor(1, 1, 1, N),
    "BHSS": random_tensor(B, H, N, N),
    "bool": random_tensor(B, 1, N, N) > -1,
    "none": None,
}


@pytest.mark.parametrize("mask", MASKS)
def test_attention_asks_for_kept_rows_only(mask: str) -> None:
    program = hoisted(lambda x, rows: take(attend(x, attn_mask=MASKS[mask]), rows), X, ROWS)
    assert shapes(program, ATTENTION) == [(B, H, K, C // H)]
    assert sorted(shapes(program, LINEAR)) == [FEW, ALL, ALL]


def test_attention_asks_for_kept_rows_only_with_free_batch() -> None:
    program = hoisted(lambda x, rows: take(attend(x), rows), X, ROWS, dynamic=True)
    assert shapes(program, ATTENTION)[0][1:] == (H, K, C // H)


@pytest.mark.parametrize("options", [{"is_causal": True}, {"attn_mask": random_tensor(N, N)}], ids=["causal", "SS"])
def test_attention_that_knows_places_keeps_all_rows(options: dict[str, Any]) -> None:
    program = hoisted(lambda x, rows: take(attend(x, **options), rows), X, ROWS)
    assert shapes(program, ATTENTION) == [(B, H, N, C // H)]


def test_attention_without_heads_takes_a_mask_of_all_images() -> None:
    mask = random_tensor(N, N)
    function = lambda x, rows: take(F.scaled_dot_product_attention(x, x.relu(), x, mask), rows)  # noqa: E731
    assert shapes_of(ATTENTION, function, X, ROWS) == [ALL]  # the query is the value, too
    function = lambda x, rows: take(F.scaled_dot_product_attention(x.tanh(), x, x, mask), rows)  # noqa: E731
    assert shapes_of(ATTENTION, function, X, ROWS) == [FEW]


def test_attention_of_grouped_queries_moves() -> None:
    def function(x: Tensor, rows: Tensor) -> Tensor:
        return take(F.scaled_dot_product_attention(x.relu(), x[:, :1], x[:, 1:], enable_gqa=True), rows, 2)

    assert shapes_of(ATTENTION, function, X4, ROWS) == [(B, H, K, C)]


def test_attention_written_out_moves() -> None:
    def function(x: Tensor, rows: Tensor) -> Tensor:
        scores = F.linear(x, WEIGHT) @ F.linear(x, -WEIGHT).transpose(1, 2) / C**0.5
        return take(scores.softmax(-1) @ x, rows)

    program = hoisted(function, X, ROWS)
    assert shapes(program, aten.matmul.default) == [(B, K, N), FEW]
    assert shapes(program, LINEAR) == [ALL, FEW] or shapes(program, LINEAR) == [FEW, ALL]


@pytest.mark.parametrize("split", ["split", "chunk", "unbind"])
def test_fused_query_key_value_stays_correct(split: str) -> None:
    weight = random_tensor(3 * C, C)

    def function(x: Tensor, rows: Tensor) -> Tensor:
        fused = F.linear(x, weight)
        if split == "unbind":
            parts = fused.view(B, N, 3, H, C // H).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            pieces = torch.split(fused, C, -1) if split == "split" else fused.chunk(3, -1)
            parts = tuple(piece.view(B, N, H, C // H).transpose(1, 2) for piece in pieces)
        out = F.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        return take(F.linear(out.transpose(1, 2).reshape(B, N, C), WEIGHT), rows)

    program = hoisted(function, X, ROWS)
    assert shapes(program, ATTENTION) == [(B, H, K, C // H)]
    assert shapes(program, LINEAR) == [(B, N, 3 * C), FEW]


def test_attention_that_nobody_reads_is_dropped_and_stops_nothing() -> None:
    def function(x: Tensor, rows: Tensor) -> Tensor:
        y = F.linear(x, WEIGHT)
        attend(y)
        return take(y, rows)

    program = hoisted(function, X, ROWS)
    assert shapes(program, LINEAR) == [FEW]
    assert shapes(program, ATTENTION) == []


# In place


def test_nothing_crosses_a_write() -> None:
    def function(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        y = x.relu()
        z = y * 2
        before = take(y, rows)
        y.add_(1)
        return take(z, rows), take(F.linear(take(y, rows) + before, WEIGHT), rows % K)

    program = hoisted(function, X, ROWS)
    assert shapes(program, aten.mul.Tensor) == [ALL]
    assert shapes(program, LINEAR) == [FEW]


def test_an_input_that_is_written_stays_right() -> None:
    def function(x: Tensor, rows: Tensor) -> Tensor:
        y = x.clone()
        first, second = take(y, rows), y[:, 0]
        second.mul_(3)
        first.add_(1)
        return take(F.linear(y, WEIGHT), rows) + take(y, rows) + first

    assert shapes_of(LINEAR, function, X, ROWS) == [FEW]


def test_rows_that_were_written_are_shifted_behind_it() -> None:
    def function(x: Tensor, rows: Tensor) -> Tensor:
        rows = rows + 0
        early = rows + 1
        rows.mul_(0)
        return take(x.relu()[:, 1:], rows) + early.unsqueeze(-1)

    assert shapes_of(aten.relu.default, function, X, random_rows(rows=N - 1)) == [FEW]


def test_whole_slice_of_an_input_may_be_an_output() -> None:
    hoisted(lambda x, rows: (x[:], x[:, :], take(x[:], rows)), X, ROWS)


def test_functional_program_moves_the_same() -> None:
    module = Function(lambda x, rows: take(F.linear(F.relu(F.linear(x, WEIGHT).double().float(), True), WEIGHT), rows))
    program = exported(module, X, ROWS).run_decompositions({})
    hoist(program)
    assert shapes(program, LINEAR) == [FEW, FEW]
    torch.testing.assert_close(program.module()(X, ROWS), module(X, ROWS), rtol=ROUNDING, atol=ROUNDING)


# Loops


def far_rows(x: Tensor, offset: float = 0.0, write: bool = False) -> Tensor:
    """K rows far from each other, chosen greedily in one scan: [B, N, C] -> [B, K]."""
    distance = 1 - cosine(x)
    nearest = distance.sum(-1)

    def update(state: tuple[Tensor, ...], pick: Pick) -> tuple[Tensor, ...]:
        row = pick.row + offset
        return (torch.minimum(state[0], row.clone().mul_(2) if write else row),)

    return greedy(distance, nearest, (nearest,), lambda state: state[0], update, K).indices


SCAN = torch.ops.higher_order.scan


def loops(program: ExportedProgram) -> list[str]:
    """The code of every loop's body."""
    bodies = [node.args[0].target for node in program.graph.nodes if node.target is SCAN]
    return [program.graph_module.get_submodule(body).graph.python_code("self").src for body in bodies]


def test_a_selection_moves_up_in_front_of_the_loop_that_chose_it() -> None:
    function = Function(lambda x: take(F.linear(F.gelu(F.linear(x, WEIGHT)), WEIGHT), far_rows(x)))
    program = hoisted(function, X, lower=True)
    assert shapes(program, LINEAR) == [FEW, FEW]
    assert len(loops(program)) == 1


def test_what_the_loop_reads_keeps_all_its_rows_and_what_stands_behind_does_not() -> None:
    def function(x: Tensor) -> Tensor:
        y = F.linear(x, WEIGHT)
        return take(F.linear(y, WEIGHT), far_rows(y))

    assert shapes_of(LINEAR, function, X) == [ALL, FEW]


def test_nothing_moves_into_a_loop() -> None:
    module = Function(lambda x: take(F.linear(x, WEIGHT), far_rows(x)))
    before, after = exported(module, X), hoisted(module, X)
    assert loops(before) == loops(after)


def test_selections_move_past_a_loop_that_has_nothing_to_do_with_them() -> None:
    def function(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        y = F.linear(x, WEIGHT)
        others = far_rows(x)
        return take(y.relu(), rows), others

    assert shapes_of(LINEAR, function, X, ROWS) == [FEW]


def test_rows_that_two_loops_chose_move_through_each_other() -> None:
    def function(x: Tensor) -> Tensor:
        y = take(F.linear(x, WEIGHT), top_in_order(far_rows(x) * 1.0, K))
        return take(F.linear(y, WEIGHT), far_rows(y))

    program = hoisted(function, X, lower=True)
    assert shapes(program, LINEAR) == [FEW, FEW]
    assert len(loops(program)) == 2


def test_nothing_crosses_a_loop_that_writes() -> None:
    def before(x: Tensor, rows: Tensor) -> Tensor:
        y = F.linear(x, WEIGHT)
        rows = rows + far_rows(x, write=True) * 0
        return take(F.linear(y, WEIGHT), rows)

    def behind(x: Tensor, rows: Tensor) -> Tensor:
        rows = rows + far_rows(x, write=True) * 0
        return take(F.linear(F.linear(x, WEIGHT), WEIGHT), rows)

    assert shapes_of(LINEAR, before, X, ROWS) == [ALL, FEW]
    assert shapes_of(LINEAR, behind, X, ROWS) == [FEW, FEW]


def test_a_loop_that_nobody_reads_is_dropped() -> None:
    def function(x: Tensor, rows: Tensor) -> Tensor:
        far_rows(x)
        return take(F.linear(x, WEIGHT), rows)

    program = hoisted(function, X, ROWS)
    assert loops(program) == []
    assert shapes(program, LINEAR) == [FEW]


# Whole models


class Layer(nn.Module):
    def __init__(self, pre_norm: bool) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(C, C) for _ in range(4))
        self.norms = nn.ModuleList([nn.LayerNorm(C), nn.LayerNorm(C)])
        self.mlp = nn.Sequential(nn.Linear(C, 4 * C), nn.GELU(), nn.Linear(4 * C, C))
        self.pre_norm = pre_norm

    def attend(self, x: Tensor) -> Any:
        heads = [part(x).unflatten(-1, (H, C // H)).transpose(1, 2) for part in (self.query, self.key, self.value)]
        return self.out(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))

    def forward(self, x: Tensor) -> Any:
        first, second = self.norms
        if self.pre_norm:
            x = x + self.attend(first(x))
            return x + self.mlp(second(x))
        x = first(x + self.attend(x))
        return second(x + self.mlp(x))


class Projector(nn.Module):
    """A residual MLP behind a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up = nn.LayerNorm(C), nn.Linear(C, 12)
        self.first, self.second = nn.Linear(12, 12), nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Any:
        x = self.up(self.norm(x))
        return x + self.second(F.gelu(self.first(x)))


class Transformer(nn.Module):
    """Ranks the patches by their distance to the [CLS] row in front of the last layer, and keeps K behind it. Or keeps
    K far ones, which a loop chooses.
    """

    def __init__(self, pre_norm: bool, looped: bool = False) -> None:
        super().__init__()
        self.looped = looped
        self.position = nn.Parameter(random_tensor(1, N, C))
        self.layers = nn.ModuleList([Layer(pre_norm) for _ in range(2)])
        self.projector = Projector()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.layers[0](x + self.position)
        rows = far_rows(x[:, 1:]) if self.looped else top_in_order((x[:, :1] * x[:, 1:]).sum(-1), K)
        return take(self.projector(self.layers[1](x)[:, 1:]), rows), rows


@pytest.mark.parametrize("looped", [False, True])
@pytest.mark.parametrize(
    ("pre_norm", "batch", "dynamic"), [(True, 1, False), (True, 3, True), (False, 1, False), (False, 3, False)]
)
def test_last_layer_and_projector_work_on_kept_rows(pre_norm: bool, batch: int, dynamic: bool, looped: bool) -> None:
    torch.manual_seed(0)
    program = hoisted(Transformer(pre_norm, looped), random_tensor(batch, N, C), dynamic=dynamic, lower=True)
    assert len(loops(program)) == looped
    assert [shape[1] for shape in shapes(program, LINEAR)].count(N) == 6 + 2  # the first layer; keys and values
    assert [shape[1] for shape in shapes(program, LINEAR)].count(K) == 4 + 3
    assert [shape[-2] for shape in shapes(program, ATTENTION)] == [N, K]


class PrunedClip(nn.Module):
    """[CLS] row of the last layer's attention, recomputed in a side branch beside the fused attention."""

    def __init__(self) -> None:
        super().__init__()
        config = CLIPVisionConfig(
            hidden_size=C,
            intermediate_size=2 * C,
            num_attention_heads=H,
            num_hidden_layers=3,
            image_size=12,
            patch_size=4,
        )
        encoder = CLIPVisionModel(config)
        self.model: Any = getattr(encoder, "vision_model", encoder)
        self.projector = Projector()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = self.model.pre_layrnorm(self.model.embeddings(x))
        *layers, last = self.model.encoder.layers
        for layer in layers:
            hidden = layer(hidden, None)
        normed = last.layer_norm1(hidden)
        query = last.self_attn.q_proj(normed)[:, :1].unflatten(-1, (H, C // H)).transpose(1, 2)
        key = last.self_attn.k_proj(normed).unflatten(-1, (H, C // H)).transpose(1, 2)
        scores = (query @ key.transpose(-1, -2) * (C // H) ** -0.5).softmax(-1).mean(1)[:, 0, 1:]
        rows = top_in_order(scores, K)
        return take(self.projector(last(hidden, None)[:, 1:]), rows), rows, scores


@pytest.mark.parametrize(("batch", "dynamic"), [(1, False), (3, False), (3, True)])
def test_last_layer_of_clip_works_on_kept_rows(batch: int, dynamic: bool) -> None:
    torch.manual_seed(0)
    program = hoisted(PrunedClip(), random_tensor(batch, 3, 12, 12), dynamic=dynamic, lower=True)
    assert [shape[-2] for shape in shapes(program, ATTENTION)] == [10, 10, K]
    mlps = [shape[1] for shape in shapes(program, LINEAR) if shape[-1] == 2 * C]
    assert mlps == [10, 10, K]


# Any graph


class RandomGraph:
    """Random operators on values [B, N, C], then some selections of some of them."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def attend(self, *values: Tensor) -> Tensor:
        query, key, value = (v.view(v.shape[0], N, H, -1).transpose(1, 2) for v in values)
        out = F.scaled_dot_product_attention(query, key, value, MASKS["11SS"])
        return out.transpose(1, 2).reshape(-1, N, C)

    def grow(self, choose: random.Random, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        batch = x.shape[0]
        steps: list[Callable[[], Tensor]] = [
            lambda: F.linear(x, WEIGHT, BIAS),
            lambda: F.gelu(x) + y,
            lambda: x * x.sigmoid() - TABLE,
            lambda: F.layer_norm(x + y * TABLE[None], (C,), BIAS),
            lambda: F.rms_norm(x, (C,)) + x[:, :1],
            lambda: x.softmax(choose.choice([1, 2, -1])),
            lambda: F.scaled_dot_product_attention(x, y, z),
            lambda: F.scaled_dot_product_attention(x, y, z, is_causal=True),
            lambda: self.attend(x, y, z),
            lambda: (x @ y.transpose(1, 2)).softmax(-1) @ z,
            lambda: F.linear(torch.cat([x, y], -1), torch.cat([WEIGHT, WEIGHT.mT], 1)),
            lambda: torch.cat([x[:, choose.randrange(N) :], y[:, :N]], 1)[:, :N],
            lambda: torch.cat([y[:, :2], x[:, -4:]], 1),
            lambda: x - y.mean(choose.choice([[1], [-1], [1, 2]]), keepdim=True),
            lambda: x * y.sum(-1).unsqueeze(2) + z[:, choose.randrange(N)].unsqueeze(1),
            lambda: x.permute(0, 2, 1).contiguous().tanh().permute(0, -1, 1),
            lambda: x.unsqueeze(at := choose.randrange(4)).double().tanh().squeeze(at).float(),
            lambda: x.unsqueeze(choose.randrange(4)).cos().reshape(batch, N, C),
            lambda: x.reshape(batch * N, C).relu().view(batch, N, C),
            lambda: torch.where(x > y, x, z).masked_fill(y > 1, 0.5),
            lambda: torch.stack(x.chunk(2, -1), -1).flatten(2).clone(),
            lambda: torch.unflatten(x, -1, (H, -1)).flip(-1).flatten(-2),
        ]
        return choose.choice(steps)()

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        choose = random.Random(self.seed)
        values = [x]
        for _ in range(choose.randint(3, 9)):
            recent = values[-choose.randint(1, 3) :]
            values.append(self.grow(choose, values[-1], choose.choice(recent), choose.choice(recent)))
        results: list[Tensor] = []
        for _ in range(choose.randint(1, 3)):
            value, start = choose.choice(values[-3:]), choose.choice([0, 0, 1, -5])
            scores = x.mean(-1) + choose.choice([x, *values[-2:]])[..., 0].tanh() / 1000  # x alone decides: no ties
            rows = top_in_order(scores[:, start:], K)
            kept = take(value[:, start:], rows)
            others = [kept, take(value[:, start:], rows) * 2, take(value, rows, 2)]
            others += [value, value[:, 0], value[:, :1], value.mean(-1)]
            results += [F.linear(kept, WEIGHT) + take(values[-1][:, start:], rows), choose.choice(others)]
        return tuple(results)


@pytest.mark.parametrize("seed", range(12))
def test_random_graph_computes_the_same(seed: int) -> None:
    batch = (1, 3, 3)[seed % 3]
    hoisted(RandomGraph(seed), random_tensor(batch, N, C), dynamic=seed % 3 == 2, lower=seed % 4 == 0)


def test_hoisted_program_runs_on_onnx_runtime() -> None:
    torch.manual_seed(0)
    x = random_tensor(3, N, C)
    module = Transformer(pre_norm=True)
    program = hoisted(module, x).run_decompositions({TAKE: lower_take})
    exported_program = torch.onnx.export(program, dynamo=True, opset_version=18, verbose=False)
    assert exported_program is not None
    session = onnxruntime.InferenceSession(exported_program.model_proto.SerializeToString())
    tokens, rows = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    expected_tokens, expected_rows = module(x)
    assert (torch.from_numpy(rows) == expected_rows).all()
    torch.testing.assert_close(torch.from_numpy(tokens), expected_tokens, rtol=1e-4, atol=1e-5)
