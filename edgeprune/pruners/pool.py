"""Pool: average the features over K cells of the grid. No selection at all; the baseline every method has to beat.

The grid is cut into r bands of rows, each band into cells, as near to squares as K allows; every patch belongs to one
cell (24 x 24 at K = 64: 3 x 3 patches each). Tokens are ordered by cell; the index of a cell is its first patch, and
the score of a patch is one over the size of its cell.

Source  plain down-sampling as in VTC-Bench, https://arxiv.org/abs/2510.07143
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from edgeprune import pruners
from edgeprune.pruners import Eager, Selection, Traits
from edgeprune.taps import Taps


def cells(grid: tuple[int, int], keep: int) -> list[int]:
    """The cell of each of the N patches, 0..keep-1; every cell has at least one.

    >>> cells((4, 4), 4)
    [0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 3, 3, 2, 2, 3, 3]
    """
    rows, columns = grid
    fewest = -(-keep // columns)  # a band holds at most `columns` cells
    bands = min(max(round((keep * rows / columns) ** 0.5), fewest), rows, keep)
    cell: list[int] = []
    for band in range(bands):
        first, last = band * keep // bands, (band + 1) * keep // bands
        height = (band + 1) * rows // bands - band * rows // bands
        cell += [first + column * (last - first) // columns for column in range(columns)] * height
    return cell


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    written_from: ClassVar[str] = "ours"
    traits: ClassVar[Traits] = Traits(reads=("features",), multiply_adds="37.7 M", early=False, emits=())

    def rule(self, patches: int) -> dict[str, Any]:
        return {"name": "fixed"}

    def select(self, taps: Taps) -> Selection:
        cell = torch.tensor(cells(taps.grid, self.keep))
        member = (cell == torch.arange(self.keep).unsqueeze(-1)).float()
        merge = member / member.sum(dim=-1, keepdim=True)
        each_image = torch.ones_like(taps.features[:, :1, 0], dtype=torch.float32)
        first = member.argmax(dim=-1).expand(taps.features.shape[0], -1)
        return Selection(first, each_image * merge.sum(dim=0), merge.to(taps.features.dtype))

    def official(self, eager: Eager) -> Selection:
        cell = cells(eager.grid, self.keep)
        merge = torch.tensor([[(at == one) / cell.count(one) for at in cell] for one in range(self.keep)])
        first = torch.tensor([cell.index(one) for one in range(self.keep)])
        size = torch.tensor([1 / cell.count(one) for one in cell])
        batch = eager.features.shape[0]
        return Selection(first.repeat(batch, 1), size.repeat(batch, 1), merge)
