"""Uniform: keep the patches in the middle of K cells of the grid, the same of every image.

    score[j] = 1 where j is the middle of a cell, else 0

The cells are those of `pool`: rectangles as near to squares as K allows. The middle of an even side is the patch in
front of it.

Source  the usual baseline: plain down-sampling as in VTC-Bench, https://arxiv.org/abs/2510.07143
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from edgeprune import pruners
from edgeprune.pruners import Eager, Selection, Traits
from edgeprune.taps import Taps


def middles(grid: tuple[int, int], keep: int) -> list[int]:
    """The middle patch of each cell, ascending.

    >>> middles((3, 6), 2)
    [7, 10]
    """
    rows, columns = grid
    fewest = -(-keep // columns)  # a band of rows holds at most `columns` cells
    bands = min(max(round((keep * rows / columns) ** 0.5), fewest), rows, keep)
    patches = []
    for band in range(bands):
        top, below = band * rows // bands, (band + 1) * rows // bands
        count = (band + 1) * keep // bands - band * keep // bands
        edges = [-(-cell * columns // count) for cell in range(count + 1)]
        patches += [(top + below - 1) // 2 * columns + (edges[at] + edges[at + 1] - 1) // 2 for at in range(count)]
    return patches


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    written_from: ClassVar[str] = "ours"
    traits: ClassVar[Traits] = Traits(emits=())

    def rule(self, patches: int) -> dict[str, Any]:
        return {"name": "fixed"}

    def select(self, taps: Taps) -> Selection:
        batch, patches, _ = taps.features.shape
        chosen = middles(taps.grid, self.keep)
        scores = [float(patch in chosen) for patch in range(patches)]
        # as_tensor: tensor() detaches its constant in place, and no selection moves above that
        return Selection(torch.as_tensor(chosen).expand(batch, -1), torch.as_tensor(scores).expand(batch, -1))

    def official(self, eager: Eager) -> Selection:
        batch, patches, _ = eager.features.shape
        chosen = torch.tensor(middles(eager.grid, self.keep))
        scores = (torch.arange(patches).unsqueeze(-1) == chosen).any(dim=-1).float()
        return Selection(chosen.repeat(batch, 1), scores.repeat(batch, 1))
