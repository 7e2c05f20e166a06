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
    along, down = torch.arange(columns, dtype=torch.float64), torch.arange(rows, dtype=torch.float64)
    phase = (down[:, None] / PLASTIC**2 + along / PLASTIC).frac().flatten()
    return (phase.argsort().argsort() + 1).float() / (rows * columns)
