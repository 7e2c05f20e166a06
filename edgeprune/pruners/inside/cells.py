"""Cells: the rows of the highest score go on, and what is dropped of each quadrant of the grid becomes one mean.

    x_q <- sum s_j x_j / sum s_j        j: the dropped rows of quadrant q, and what remained of it before
    later logits += log s

The four means are attended to in proportion to what they stand for; they are never ranked, and none leaves the encoder.
A quadrant of which nothing is dropped has a row of zeros that nothing attends to: shapes stay the same.
The upper and the left half have the middle row and column of an odd grid.

Which score is the option `score` (`_scores`). One cut at about 40 % of the depth, or a gentler one in front of it as
well: every cut costs about twelve kernels. Ours; it was measured against the merges of the papers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from edgeprune.pruners._select import top_in_order
from edgeprune.pruners.inside import Eager, Reduction, Step
from edgeprune.pruners.inside._merges import own_or
from edgeprune.pruners.inside._scores import Ranked, officially_ranked, ranked
from edgeprune.taps import Taps


@dataclass(frozen=True)
class Reducer(Ranked):
    score: str = "auto"
    bias: bool = True
    written_from: ClassVar[str] = "ours"
    hidden: ClassVar[int] = 4
    gentle: ClassVar[float] = 0.61  # 2:58 of 144 gains .1 points, 2:48 loses .7, 2:38 2.5 (400 and 800 scenes)
    best: ClassVar[str] = "flowcut"  # 48 of 144 behind layer 2 of 5, then 32: -.8 points, by cls -2.0 (300 scenes)

    def rule(self, step: Step) -> dict[str, Any]:
        return {"name": "quadrants", "shares": self.shares}

    def multiply_adds(self, step: Step, rows: int, width: int, heads: int) -> int:
        return (step.keep + self.hidden) * rows * width + self.ranking(rows, width)

    def select(self, step: Step, taps: Taps, carried: Mapping[str, Tensor]) -> Reduction:
        scores, kept = ranked(self.score, step, taps, carried)
        rows = top_in_order(scores, step.keep)
        table = torch.tensor([_quadrant(at, taps.grid) for at in range(taps.grid[0] * taps.grid[1])])
        images = scores.shape[0]
        if taps.names is None:
            quadrant, remains = table.expand(images, -1), []
        else:
            quadrant = table.index_select(0, taps.names.flatten()).reshape(taps.names.shape)
            remains = [torch.arange(step.keep, step.keep + self.hidden).expand(images, -1)]
        into = torch.cat((own_or(rows, step.keep + quadrant), *remains), dim=1)
        return Reduction(rows, scores, into=into, hidden=self.hidden, carried=kept)

    def official(
        self, step: Step, eager: Eager, carried: Mapping[str, Tensor], rows: Tensor | None = None
    ) -> Reduction:
        scores, kept = officially_ranked(self.score, step, eager, carried)
        if rows is None:
            rows = scores.topk(step.keep, dim=1).indices.sort(dim=1).values
        height, width = eager.grid
        down, right = eager.names // width, eager.names % width
        quadrant = 2 * (2 * down >= height + height % 2) + 1 * (2 * right >= width + width % 2)
        into = torch.cat((quadrant, torch.arange(eager.hidden).repeat(len(rows), 1)), dim=1) + step.keep
        into = into.scatter(1, rows, torch.arange(step.keep).repeat(len(rows), 1))
        quantities = {"quadrant": quadrant.float()}
        return Reduction(rows, scores, into=into, hidden=self.hidden, carried=kept, quantities=quantities)


def _quadrant(at: int, grid: tuple[int, int]) -> int:
    """0 upper left, 1 upper right, 2 lower left, 3 lower right.

    >>> [_quadrant(at, (3, 3)) for at in range(9)]
    [0, 0, 1, 0, 0, 1, 2, 2, 3]
    """
    row, column = divmod(at, grid[1])
    return 2 * (row >= (grid[0] + 1) // 2) + (column >= (grid[1] + 1) // 2)
