"""Whether patches know of objects that are elsewhere: then it hardly matters which of them are kept.

    from the features of each patch without an object, a linear map (ridge) says which colours the objects have
    leak = mean over the colours of the area under its ROC curve, on other scenes: 0.5 nothing, 1 everything

Attention lets any patch know a little. A tower that was trained behind dropped tokens writes the whole scene into every
patch, and uniform pruning then looks as good as any.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.quality.scenes import COLORS, Scene

__all__ = ["leak"]

RIDGE = 10.0
"""added to the diagonal, in patches"""

Array = NDArray[np.float64]


def leak(features: NDArray[Any], scenes: Sequence[Scene]) -> float:
    """features: [B, N, C] of the scenes, two or more; the map is fitted to the first half and judged on the second."""
    half = len(scenes) // 2
    inputs, there = _patches(features[:half], scenes[:half])
    mean, deviation = inputs.mean(axis=0), inputs.std(axis=0) + 1e-6
    inputs = _with_one((inputs - mean) / deviation)
    weights = np.linalg.solve(inputs.T @ inputs + RIDGE * np.eye(inputs.shape[1]), inputs.T @ (2.0 * there - 1))
    inputs, there = _patches(features[half:], scenes[half:])
    scores = _with_one((inputs - mean) / deviation) @ weights
    areas = [_area(scores[:, at], there[:, at]) for at in range(len(COLORS)) if 0 < there[:, at].mean() < 1]
    return float(np.mean(areas))


def _patches(features: NDArray[Any], scenes: Sequence[Scene]) -> tuple[Array, NDArray[np.bool_]]:
    """Of all patches without an object: [P, C], and [P, colours], whether an object has it."""
    inputs, there = [], []
    for own, scene in zip(features, scenes, strict=True):
        empty = scene.labels < 0
        colors = {thing.color for thing in scene.things}
        inputs.append(np.asarray(own, np.float64)[empty])
        there.append(np.tile([color in colors for color in COLORS], (int(empty.sum()), 1)))
    return np.concatenate(inputs), np.concatenate(there)


def _with_one(inputs: Array) -> Array:
    return np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)


def _area(scores: Array, positive: NDArray[np.bool_]) -> float:
    """Share of the pairs of one that is and one that is not in which the first has the higher score."""
    ranks = np.empty(len(scores))
    ranks[scores.argsort()] = np.arange(1, len(scores) + 1)
    many = int(positive.sum())
    return float((ranks[positive].sum() - many * (many + 1) / 2) / (many * (len(scores) - many)))
