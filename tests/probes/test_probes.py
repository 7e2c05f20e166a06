"""Probes: what breaks rankings is always among them, and the user's own come on top."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeprune.errors import ImageError
from edgeprune.probes import probes, scenes


def test_they_cover_scenes_noise_ties_and_the_ends_of_the_range() -> None:
    found = probes((24, 32))
    assert list(found) == ["scene00", "scene01", "noise", "gradient", "flat", "black", "white"]
    assert all(image.mode == "RGB" for image in found.values())
    assert all(found[name].size == (32, 24) for name in ("noise", "gradient", "flat", "black", "white"))
    assert len(np.unique(np.asarray(found["flat"]))) == 1
    assert (np.asarray(found["black"]).max(), np.asarray(found["white"]).min()) == (0, 255)


def test_they_are_the_same_every_time() -> None:
    first, second = probes((24, 24)), probes((24, 24))
    assert all(np.array_equal(np.asarray(first[name]), np.asarray(second[name])) for name in first)


def test_own_images_are_added(tmp_path: Path) -> None:
    Image.new("L", (10, 10), 9).save(tmp_path / "cat.png")
    (tmp_path / "notes.txt").write_text("not an image")
    found = probes((24, 24), tmp_path)
    assert list(found)[-1] == "own-cat"
    assert found["own-cat"].mode == "RGB"


def test_a_folder_without_images_or_with_a_broken_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="--probes must be a folder with images"):
        probes((24, 24), tmp_path)
    (tmp_path / "broken.png").write_bytes(b"not a png")
    with pytest.raises(ImageError, match=r"--probes: .*broken.png"):
        probes((24, 24), tmp_path)


def test_the_embedded_model_brings_a_few_scenes() -> None:
    assert len(scenes()) >= 4
