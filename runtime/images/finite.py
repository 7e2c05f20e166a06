"""Pixels that are numbers: with NaN among them every score is NaN, and the patches kept are 0, 1, 2, ..."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import ImageError

__all__ = ["check_finite"]


def check_finite(name: str, values: NDArray[Any]) -> NDArray[Any]:
    """The same array. Raises ImageError when one of its floats is NaN or infinite.

    A third of a millisecond for 3 x 336 x 336 in float32, of the hundred and more that a run takes on that CPU.
    """
    if values.dtype.kind != "f" or np.isfinite(values).all():
        return values
    wrong = int((~np.isfinite(values)).sum())
    raise ImageError(
        f"{name} must be finite, {wrong} of {values.size} are NaN or infinite; replace them, or scale what is beyond "
        f"the range of {values.dtype}"
    )
