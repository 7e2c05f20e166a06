"""How much of the unpruned encoder's output is left, where there is no language model to ask. All in 0..1, per image.

    cosine     of kept tokens with the unpruned tokens of the same cells, mean        below 1: merged, rounded
    nearest    of every unpruned token with the kept token that is most like it, mean
    overlap    share of the kept cells that are among the unpruned [CLS]'s top K
    coverage   share of what the unpruned [CLS] reads that lies on kept cells

The last two need an encoder with a [CLS] token. `nearest` is what `export --keep auto` goes by.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["COLUMNS", "fidelity"]

COLUMNS = ("nearest", "cosine", "overlap", "coverage")
TINY = 1e-12

Array = NDArray[Any]


def fidelity(tokens: Array, indices: Array, unpruned: Array, attended: Array | None = None) -> dict[str, list[float]]:
    """tokens [B, K, D] float, indices [B, K] int, unpruned [B, N, D] float -> column -> a value for each of B images.

    attended: [B, N] float, what [CLS] gives each cell; None for an encoder without, and then without its columns

    >>> full = np.eye(3)[None]
    >>> fidelity(full[:, :2], np.array([[0, 1]]), full, np.array([[0.5, 0.2, 0.3]]))["coverage"]
    [0.7]
    """
    kept, every = _unit(tokens), _unit(unpruned)
    rows = indices.astype(np.intp)
    same = np.take_along_axis(every, rows[:, :, None], axis=1)
    columns = {
        "nearest": (every @ kept.transpose(0, 2, 1)).max(axis=2).mean(axis=1),
        "cosine": (kept * same).sum(axis=2).mean(axis=1),
    }
    if attended is not None:
        keep = rows.shape[1]
        wanted = attended.astype(np.float64)
        first = np.argsort(-wanted, axis=1, kind="stable")[:, :keep]
        among = (rows[:, :, None] == first[:, None, :]).any(axis=2)
        columns["overlap"] = among.mean(axis=1)
        columns["coverage"] = np.take_along_axis(wanted, rows, 1).sum(axis=1) / np.maximum(wanted.sum(axis=1), TINY)
    return {name: [round(float(value), 6) for value in values] for name, values in columns.items()}


def _unit(rows: Array) -> Array:
    """Rows of length 1, float64; a row of zeros stays."""
    wide = rows.astype(np.float64)
    unit: Array = wide / np.maximum(np.linalg.norm(wide, axis=-1, keepdims=True), TINY)
    return unit
