"""Tensor helpers that the methods share: top-k in raster order, and taking rows.

    indices = sort(topk(scores, keep))          what every ranking method ends with
    rows    = take(x, indices, dim=1)           the only way the trace drops patches
    place   = place_in(indices, patches)        where in the output a patch stands

`take` is an operator of its own (`edgeprune::take`) so that the exported program says where the selection happens;
`edgeprune.export.hoist` moves it up through the graph, and `lower_take` writes it as plain gathers at the end.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["lower_take", "place_in", "ranked_top", "take", "top_in_order"]


def top_in_order(scores: Tensor, keep: int) -> Tensor:
    """The `keep` highest scores, in raster order.

    scores: [B, N] float -> [B, keep] int64, ascending and distinct

    Raises RuntimeError when keep > N (the budget is static: it is checked once, at export, and never clamped).
    Which of two equal scores wins is open: torch leaves it open, ONNX TopK takes the lower index.

    >>> top_in_order(torch.tensor([[0.1, 0.9, 0.3, 0.7]]), 2)
    tensor([[1, 3]])
    """
    return ranked_top(scores, keep)[0]


def ranked_top(scores: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """The same in raster order, and by falling score: [B, N] float -> [B, keep] int64 twice.

    >>> ranked_top(torch.tensor([[0.1, 0.9, 0.3, 0.7]]), 2)
    (tensor([[1, 3]]), tensor([[1, 3]]))
    """
    picks = scores.topk(keep, dim=-1).indices
    return picks.sort(dim=-1).values, picks


def place_in(rows: Tensor, wanted: Tensor) -> Tensor:
    """Where each of `wanted` stands among the rows.

    rows: [B, K] int64, distinct; wanted: [B, n] or [n] int64 -> [B, n] int64, -1 of one that is not there

    >>> place_in(torch.tensor([[1, 3]]), torch.arange(4))
    tensor([[-1,  0, -1,  1]])
    """
    # By a sum, where one term at most is not 0: TensorRT-RTX fuses it with all around it, and gives argmax a kernel of
    # its own. In floats, which every release reduces; they count to 2^24.
    same = (rows.unsqueeze(-1) == wanted.unsqueeze(-2)).float()
    numbers = torch.arange(1, rows.shape[1] + 1, dtype=torch.float32).unsqueeze(-1)
    return (same * numbers).sum(dim=1).to(torch.int64) - 1


def take(x: Tensor, rows: Tensor, dim: int = 1) -> Tensor:
    """Keep the given rows of x along one dimension; the batch is dimension 0.

    x: [B, ..., N, ...]; rows: [B, K] int64 -> [B, ..., K, ...]
    x: [N, ...] with dim=0, a table without batch -> [B, K, ...]

    >>> take(torch.tensor([[[1.0], [2.0], [3.0]]]), torch.tensor([[0, 2]])).squeeze(-1)
    tensor([[1., 3.]])
    """
    dim %= x.dim()
    if dim and x.shape[0] != 1 and x.shape[0] != rows.shape[0]:
        raise ValueError(f"rows must be given for {x.shape[0]} images, got {rows.shape[0]}")
    kept: Tensor = torch.ops.edgeprune.take.default(x, rows, dim)
    return kept


def lower_take(x: Tensor, rows: Tensor, dim: int) -> Tensor:
    """`take` written with operators that export to one ONNX Gather (shapes as there).

    With more than one image, dimension 0 and `dim` are flattened and the rows get offsets: ONNX Gather knows no batch,
    and GatherElements would need its indices expanded to every channel.
    """
    if dim == 0 and x.dim() == 2:
        return torch.nn.functional.embedding(rows, x)
    if dim == 0:
        return x.index_select(0, rows.flatten()).reshape(*rows.shape, *x.shape[1:])
    one_table = isinstance(x.shape[0], int) and x.shape[0] == 1
    if one_table and isinstance(rows.shape[0], int) and rows.shape[0] == 1:
        return x.index_select(dim, rows.squeeze(0))
    x = x.movedim(dim, 1)
    if not one_table:
        images = torch.arange(x.shape[0], device=rows.device, dtype=rows.dtype)
        rows = rows + images.unsqueeze(-1) * x.shape[1]
    return lower_take(x.flatten(0, 1), rows, 0).movedim(1, dim).contiguous()


@torch.library.custom_op("edgeprune::take", mutates_args=())
def _take(x: Tensor, rows: Tensor, dim: int) -> Tensor:
    return lower_take(x, rows, dim)


@_take.register_fake
def _take_shape(x: Tensor, rows: Tensor, dim: int) -> Tensor:
    if dim == 0:
        return x.new_empty((*rows.shape, *x.shape[1:]))
    return x.new_empty((rows.shape[0], *x.shape[1:dim], rows.shape[1], *x.shape[dim + 1 :]))


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, rows, ctx.dim = inputs
    ctx.shape = x.shape
    ctx.save_for_backward(rows)


def _take_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
    """The derivative of plain gathers, which is the same at every x."""
    (rows,) = ctx.saved_tensors
    with torch.enable_grad():
        x = gradient.new_zeros(ctx.shape, requires_grad=True)
        (of_x,) = torch.autograd.grad(lower_take(x, rows, ctx.dim), x, gradient)
    return of_x, None, None


_take.register_autograd(_take_backward, setup_context=_remember)
