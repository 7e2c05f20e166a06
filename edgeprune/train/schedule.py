"""What every training here follows from its seed and its length alone: the order of the images, and the pace."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["WARM_UP", "drawn", "pace"]

WARM_UP = 0.05
"""share of the steps"""


def drawn(
    count: int, batch: int, seed: int, epoch: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_], np.random.Generator]:
    """Which images each step of an epoch takes, [steps, batch], which of them are mirrored, and the generator, for what
    else is drawn in this epoch."""
    rng, batch = np.random.default_rng((seed, epoch)), min(batch, count)
    steps = count // batch
    order = rng.permutation(count)[: steps * batch].reshape(steps, batch)
    return order, rng.random(order.shape) < 0.5, rng


def pace(step: int, total: int) -> float:
    """Share of the learning rate: up in a line, down in half a cosine."""
    warm = max(1, round(WARM_UP * total))
    return min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * max(0, step - warm) / max(1, total - warm)))
