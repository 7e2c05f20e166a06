"""From priors of single images to the arrays that a graph is given: checked, and in a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import RequestError

__all__ = ["as_prior", "as_xyz"]


def as_prior(priors: NDArray[Any] | Sequence[NDArray[Any]], grid: tuple[int, int]) -> NDArray[np.float32]:
    """[N], [rows, columns], [B, N] or B of the first two -> [B, N] float32.

    Raises RequestError for one of another grid, for what is not finite, and for less than 0: 0 is masked out already.
    """
    values = _batch("a prior", priors, grid, ())
    if values.min() < 0:
        raise RequestError(f"a prior must not be negative, 0 is masked out already; the least is {values.min()}")
    return values


def as_xyz(points: NDArray[Any] | Sequence[NDArray[Any]], grid: tuple[int, int]) -> NDArray[np.float32]:
    """[N, 3], [rows, columns, 3], [B, N, 3] or B of the first two -> [B, N, 3] float32, metres.

    Raises RequestError for those of another grid and for what is not finite.
    """
    return _batch("xyz", points, grid, (3,))


def _batch(
    name: str, given: NDArray[Any] | Sequence[NDArray[Any]], grid: tuple[int, int], each: tuple[int, ...]
) -> NDArray[np.float32]:
    rows, columns = grid
    flat, square = (rows * columns, *each), (*grid, *each)
    try:
        values = np.stack(given) if isinstance(given, (list, tuple)) and given else np.asarray(given)
    except ValueError:  # numpy's
        raise RequestError(f"every {name.removeprefix('a ')} of a batch must have the same shape") from None
    if values.shape in (flat, square):
        values = values[None]
    if values.shape[1:] not in (flat, square) or not len(values):
        raise RequestError(
            f"{name} must be {list(flat)} or {list(square)}, or a batch of these, for a grid of {rows}x{columns}; got "
            f"{list(values.shape)}"
        )
    if values.dtype.kind not in "fiub":
        raise RequestError(f"{name} must be numbers, got {values.dtype}")
    with np.errstate(over="ignore"):  # infinite then, and refused
        single = np.ascontiguousarray(values.reshape(len(values), *flat), np.float32)
    if wrong := int((~np.isfinite(single)).sum()):
        raise RequestError(f"{name} must be finite, {wrong} of {single.size} are NaN or infinite; replace them")
    return single
