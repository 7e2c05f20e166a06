"""`edgeprune export` with fewer bits: what cannot be asked for is one line, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Run = Callable[..., Any]
EXPORT = ("export", "--method", "fastervlm", "--keep", "36", "--no-runtime", "--no-baselines")
INT8 = (*EXPORT, "--precision", "int8")


def folder_of(folder: Path, **images: Image.Image | bytes) -> Path:
    """Of images by their stems, as .tif; bytes are written as they are."""
    folder.mkdir()
    for name, image in images.items():
        path = folder / f"{name}.tif"
        if isinstance(image, bytes):
            path.write_bytes(image)
        else:
            image.save(path)
    return folder


def grey(*holes: int) -> Image.Image:
    values = np.linspace(0, 1, 64 * 64, dtype=np.float32)
    values[list(holes)] = np.nan
    return Image.fromarray(values.reshape(64, 64))


RGB = Image.new("RGB", (64, 64), (9, 99, 199))
FOLDERS: dict[str, tuple[dict[str, Image.Image | bytes], str]] = {
    "empty": ({}, "--calibration must be a folder with images"),
    "one image": ({"only": RGB}, "--calibration must be a folder of 2 images or more"),
    "unreadable": ({"a": RGB, "b": b"II*\0 no image"}, "b.tif"),
    "of floats": ({"a": RGB, "b": grey()}, "--image-range"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_images_that_tell_no_range_are_refused_before_anything_is_read(run: Run, desk: Path, name: str) -> None:
    images, says = FOLDERS[name]
    done = run(*INT8, "--calibration", folder_of(desk / "mine", **images))
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert says in done.err
    assert [path.name for path in desk.iterdir()] == ["mine"]


def test_a_folder_that_is_not_there_is_refused(run: Run) -> None:
    done = run(*INT8, "--calibration", "nowhere")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "there is no folder nowhere" in done.err


def test_an_image_with_holes_is_refused_by_its_name_and_leaves_nothing(run: Run, desk: Path) -> None:
    mine = folder_of(desk / "mine", a=grey(), b=grey(7))
    done = run(*INT8, "--calibration", mine, "--image-range", 0, 1)
    assert (done.code, done.out) == (2, "")
    assert "b.tif" in done.err.splitlines()[-1]
    assert "NaN" in done.err.splitlines()[-1]
    assert [path.name for path in desk.iterdir()] == ["mine"]


def test_drawn_scenes_beside_a_folder_of_that_name_are_refused(run: Run, desk: Path) -> None:
    (desk / "scenes").mkdir()
    done = run(*INT8, "--calibration", "scenes")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "give ./scenes for that one" in done.err


REFUSED: dict[tuple[str, ...], str] = {
    ("--precision", "int8", "--target", "ort-cuda"): "--precision int8 needs a target with products of int8; ort-cuda",
    ("--precision", "fp8"): "needs a target with products of float8, SM 89 or later; cpu has ONNX Runtime",
    ("--precision", "fp8", "--target", "jetson-orin"): "jetson-orin has SM 87, which has none: give --precision int8",
    ("--precision", "fp8", "--target", "rtx-desktop"): "rtx-desktop has SM 86, which has none",
    ("--precision", "int8-dynamic", "--target", "jetson-orin"): "takes its ranges at run time, which tensorrt of",
    ("--calibration", "scenes"): "--calibration goes with --precision int8 or fp8, got float32 of cpu; leave it out",
    ("--precision", "int8-dynamic", "--calibration", "scenes"): "got int8-dynamic; leave it out",
    ("--keep-float", "projector.*"): "--keep-float goes with --precision int8 or int8-dynamic or fp8, got float32",
    ("--precision", "int8", "--calibration-images", "1"): "1 is not in the range x>=2",
    ("--precision", "int4"): "'int4' is not one of",
}


@pytest.mark.parametrize("words", REFUSED, ids=" ".join)
def test_what_a_target_or_a_precision_has_not_is_refused(run: Run, desk: Path, words: tuple[str, ...]) -> None:
    done = run(*EXPORT, *words)
    assert (done.code, done.out) == (2, "")
    assert REFUSED[words] in " ".join(done.err.split())
    assert not any(desk.iterdir())


@pytest.mark.slow
def test_a_product_that_is_not_there_is_refused_with_some_that_are(run: Run, desk: Path) -> None:
    done = run(*INT8, "--calibration-images", 2, "--keep-float", "projector.linear_3")
    assert (done.code, done.out) == (2, "")
    assert "--keep-float must name products" in done.err.splitlines()[-1]
    assert "there are 32, such as " in done.err.splitlines()[-1]
    assert not any(desk.iterdir())
