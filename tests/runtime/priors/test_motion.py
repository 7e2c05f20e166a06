"""A square moves 4 pixels a frame over a background that stands still, and the encoder's own vectors say so."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeprune.errors import MissingPackageError, RequestError
from edgeprune.runtime.images.tiles import Tiles
from edgeprune.runtime.priors import Patches, moving
from edgeprune.runtime.priors.motion import grown, moved
from tests.runtime.priors.clips import pictures, write_clip
from tests.runtime.priors.steps import steps

SIDE, PATCH, GRID = 224, 16, (14, 14)
STEP, FRAMES, EVERY = 4, 10, 5
"""pixels a frame; frames; frames from an I-frame to the next"""
ROWS = range(5, 9)
"""of patches that the square covers, all along"""
SQUEEZED = steps((SIDE, SIDE))
VECTOR = np.dtype(
    [(name, "u1" if name in "wh" else "i4") for name in ("w", "h", "dst_x", "dst_y", "motion_x", "motion_y")]
    + [("motion_scale", "u2")]
)
PLAIN = {"g": str(EVERY), "bf": "0"}
ENCODERS = [("libx264", {**PLAIN, "refs": "1"}, "mp4"), ("mpeg4", PLAIN, "mp4"), ("mpeg2video", PLAIN, "ts")]
ENCODERS += [("mpeg1video", PLAIN, "mpg")]


@pytest.fixture
def av() -> Any:
    return pytest.importorskip("av")


Write = Callable[..., Path]


@pytest.fixture
def write(av: Any, tmp_path: Path) -> Write:
    """Skips where FFmpeg was built without the encoder."""

    def write(codec: str, options: dict[str, str], suffix: str = "mp4", size: int = SIDE, count: int = FRAMES) -> Path:
        frames = pictures(size, map(left_of, range(count)), top=80)
        return write_clip(av, tmp_path / f"{codec}-{size}.{suffix}", codec, options, frames)

    return write


def left_of(frame: int) -> int:
    return 32 + STEP * frame


def inside(frame: int) -> NDArray[np.bool_]:
    """The patches that are of the square alone."""
    left = np.arange(GRID[1]) * PATCH
    covered = (left >= left_of(frame)) & (left + PATCH <= left_of(frame) + 64)
    return np.isin(np.arange(GRID[0]), ROWS)[:, None] & covered


def passed(frame: int) -> NDArray[np.bool_]:
    """The patches that the square touched since the last I-frame."""
    first = frame // EVERY * EVERY
    left = np.arange(GRID[1]) * PATCH
    touched = (left + PATCH > left_of(first)) & (left < left_of(frame) + 64)
    return np.isin(np.arange(GRID[0]), ROWS)[:, None] & touched


@pytest.mark.parametrize(("codec", "options", "suffix"), ENCODERS, ids=[one[0] for one in ENCODERS])
def test_what_moves_is_at_the_top(write: Write, codec: str, options: dict[str, str], suffix: str) -> None:
    video = write(codec, options, suffix)
    drawn = list(pictures(SIDE, map(left_of, range(FRAMES)), top=80))
    frames = list(moving(video, GRID, SQUEEZED))
    assert [one.whole for one in frames] == [at % EVERY == 0 for at in range(FRAMES)]
    for at, one in enumerate(frames):
        assert one.rgb.shape == (SIDE, SIDE, 3)
        assert np.abs(one.rgb.astype(int) - drawn[at]).mean() < 20, "the frame that was drawn, in this place"
        assert one.prior.dtype == np.float32
        prior = one.prior.reshape(GRID)
        if one.whole:
            assert prior.min() == prior.max() == 1
            continue
        top = np.argsort(-one.prior, kind="stable")[: inside(at).sum()]
        assert passed(at).ravel()[top].all()
        assert np.median(prior[inside(at)]) == STEP
        assert prior[inside(at)].min() > 0
        assert prior[~passed(at)].max() == 0


def test_what_moved_stays_wanted_until_the_next_i_frame(write: Write) -> None:
    frames = list(moving(write("libx264", {**PLAIN, "refs": "1"}), GRID, SQUEEZED))
    for before, after in pairwise(frames[1:EVERY]):
        assert (after.prior >= before.prior).all()
    left, right = frames[4].prior.reshape(GRID)[6, [2, 3]]
    assert left > 0, "the square was there one frame after the I-frame"
    assert right > 0
    assert frames[6].prior.reshape(GRID)[6, 2] == 0, "it was not after the next"


def test_frames_are_in_the_order_of_show_with_b_frames_too(write: Write) -> None:
    frames = list(moving(write("libx264", {"g": str(EVERY), "bf": "2", "refs": "1"}), GRID, SQUEEZED))
    seconds = [one.seconds for one in frames]
    assert seconds == sorted(seconds, key=lambda one: one or 0)
    assert len(frames) == FRAMES
    for at, one in enumerate(frames):
        prior = one.prior.reshape(GRID)
        assert one.whole or (prior[inside(at)].mean() > STEP / 2 and prior[~passed(at)].mean() < STEP / 8)


def test_groups_of_a_projector_are_wanted_whole(write: Write) -> None:
    """Rows 5 to 8 become those of groups 2 to 4: 4 to 9."""
    video = write("libx264", {**PLAIN, "refs": "1"})
    one = list(moving(video, GRID, SQUEEZED, group=(2, 2)))[1].prior.reshape(GRID)
    assert one[:, 3].tolist() == [0] * 4 + [STEP] * 6 + [0] * 4
    np.testing.assert_array_equal(one[::2, ::2], one[1::2, 1::2])


def test_a_video_of_i_frames_alone_is_refused(write: Write) -> None:
    with pytest.raises(RequestError, match=r"must have motion vectors; .* I-frames alone; ffmpeg -i"):
        moving(write("libx264", {"g": "1"}), GRID, SQUEEZED)


def test_a_codec_whose_vectors_are_not_exported_is_refused(write: Write) -> None:
    with pytest.raises(RequestError, match=r"h264, mpeg1video, mpeg2video, mpeg4.* is hevc; ffmpeg -i"):
        moving(write("libx265", {"x265-params": "log-level=none"}), GRID, SQUEEZED)


def test_frames_of_another_size_are_refused(write: Write, tmp_path: Path) -> None:
    two = tmp_path / "two.h264"
    two.write_bytes(b"".join(write("libx264", PLAIN, "h264", size).read_bytes() for size in (224, 256)))
    frames = moving(two, GRID, SQUEEZED)
    with pytest.raises(RequestError, match=r"of one size; .* from 224x224 to 256x256"):
        list(frames)


def test_what_is_no_video_is_refused(av: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.mp4").write_text("no video")
    with pytest.raises(RequestError, match=r"a file FFmpeg can decode; .*notes.mp4 is not"):
        moving(tmp_path / "notes.mp4", GRID, SQUEEZED)
    with pytest.raises(RequestError, match="must be a file; there is none at"):
        moving(tmp_path / "absent.mp4", GRID, SQUEEZED)


def test_sound_alone_is_no_video(av: Any, tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(RequestError, match="must have pictures"):
        moving(path, GRID, SQUEEZED)


def test_an_encoder_of_tiles_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="frames must stay whole"):
        moving(tmp_path / "any.mp4", GRID, steps((56, 56), tiles=Tiles(2, 56, ((56, 56),))))


def test_without_pyav_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingPackageError, match=r"the package av, .* pip install 'edgeprune\[video\]'"):
        moving(tmp_path / "any.mp4", GRID, SQUEEZED)


def block(left: int, top: int, width: int, height: int, x: int, y: int, scale: int = 4) -> Any:
    """The first pixels of a block, its size, and its motion in pixels."""
    return (width, height, left + width // 2, top + height // 2, x * scale, y * scale, scale)


def test_a_patch_has_the_longest_vector_of_the_blocks_that_touch_it() -> None:
    """32 x 64 pixels in 2 x 4 patches."""
    patches = Patches.of((32, 64), (2, 4), steps((32, 64)))
    vectors = np.array(
        [
            block(0, 0, 16, 16, 3, 4),
            block(8, 0, 16, 8, 0, -2, scale=2),  # touches two
            block(48, 16, 16, 16, 0, 0),  # stands still
            block(56, 24, 16, 16, -1, 0),  # reaches beyond the frame
            block(64, 32, 16, 16, 9, 9),  # lies beyond it
        ],
        VECTOR,
    )
    assert moved(patches, vectors).reshape(2, 4).tolist() == [[5, 2, 0, 0], [0, 0, 0, 1]]


def test_a_block_larger_than_a_patch_is_that_of_all_it_touches() -> None:
    """A frame of 16 x 16 pixels, a block of the lower half: 4 x 4 patches, two rows of them."""
    patches = Patches.of((16, 16), (4, 4), SQUEEZED)
    vectors = np.array([block(0, 8, 16, 8, 6, 8)], VECTOR)
    assert moved(patches, vectors).reshape(4, 4).tolist() == [[0] * 4] * 2 + [[10] * 4] * 2


def test_blocks_outside_of_the_crop_touch_no_patch() -> None:
    """The middle 16 of 32 columns."""
    patches = Patches.of((16, 32), (1, 2), steps((16, 16), resize=None, crop=(16, 16)))
    vectors = np.array([block(0, 0, 8, 16, 7, 0), block(4, 0, 8, 16, 1, 0), block(24, 0, 8, 8, 7, 0)], VECTOR)
    assert moved(patches, vectors).tolist() == [1, 0]


def test_nothing_moved() -> None:
    assert moved(Patches.of((32, 64), (2, 4), steps((32, 64))), np.zeros(0, VECTOR)).tolist() == [0] * 8


def test_each_patch_of_a_group_has_the_largest_of_it() -> None:
    prior = np.array([0, 1, 0, 0, 5, 0, 0, 0], np.float32)
    assert grown(prior, (2, 4), (2, 2)).tolist() == [5, 5, 0, 0] * 2
    assert grown(prior, (2, 4), (1, 4)).tolist() == [1] * 4 + [5] * 4


def test_groups_that_the_grid_is_not_made_of_are_refused() -> None:
    with pytest.raises(RequestError, match="whole groups; 2x4 patches are not of 2x3"):
        grown(np.zeros(8, np.float32), (2, 4), (2, 3))
