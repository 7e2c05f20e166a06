"""An order of a grid's patches that leaves no hole and no cluster wherever it is cut: the ranks of a sequence.

phase = frac(row / g^2 + column / g)        g = 1.3247..., g^3 = g + 1
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["PLASTIC", "dither"]

PLASTIC = 1.324717957244746
"""g: what the golden ratio is in one dimension, it is in two"""


def dither(rows: int, columns: int) -> Tensor:
    """[rows * columns] float32, the ranks of that sequence over their number: distinct, in (0, 1].

    >>> dither(2, 3).mul(6).int().tolist()
    [1, 6, 4, 5, 3, 2]
    """
    phase = [(row / PLASTIC**2 + column / PLASTIC) % 1 for row in range(rows) for column in range(columns)]
    ranks = [0.0] * len(phase)
    for rank, place in enumerate(sorted(range(len(phase)), key=phase.__getitem__), 1):
        ranks[place] = rank / len(phase)
    return torch.as_tensor(ranks)  # numbers: a trace would hold what they were made by, in float64
