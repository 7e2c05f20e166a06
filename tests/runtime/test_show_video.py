"""A video drawn frame by frame, with what moves in it beside what is kept."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeprune.errors import RequestError
from edgeprune.export import Request
from edgeprune.export.job import export_bundle
from edgeprune.runtime.show_video import draw_video
from tests.runtime.priors.clips import pictures, write_clip

FRAMES = 8


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A square that goes right by 4 pixels a frame."""
    av = pytest.importorskip("av")
    options = {"g": str(FRAMES), "bf": "0", "refs": "1"}
    frames = pictures(192, range(16, 16 + 4 * FRAMES, 4), top=64)
    return write_clip(av, tmp_path_factory.mktemp("clip") / "clip.mp4", "libx264", options, frames)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("video") / "bundle"
    request = Request("fastervlm", "cpu", keep=24, prior="mask", baselines=False, runtime=False, output=folder)
    return export_bundle(request).folder


def test_one_picture_for_each_so_many_frames_with_the_prior_beside(bundle: Path, clip: Path, tmp_path: Path) -> None:
    written = draw_video(bundle, clip, tmp_path, every=3, device="cpu")
    assert [path.name for path in written] == ["frame-0000.png", "frame-0003.png", "frame-0006.png"]
    with Image.open(written[1]) as picture:
        assert picture.width > 2.5 * picture.height


def test_what_moves_is_kept_first(bundle: Path, clip: Path) -> None:
    from edgeprune.runtime import TokenEncoder, load
    from edgeprune.runtime.priors import as_prior, moving

    with load(bundle, device="cpu", kind=TokenEncoder) as encoder:
        frame = list(moving(clip, encoder.grid, encoder.preprocessing))[4]
        kept = encoder(frame.rgb, prior=as_prior([frame.prior], encoder.grid)).picks[0]  # type: ignore[index]
    moved = np.flatnonzero(frame.prior)
    assert len(moved) > 0
    assert np.isin(kept[: min(len(moved), 24)], moved).all()


@pytest.mark.slow
def test_a_bundle_without_a_prior_says_how_to_get_one(tmp_path: Path, clip: Path) -> None:
    request = Request("fastervlm", "cpu", keep=24, baselines=False, runtime=False, output=tmp_path / "plain")
    folder = export_bundle(request).folder
    with pytest.raises(RequestError, match=re.escape("export it with --prior, such as --prior fuse:0.5")):
        draw_video(folder, clip, tmp_path, device="cpu")
    assert not list(tmp_path.glob("*.png"))
