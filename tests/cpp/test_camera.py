"""The camera loop of the examples, on a file of frames."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.cpp.conftest import ROOT

BUNDLE = ROOT / "tests" / "golden" / "bundle-0.2"
SIZES = [(40, 30), (64, 48), (33, 57), (33, 57)]
"""width and height of each frame"""


def frame(width: int, height: int, comment: bytes = b"") -> bytes:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
    return b"P6\n%s%d %d\n255\n" % (comment, width, height) + pixels.tobytes()


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    file = tmp_path / "frames.ppm"
    file.write_bytes(b"".join(frame(*size, comment=b"# a camera\n") for size in SIZES))
    return file


def look(cpp: Path, *words: str | Path, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    camera = cpp / "examples" / "edgeprune-camera"
    return subprocess.run([camera, *words], input=given, capture_output=True, check=False)


def seen(stdout: bytes) -> list[tuple[int, int, int, int]]:
    """Number, width, height and how many were passed over so far, of each frame that was run."""
    found = re.findall(r"^frame (\d+), (\d+)x(\d+): .* passed over (\d+)$", stdout.decode(), re.MULTILINE)
    return [(int(one), int(two), int(three), int(four)) for one, two, three, four in found]


def test_every_frame_of_a_file_is_run_where_that_is_asked_for(cpp: Path, frames: Path) -> None:
    done = look(cpp, BUNDLE, frames, "--every")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"fastervlm of llava-of-three-layers on cpu\n")
    assert seen(done.stdout) == [(at, *size, 0) for at, size in enumerate(SIZES)]


def test_frames_come_from_standard_input_and_the_latest_one_wins(cpp: Path, frames: Path) -> None:
    """How many are passed over is a matter of time; the last one never is, and none is unaccounted for."""
    done = look(cpp, BUNDLE, "-", given=frames.read_bytes())
    found = seen(done.stdout)
    assert done.returncode == 0, done.stderr
    assert found[-1][:3] == (len(SIZES) - 1, *SIZES[-1])
    assert len(found) + found[-1][3] == len(SIZES)


def test_a_source_without_a_frame_is_a_failure(cpp: Path, tmp_path: Path) -> None:
    for source in ("-", tmp_path):
        done = look(cpp, BUNDLE, source)
        assert done.returncode == 1
        assert f"edgeprune-camera: {source} has no frame; name PPM images".encode() in done.stderr


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (frame(40, 30)[:-1], "the last frame is not complete"),
        (b"P5\n4 4\n255\n", "must be a PPM of P6"),
        (b"P6\n0 4\n255\n", "1..32768 pixels a side"),
        (b"P6\n99999999999999999999 4\n255\n", "1..32768 pixels a side"),
        (b"P6\n4 4\n65535\n", "255 as its largest value"),
        (b"P6\n# no end", "1..32768 pixels a side"),
    ],
)
def test_a_stream_that_is_none_is_one_line(cpp: Path, given: bytes, said: str) -> None:
    done = look(cpp, BUNDLE, "-", given=given)
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
    assert said in done.stderr.decode()


@pytest.mark.parametrize("words", [[], ["a"], ["a", "b", "--size", "7"], ["a", "b", "--fast"], ["a", "b", "c"]])
def test_wrong_arguments_are_the_usage(cpp: Path, words: list[str]) -> None:
    done = look(cpp, *words)
    assert done.returncode == 2
    assert done.stderr.startswith(b"usage: edgeprune-camera BUNDLE SOURCE")


def test_a_bundle_or_camera_that_is_not_there_is_one_line(cpp: Path, tmp_path: Path) -> None:
    for words in ((tmp_path, "-"), (BUNDLE, "/dev/video77"), (BUNDLE, tmp_path / "no.ppm")):
        done = look(cpp, *words)
        assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
