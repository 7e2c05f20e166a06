"""The rules: what an operator lets through, what stays in front of it, and that no value changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from edgeprune.pruners._select import take
from tests.covering import always
from tests.export.hoisting import (
    ALL,
    ATTENTION,
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
    random_tensor,
)

KERNEL = random_tensor(N, N, 3, seed=5)


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


@pytest.mark.parametrize("rule", always(MOVES, *[*MOVES][::3]))
def test_operator_has_kept_rows_only(rule: str, hoisted: Hoisted, shapes: Shapes) -> None:
    target, shape, function = MOVES[rule]
    program = hoisted(function, X, ROWS)
    assert shapes(program, target)[-1] == shape
    assert program.graph.output_node().all_input_nodes[0].target is not TAKE


FREE = ["linear", "scores", "matmul_of_table", "transpose", "slice", "mean", "concatenation"]


@pytest.mark.parametrize("rule", always(FREE, "matmul_of_table", "slice"))
def test_operator_has_kept_rows_only_with_free_batch(rule: str, hoisted: Hoisted, shapes: Shapes) -> None:
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


@pytest.mark.parametrize("reason", always(STAYS, *[*STAYS][::3]))
def test_operator_keeps_all_rows(reason: str, program_of: ProgramOf, hoisted: Hoisted, shapes: Shapes) -> None:
    target, function = STAYS[reason]
    program = program_of(function, X, ROWS)
    before = shapes(program, target)
    assert shapes(hoisted(function, X, ROWS), target) == before


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


@pytest.mark.parametrize("mask", always(MASKS, *[*MASKS][::3]))
def test_attention_asks_for_kept_rows_only(mask: str, hoisted: Hoisted, shapes: Shapes) -> None:
    program = hoisted(lambda x, rows: take(attend(x, attn_mask=MASKS[mask]), rows), X, ROWS)
    assert shapes(program, ATTENTION) == [(B, H, K, C // H)]
    assert sorted(shapes(program, LINEAR)) == [FEW, ALL, ALL]


def test_attention_asks_for_kept_rows_only_with_free_batch(hoisted: Hoisted, shapes: Shapes) -> None:
    program = hoisted(lambda x, rows: take(attend(x), rows), X, ROWS, dynamic=True)
    assert shapes(program, ATTENTION)[0][1:] == (H, K, C // H)


@pytest.mark.parametrize("options", [{"is_causal": True}, {"attn_mask": random_tensor(N, N)}], ids=["causal", "SS"])
def test_attention_that_knows_places_keeps_all_rows(options: dict[str, Any], hoisted: Hoisted, shapes: Shapes) -> None:
    program = hoisted(lambda x, rows: take(attend(x, **options), rows), X, ROWS)
    assert shapes(program, ATTENTION) == [(B, H, N, C // H)]


def test_attention_without_heads_takes_a_mask_of_all_images(shapes_of: ShapesOf) -> None:
    mask = random_tensor(N, N)
    function = lambda x, rows: take(F.scaled_dot_product_attention(x, x.relu(), x, mask), rows)  # noqa: E731
    assert shapes_of(ATTENTION, function, X, ROWS) == [ALL]  # the query is the value, too
    function = lambda x, rows: take(F.scaled_dot_product_attention(x.tanh(), x, x, mask), rows)  # noqa: E731
    assert shapes_of(ATTENTION, function, X, ROWS) == [FEW]


def test_attention_of_grouped_queries_moves(shapes_of: ShapesOf) -> None:
    def function(x: Tensor, rows: Tensor) -> Tensor:
        return take(F.scaled_dot_product_attention(x.relu(), x[:, :1], x[:, 1:], enable_gqa=True), rows, 2)

    assert shapes_of(ATTENTION, function, X4, ROWS) == [(B, H, K, C)]


def test_attention_written_out_moves(hoisted: Hoisted, shapes: Shapes) -> None:
    def function(x: Tensor, rows: Tensor) -> Tensor:
        scores = F.linear(x, WEIGHT) @ F.linear(x, -WEIGHT).transpose(1, 2) / C**0.5
        return take(scores.softmax(-1) @ x, rows)

    program = hoisted(function, X, ROWS)
    assert shapes(program, aten.matmul.default) == [(B, K, N), FEW]
    assert shapes(program, LINEAR) == [ALL, FEW] or shapes(program, LINEAR) == [FEW, ALL]


@pytest.mark.parametrize("split", ["split", "chunk", "unbind"])
def test_fused_query_key_value_stays_correct(split: str, hoisted: Hoisted, shapes: Shapes) -> None:
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


def test_attention_that_nobody_reads_is_dropped_and_stops_nothing(hoisted: Hoisted, shapes: Shapes) -> None:
    def function(x: Tensor, rows: Tensor) -> Tensor:
        y = F.linear(x, WEIGHT)
        attend(y)
        return take(y, rows)

    program = hoisted(function, X, ROWS)
    assert shapes(program, LINEAR) == [FEW]
    assert shapes(program, ATTENTION) == []
