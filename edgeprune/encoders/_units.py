"""Tokens of several patches: which patches each is made of, and a tower in which these stand side by side.

    groups[n]    the patches of token n: a square of side x side, row by row (pixel shuffle, unfold, merge)

Where the patches of a token stand side by side in the tower, a sequence that shortens on the way drops it whole
(`edgeprune.shortening`). The layers know no order, positions are added in front of it: behind the embeddings it may be
any.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from edgeprune.encoders import Tower
from edgeprune.errors import ModelError

__all__ = ["check_squares", "side_by_side", "squares"]


def check_squares(id: str, grid: Sequence[int], side: int, settings: str) -> None:
    """Raises ModelError when the patches make no whole squares; settings: of config.json that say their number."""
    if any(size % side for size in grid):
        rows, columns = grid
        raise ModelError(
            f"{id}: a token is {side}x{side} patches, which must divide the grid, got {rows}x{columns}; check "
            f"{settings} of its config.json"
        )


def squares(grid: Sequence[int], side: int) -> Tensor:
    """[N, side * side] int64: the places in the raster of the patches of each square, squares in raster order.

    >>> squares((2, 4), 2).tolist()
    [[0, 1, 4, 5], [2, 3, 6, 7]]
    """
    rows, columns = grid
    places = torch.arange(rows * columns).reshape(rows // side, side, columns // side, side)
    return places.transpose(1, 2).reshape(-1, side * side)


def side_by_side(tower: Tower, groups: Tensor) -> Tensor:
    """Bring the patches into the order of the groups behind the embeddings of a tower without special tokens, in place.

    Returns the groups in that order.
    """
    assert tower.prefix == tower.suffix == 0
    assert tower.embeddings is not None
    embeddings: Any = tower.embeddings
    kind: Any = type(embeddings)

    def forward(self: Any, *given: Any, **named: Any) -> Tensor:
        ordered: Tensor = kind.forward(self, *given, **named).index_select(1, self.order)
        return ordered

    embeddings.register_buffer("order", groups.flatten(), persistent=False)
    embeddings.__class__ = type(kind.__name__, (kind,), {"forward": forward})  # of the object, so that a copy has it
    return torch.arange(groups.numel()).reshape(groups.shape)
