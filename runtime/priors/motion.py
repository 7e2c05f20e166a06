"""Motion vectors of a video file: how far a patch's blocks moved since the last I-frame, at no cost beside decoding.

    |mv|      = sqrt(mx^2 + my^2)                               of a block of a P- or B-frame, pixels of the video
    prior[i]  = max over frames since the last I-frame, over the blocks that touch patch i, of |mv|
    prior[i]  = max over the group that patch i is in                        `group`, what a projector merges
    prior     = 1                                               of an I-frame, which is encoded whole

0, and so masked out, is a patch that stood still since the I-frame. What moved once stays wanted until the next one.

A vector is one to the frame that the encoder took the block from: where it may take from several (`-refs`), it is as
long as several frames' motion. A block without one, which the encoder drew anew, counts as still: what appears without
moving is not seen before the next I-frame. Write videos for it so:

    ffmpeg -i VIDEO -c:v libx264 -refs 1 -bf 0 -g 30 OUT.mp4

FFmpeg's decoders export vectors of H.264 and MPEG-1, 2 and 4, and none of H.265, VP9 or AV1.

Paper   https://arxiv.org/abs/2604.06036 (CodecSight; a summary, there is no code, and its residual energy is not here)
Source  FFmpeg libavutil/motion_vector.h, AVMotionVector
Needs   the package av (PyAV, which brings FFmpeg): pip install 'edgeprune[video]'
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import MissingPackageError, RequestError
from edgeprune.runtime.images.preprocess import Preprocessing
from edgeprune.runtime.priors.patches import Patches

__all__ = ["CODECS", "Moving", "grown", "moved", "moving"]

CODECS = ("h264", "mpeg1video", "mpeg2video", "mpeg4")
"""FFmpeg's names of those whose vectors it exports"""
INTRA = 1
"""AV_PICTURE_TYPE_I"""
WHOLE = (1, 1)
"""the group of a projector that merges nothing"""


class Moving(NamedTuple):
    """One frame."""

    rgb: NDArray[np.uint8]
    """[H, W, 3] uint8, what an encoder is given"""
    prior: NDArray[np.float32]
    """[N] float32, pixels of the video; ones for an I-frame"""
    whole: bool
    """whether it is an I-frame"""
    seconds: float | None
    """by the file's clock, which need not begin at 0; None where it has none"""


def moving(
    video: str | os.PathLike[str],
    grid: tuple[int, int],
    preprocessing: Preprocessing,
    squared: bool = False,
    pixels: int | None = None,
    group: tuple[int, int] = WHOLE,
) -> Iterator[Moving]:
    """The frames of a video in the order in which they are shown, as they are stored: not turned as a file may ask.

    grid, preprocessing, squared, pixels: as `Patches.of` takes them
    group: rows and columns of patches that a projector makes one token of; (1, 1) where the grid is of groups already

    Raises MissingPackageError without PyAV. Raises RequestError before the first frame for what is no video, for a
    codec whose vectors are not exported, for one of I-frames alone, and for an encoder of tiles; and at a frame of
    another size, or a damaged one.
    """
    if preprocessing.tiles is not None:
        raise RequestError("frames must stay whole for their motion to be known; this encoder cuts them into tiles")
    path = Path(video)
    with _opened(path) as container:
        stream = container.streams.video[0]
        codec = stream.codec_context.name
        if codec not in CODECS:
            raise RequestError(
                f"a video must be of a codec whose motion vectors FFmpeg exports ({', '.join(CODECS)}); {path} is "
                f"{codec}; ffmpeg -i {path} -c:v libx264 -refs 1 -bf 0 OUT.mp4"
            )
        if all(packet.is_keyframe for packet in container.demux(stream) if packet.size):
            raise _still(path)
        size = (stream.codec_context.height, stream.codec_context.width)
        patches = Patches.of(size, grid, preprocessing, squared, pixels)
        grown(np.zeros(patches.count, np.float32), grid, group)
    return _frames(path, patches, group)


def _frames(path: Path, patches: Patches, group: tuple[int, int]) -> Iterator[Moving]:
    exported = False
    ones, since = np.ones(patches.count, np.float32), np.zeros(patches.count, np.float32)
    with _opened(path) as container:
        for frame in container.decode(container.streams.video[0]):
            if (frame.height, frame.width) != patches.size:
                raise RequestError(
                    f"a video's frames must be of one size; {path} goes from {patches.size[0]}x{patches.size[1]} to "
                    f"{frame.height}x{frame.width} (height x width); cut it there"
                )
            whole = int(frame.pict_type) == INTRA
            vectors = frame.side_data.get("MOTION_VECTORS")
            if whole:
                since = np.zeros_like(since)
            elif vectors is not None:
                exported = True
                since = np.maximum(since, moved(patches, vectors.to_ndarray()))
            prior = ones.copy() if whole else grown(since, patches.grid, group)
            yield Moving(frame.to_ndarray(format="rgb24"), prior, whole, frame.time)
    if not exported:
        raise _still(path)


def moved(patches: Patches, vectors: NDArray[Any]) -> NDArray[np.float32]:
    """-> [N] float32, the longest vector among the blocks that touch a patch, pixels; 0 where all stand still.

    patches: of the frame's size
    vectors: [M] structured as AVMotionVector: dst_x and dst_y the middle of a block of w x h pixels, which moved by
        motion_x / motion_scale and motion_y / motion_scale
    """
    length = np.hypot(vectors["motion_x"], vectors["motion_y"]) / np.maximum(vectors["motion_scale"], 1)
    blocks, length = vectors[length > 0], length[length > 0]
    left, top = (blocks[f"dst_{axis}"].astype(np.int64) - blocks[size] // 2 for axis, size in (("x", "w"), ("y", "h")))
    low, high = patches.rows.touching(top, top + blocks["h"])
    first, last = patches.columns.touching(left, left + blocks["w"])
    longest, across = np.zeros(patches.count), patches.columns.count
    for down in range(int((high - low).max(initial=0))):
        for along in range(int((last - first).max(initial=0))):
            there = (low + down < high) & (first + along < last)
            np.maximum.at(longest, (low[there] + down) * across + first[there] + along, length[there])
    return longest.astype(np.float32)


def grown(prior: NDArray[np.float32], grid: tuple[int, int], group: tuple[int, int]) -> NDArray[np.float32]:
    """[N] -> [N], each patch with the largest of its group, rows x columns of patches. Raises RequestError where the
    grid is not made of whole groups."""
    (rows, columns), (down, along) = grid, group
    if min(group) < 1 or rows % down or columns % along:
        raise RequestError(f"a grid must be made of whole groups; {rows}x{columns} patches are not of {down}x{along}")
    most = prior.reshape(rows // down, down, columns // along, along).max(axis=(1, 3), keepdims=True)
    whole = np.broadcast_to(most, (rows // down, down, columns // along, along))
    return np.ascontiguousarray(whole).reshape(-1)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        import av
    except ImportError as error:
        raise MissingPackageError("av", "video", error) from None
    if not path.is_file():
        raise RequestError(f"a video must be a file; there is none at {path}; check the name")
    try:
        with av.open(os.fspath(path)) as container:
            if not container.streams.video:
                raise RequestError(f"a video must have pictures; {path} has none")
            container.streams.video[0].codec_context.options = {"flags2": "+export_mvs"}
            yield container
    except av.FFmpegError as error:
        raise RequestError(
            f"a video must be a file FFmpeg can decode; {path} is not ({error.strerror or error}); write it again"
        ) from None


def _still(path: Path) -> RequestError:
    return RequestError(
        f"a video must have motion vectors; {path} has none, as one of I-frames alone; "
        f"ffmpeg -i {path} -c:v libx264 -refs 1 -bf 0 -g 30 OUT.mp4"
    )
