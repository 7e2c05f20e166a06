"""What the tests of the pass share: tensors, operators, and what their fixtures are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from edgeprune.pruners._select import top_in_order

B, H, N, C, K = 2, 2, 6, 8, 2
aten: Any = torch.ops.aten
TAKE = torch.ops.edgeprune.take.default
LINEAR, ATTENTION = aten.linear.default, aten.scaled_dot_product_attention.default
ProgramOf = Callable[..., ExportedProgram]
Hoisted = Callable[..., ExportedProgram]
Shapes = Callable[..., list[tuple[int, ...]]]
ShapesOf = Callable[..., list[tuple[int, ...]]]


def random_tensor(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_rows(batch: int = B, rows: int = N, keep: int = K) -> Tensor:
    return top_in_order(random_tensor(batch, rows, seed=1), keep)


X, X4, ROWS = random_tensor(B, N, C), random_tensor(B, H, N, C), random_rows()
WEIGHT, BIAS, TABLE = random_tensor(C, C, seed=2), random_tensor(C, seed=3), random_tensor(N, C, seed=4)
FEW, ALL = (B, K, C), (B, N, C)
