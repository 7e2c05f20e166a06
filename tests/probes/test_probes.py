"""Probes: what breaks rankings is always among them, and the user's own come on top."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeprune.errors import ImageError
from edgeprune.probes import check_own, probes, scenes


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


def test_case_two_files_of_one_stem_are_both_used(tmp_path: Path) -> None:
    for name in ("cat.jpg", "cat.png", "cat.png.bmp", "dog.png"):
        Image.new("RGB", (10, 10), (200, 0, 0)).save(tmp_path / name)
    assert list(probes((24, 24), tmp_path))[-4:] == ["own-cat.jpg", "own-cat.png", "own-cat.png.bmp", "own-dog"]


def test_own_images_stand_upright_as_the_runtime_reads_them(tmp_path: Path) -> None:
    lying = Image.new("RGB", (20, 10))
    lying.getexif()[0x0112] = 6  # orientation: turned by 90 degrees
    lying.save(tmp_path / "lying.png", exif=lying.getexif())
    assert probes((24, 24), tmp_path)["own-lying"].size == (10, 20)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="--probes must be a folder with images"):
        probes((24, 24), tmp_path)


@pytest.mark.parametrize("check", [check_own, partial(probes, (24, 24))], ids=["at first sight", "decoded"])
def test_what_is_no_image_is_named(tmp_path: Path, check: Callable[[Path], object]) -> None:
    (tmp_path / "broken.png").write_bytes(b"not a png")
    with pytest.raises(ImageError, match=r"an image must be a file Pillow can read; .*broken\.png is not"):
        check(tmp_path)


def test_an_image_that_is_cut_off_is_named(tmp_path: Path) -> None:
    Image.effect_noise((64, 64), 50).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:900])
    with pytest.raises(ImageError, match=r"an image must be a file Pillow can read; .*cut\.png is not"):
        probes((24, 24), tmp_path)


@pytest.mark.parametrize("check", [check_own, partial(probes, (24, 24))], ids=["at first sight", "decoded"])
def test_case_an_image_beyond_the_pixel_limit_is_named(
    tmp_path: Path, check: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)  # 178,956,970 are taken otherwise
    Image.new("L", (150, 150), 9).save(tmp_path / "survey.png")
    with pytest.raises(ImageError, match=r"an image must have at most 20,000 pixels; .*survey\.png has more; make it"):
        check(tmp_path)


def test_the_embedded_model_brings_a_few_scenes() -> None:
    assert len(scenes()) >= 4
