"""Clips that FFmpeg encodes: texture that stands still, and over it a square of another one that moves right."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

SQUARE = 64
"""pixels of its sides"""

Picture = NDArray[np.uint8]


def pictures(size: int, lefts: Iterable[int], top: int) -> Iterator[Picture]:
    """Texture of 4 x 4 pixels, which a block is found again by; the square stands where `lefts` say, frame by frame."""
    random = np.random.default_rng(0)
    still, square = (
        np.kron(random.integers(40, 216, (side // 4, side // 4, 3)), np.ones((4, 4, 1))).astype(np.uint8)
        for side in (size, SQUARE)
    )
    for left in lefts:
        picture = still.copy()
        picture[top : top + SQUARE, left : left + SQUARE] = square
        yield picture


def write_clip(av: Any, path: Path, codec: str, options: dict[str, str], frames: Iterable[Picture]) -> Path:
    """Skips where FFmpeg was built without the encoder."""
    if codec not in av.codecs_available:
        pytest.skip(f"FFmpeg was built without {codec}")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        for at, picture in enumerate(frames):
            if not at:
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt = "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path
