"""What nothing beats: the rows of a sweep that are right most often for what they cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from edgeprune.quality.sweep.rows import Row

__all__ = ["NEAR", "frontier"]

NEAR = 0.015
"""of the unpruned cost: steps that were chosen for the same share come as close to it as whole rows allow"""


def frontier(rows: Iterable[Row], column: str, cost: Callable[[Row], float], near: float = NEAR) -> list[Row]:
    """Those that no better one is as cheap as, the cheapest first; of equally good ones the cheapest, or the first.

    column: of their values
    near: costs that differ by no more are alike
    """
    best: list[Row] = []
    for row in sorted(rows, key=lambda row: (-row.values[column].value, cost(row))):
        if not best or cost(row) < cost(best[-1]) - near:
            best.append(row)
    return best[::-1]
