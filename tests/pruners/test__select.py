"""Top-k in raster order, and taking rows: by hand, against torch.gather, and on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from edgeprune.pruners._select import lower_take, take, top_in_order
from tests.covering import always

B, H, N, C, K = 3, 2, 7, 5, 3
TAKE = torch.ops.edgeprune.take.default


def random_tensor(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# top_in_order


def test_highest_scores_are_kept_in_raster_order() -> None:
    scores = torch.tensor([[0.5, -1.0, 2.0, 0.0, 1.0], [-3.0, -1.0, -2.0, -5.0, -4.0]])
    assert top_in_order(scores, 3).tolist() == [[0, 2, 4], [0, 1, 2]]
    assert top_in_order(scores, 1).tolist() == [[2], [1]]


def test_everything_may_be_kept() -> None:
    assert top_in_order(random_tensor(B, N), N).tolist() == [list(range(N))] * B


def test_keep_larger_than_grid_is_refused() -> None:
    with pytest.raises(RuntimeError, match="out of range"):
        top_in_order(random_tensor(B, N), N + 1)


@pytest.mark.parametrize("scores", [random_tensor(B, 100), torch.zeros(B, 100)], ids=["random", "equal"])
def test_indices_ascend_and_are_distinct(scores: Tensor) -> None:
    indices = top_in_order(scores, 10)
    assert indices.dtype == torch.int64
    assert (indices.diff(dim=1) > 0).all()


# take


def gathered(x: Tensor, rows: Tensor, dim: int) -> Tensor:
    """The same with torch.gather, which wants its indices expanded to every element."""
    x = x.unsqueeze(0) if dim == 0 else x
    dim = dim or 1
    x = x.expand(rows.shape[0], *x.shape[1:])
    index = rows.view([-1 if at == dim else len(rows) if at == 0 else 1 for at in range(x.dim())])
    return x.gather(dim, index.expand([rows.shape[1] if at == dim else size for at, size in enumerate(x.shape)]))


CASES: dict[str, tuple[tuple[int, ...], int, int]] = {  # shape of x, images, dimension
    "one_image": ((1, N, C), 1, 1),
    "images": ((B, N, C), B, 1),
    "one_image_columns": ((1, C, N), 1, 2),
    "images_columns": ((B, C, N), B, 2),
    "heads": ((B, H, N, C), B, 2),
    "heads_of_one_image": ((1, H, N, C), 1, 2),
    "scores": ((B, N), B, 1),
    "table": ((N, C), B, 0),
    "table_for_one_image": ((N, C), 1, 0),
    "table_of_numbers": ((N,), B, 0),
    "table_of_heads": ((N, H, C), B, 0),
    "table_with_batch": ((1, N, C), B, 1),
    "table_with_batch_and_heads": ((1, H, N, C), B, 2),
}


@pytest.mark.parametrize("case", CASES)
def test_take_is_a_gather(case: str) -> None:
    shape, images, dim = CASES[case]
    x, rows = random_tensor(*shape), top_in_order(random_tensor(images, N, seed=1), K)
    kept = take(x, rows, dim)
    assert torch.equal(kept, gathered(x, rows, dim))
    assert torch.equal(kept, lower_take(x, rows, dim))
    assert kept.is_contiguous()
    meta = TAKE(x.to("meta"), rows.to("meta"), dim)
    assert (meta.shape, meta.stride(), meta.dtype) == (kept.shape, kept.stride(), kept.dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.int64, torch.bool])
def test_take_works_for_every_dtype(dtype: torch.dtype) -> None:
    x, rows = (random_tensor(B, N, C) * 9).to(dtype), top_in_order(random_tensor(B, N), K)
    assert torch.equal(take(x, rows), gathered(x, rows, 1))
    assert torch.equal(take(x.mT, rows.int(), -1), gathered(x.mT, rows, 2))


def test_dimensions_count_from_the_back_too() -> None:
    x, rows = random_tensor(B, N, C), top_in_order(random_tensor(B, N), K)
    assert torch.equal(take(x, rows, -2), take(x, rows, 1))


def test_rows_for_another_number_of_images_are_refused() -> None:
    with pytest.raises(ValueError, match="rows must be given for 3 images, got 1"):
        take(random_tensor(B, N, C), torch.tensor([[0]]))


def test_result_is_no_view_of_the_input() -> None:
    x = random_tensor(1, N, C)
    kept = take(x, torch.arange(N)[None])
    assert kept.data_ptr() != x.data_ptr()


# ONNX


class Take(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor, rows: Tensor) -> Tensor:
        return take(x, rows, self.dim)


def exported(case: str, *inputs: Tensor, **options: Any) -> tuple[list[str], Callable[..., np.ndarray[Any, Any]]]:
    """The operators of the ONNX graph, and the graph as a function."""
    program = torch.export.export(Take(CASES[case][2]), inputs, **options)
    model = torch.onnx.export(
        program.run_decompositions({TAKE: lower_take}), dynamo=True, opset_version=18, verbose=False
    )
    assert model is not None
    session = onnxruntime.InferenceSession(model.model_proto.SerializeToString())
    names = [value.name for value in session.get_inputs()]

    def run(*values: Tensor) -> Any:
        return session.run(None, {name: value.numpy() for name, value in zip(names, values, strict=True)})[0]

    return [node.op_type for node in model.model.graph], run


ONNX_CASES = ["one_image", "images", "images_columns", "heads", "table", "table_with_batch"]


@pytest.mark.parametrize("case", always(ONNX_CASES))
def test_lowered_take_is_one_onnx_gather(case: str) -> None:
    shape, images, dim = CASES[case]
    x, rows = random_tensor(*shape), top_in_order(random_tensor(images, N, seed=1), K)
    operators, run = exported(case, x, rows)
    assert operators.count("Gather") == 1
    assert set(operators) <= {"Gather", "Reshape", "Add", "Transpose", "Squeeze", "Unsqueeze"}
    np.testing.assert_array_equal(run(x, rows), gathered(x, rows, dim).numpy())


@pytest.mark.parametrize("case", always(["images_columns", "table_with_batch"]))
def test_lowered_take_knows_any_number_of_images(case: str) -> None:
    shape, images, dim = CASES[case]
    x, rows = random_tensor(*shape), top_in_order(random_tensor(images, N, seed=1), K)
    batch = {0: torch.export.Dim("batch")}
    table = shape[0] != images
    operators, run = exported(case, x, rows, dynamic_shapes={"x": None if table else batch, "rows": batch})
    assert not {"GatherElements", "GatherND"} & set(operators)
    for count in range(1, images + 1):
        given, some = x if table else x[:count], rows[:count]
        np.testing.assert_array_equal(run(given, some), gathered(given, some, dim).numpy())
