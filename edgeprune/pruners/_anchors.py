"""Anchors and the four neighbours of each, and then the best of the others: how hiprune chooses, by any two scores.

    anchors  = the A patches with the highest first[j]
    score[j] = s[j] + 2 where j is an anchor or stands beside one; the K highest are kept       s: at most 1; 5 A <= K

Neighbours are `flat`: j - 1, j + 1, j - W, j + W, clamped to 0..N-1, so they wrap from one row to the next, and patch 0
or N-1 stands in for what is beyond the border; or of the `grid`, those that touch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgeprune.pruners import Selection

__all__ = ["NEIGHBOURS", "surrounded", "surrounded_as_published", "surroundings"]

NEIGHBOURS = ("flat", "grid")
FIRST = 2.0
"""what the first tier is above the other"""


def surrounded(
    first: Tensor, scores: Tensor, count: int, keep: int, grid: tuple[int, int], neighbours: str
) -> Selection:
    """The static form. first, scores: [B, N] float32; count: of anchors; neighbours: one of NEIGHBOURS"""
    anchors = scores[:, :0].long()
    if count:
        anchors = first.topk(count, dim=1).indices
        around = torch.tensor(surroundings(grid, neighbours))
        marked = torch.nn.functional.embedding(anchors, around).flatten(1)
        chosen = (marked.unsqueeze(-1) == torch.arange(scores.shape[1])).any(dim=1)
        scores = scores + FIRST * chosen.float()
    # Anchors first, then the others by their score: picked for a second time, an anchor would come twice.
    ahead = (anchors.unsqueeze(-1) == torch.arange(scores.shape[1])).any(dim=1) if count else None
    rest = scores if ahead is None else torch.where(ahead, -1.0, scores)
    picks = torch.cat((anchors, rest.topk(keep - count, dim=1).indices), dim=1)
    return Selection(picks.sort(dim=1).values, scores, picks=picks)


def surrounded_as_published(
    first: Tensor, s: Tensor, count: int, keep: int, grid: tuple[int, int], neighbours: str
) -> Selection:
    """The same as HiPrune's official code has it, with the quantities of the rule `stages`."""
    rows, columns = grid
    a = first.topk(count, dim=1).indices
    around = _beside(a[..., None], rows, columns, neighbours).flatten(1)
    marked = torch.zeros_like(s).scatter(1, around, 1.0)  # the union of the two
    rest = keep - marked.sum(dim=1, keepdim=True)
    place = torch.argsort(torch.argsort(s - marked, dim=1, descending=True), dim=1)  # they come last: s <= 1
    kept = torch.where(marked > 0, torch.ones_like(marked), (place < rest).to(marked.dtype))
    indices = torch.topk(kept, keep, dim=1).indices.sort(dim=1).values
    scores = s + 2 * marked
    behind = scores.scatter(1, a, -1.0).topk(keep - count, dim=1).indices
    quantities = {"first": first}
    if count:
        every = torch.arange(rows * columns)[:, None]
        quantities["around"] = _beside(every, rows, columns, neighbours).repeat(s.shape[0], 1, 1).float()
    return Selection(indices, scores, picks=torch.cat((a, behind), dim=1), quantities=quantities)


def _beside(a: Tensor, rows: int, columns: int, neighbours: str) -> Tensor:
    """The anchors [..., 1] and their four neighbours, [..., 5], as the official code finds them."""
    if neighbours == "flat":
        return torch.cat([a, a - 1, a + 1, a - columns, a + columns], dim=-1).clamp(0, rows * columns - 1)
    row, column = a // columns, a % columns
    beside = [row * columns + (column + step).clamp(0, columns - 1) for step in (-1, 1)]
    above = [(row + step).clamp(0, rows - 1) * columns + column for step in (-1, 1)]
    return torch.cat([a, *beside, *above], dim=-1)


def surroundings(grid: tuple[int, int], neighbours: str) -> list[list[int]]:
    """Each patch and its four neighbours; a neighbour that is not there is replaced by what the rule says.

    neighbours: one of NEIGHBOURS -> [N, 5] patches

    >>> surroundings((2, 3), "flat")[3]
    [3, 2, 4, 0, 5]
    >>> surroundings((2, 3), "grid")[3]
    [3, 3, 4, 0, 3]
    """
    rows, columns = grid
    last, steps = rows * columns - 1, (-1, 1, -columns, columns)
    around = []
    for at in range(rows * columns):
        row, column = divmod(at, columns)
        inside = (column > 0, column < columns - 1, row > 0, row < rows - 1)
        if neighbours == "flat":
            around.append([at, *(min(max(at + step, 0), last) for step in steps)])
        else:
            around.append([at, *(at + step if there else at for step, there in zip(steps, inside, strict=True))])
    return around
