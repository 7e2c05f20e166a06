"""Padding as a prior: 0 for a patch that shows padding and not the image, 1 for every other.

    covered[i] = area of patch i that the image covers / area of a patch
    prior[i]   = 0 where 1 - covered[i] > share, else 1

share is .5 in the official code for FastV, HiMAP and TokenCarve, .01 for PyramidDrop. There the count of tokens falls
where fewer patches are valid; here it stays, and padding fills it up. Where the image lies is what the preprocessing
does with it to the pixel: the middle of a square is half a pixel off the official code's where the padding is odd.

Source  intcomp/attention-bias@e75ebe7 patches/FastV.patch, generate_pad_mask
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import RequestError
from edgeprune.runtime.priors.patches import Patches

__all__ = ["SHARE", "letterbox"]

SHARE = 0.5
"""of a patch that may be padding"""


def letterbox(patches: Patches, share: float = SHARE) -> NDArray[np.float32]:
    """-> [N] float32, 0 or 1. Padding is the square around an image, what a crop adds, and what lies behind one that
    stands in the upper left corner.

    share: of a patch that may be padding, 0..1. Raises RequestError when it is not
    """
    if not 0 <= share <= 1:
        raise RequestError(f"the share of a patch that may be padding must be in 0..1, got {share}")
    covered = patches.rows.shares()[:, None] * patches.columns.shares()
    return (1 - covered <= share).astype(np.float32).ravel()
