"""`edgeprune show`."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from edgeprune.runtime import load

EXPORT = ("export", "--method", "fastervlm")
SCENE = Path(__file__).parents[2] / "edgeprune" / "models" / "tiny" / "scenes" / "scene00.png"
Done = Any
Run = Callable[..., Any]
Said = Callable[..., str]


def test_show_writes_a_picture(run: Run, desk: Path, exported: tuple[Path, Done]) -> None:
    assert run("show", exported[0], SCENE) == (0, "wrote kept.png\n", "")
    assert Image.open(desk / "kept.png").format == "PNG"


def test_without_an_image_it_is_one_of_the_bundles_own(run: Run, desk: Path, exported: tuple[Path, Done]) -> None:
    assert run("show", exported[0]) == (0, "wrote kept.png\n", "")
    own = (desk / "kept.png").read_bytes()
    run("show", exported[0], SCENE)
    assert (desk / "kept.png").read_bytes() == own


def test_show_says_when_the_encoder_sees_an_image_squeezed_or_cut(
    run: Run, desk: Path, exported: tuple[Path, Done]
) -> None:
    Image.new("RGB", (96, 48)).save(desk / "wide.png")
    done = run("show", exported[0], "wide.png")
    assert re.fullmatch(r"wrote kept\.png; the encoder sees it (squeezed|cut) from 96x48 to 96x96\n", done.out)
    assert run("show", exported[0], "wide.png", "--json").out.count('"view": "') == 1


def test_of_a_classifier_the_likeliest_classes_are_said(run: Run, desk: Path, make_bundle: Callable[..., Path]) -> None:
    folder = make_bundle(classes=True)
    (found,) = load(folder)(SCENE)
    lines = [f"  {share:6.1%}  {label}\n" for label, share in found.top(5)]
    squeezed = "the encoder sees it squeezed from 96x96 to 48x32"
    assert run("show", folder, SCENE) == (0, f"wrote kept.png; {squeezed}\n{''.join(lines)}", "")
    told = json.loads(run("show", folder, SCENE, "--json").out)["classes"]
    assert told == [{"label": label, "probability": share} for label, share in found.top(5)]


@pytest.mark.slow
def test_several_images_are_drawn_into_a_folder(run: Run, desk: Path, exported: tuple[Path, Done], said: Said) -> None:
    other = SCENE.with_name("scene01.png")
    assert run("show", exported[0], SCENE, other) == (0, "wrote kept/scene00.png\nwrote kept/scene01.png\n", "")
    run("show", exported[0], SCENE)
    assert (desk / "kept.png").read_bytes() == (desk / "kept" / "scene00.png").read_bytes()
    assert run("show", exported[0], SCENE, other, "--output", "two", "--json").out.count('"picture"') == 2
    assert "must differ" in said(run("show", exported[0], SCENE, SCENE))
    assert "nowhere" in said(run("show", "nowhere", SCENE, other, "--output", "new"))
    assert not (desk / "new").exists()
    assert "nosuch.png" in said(run("show", exported[0], SCENE, "nosuch.png", "--output", "half"))
    assert not (desk / "half").exists()
    assert "got kept.png" in said(run("show", exported[0], SCENE, other, "--output", "kept.png"))


def test_show_refuses_what_is_no_image(
    run: Run, desk: Path, tmp_path: Path, exported: tuple[Path, Done], said: Said
) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"not a photo")
    for image in (tmp_path / "photo.jpg", tmp_path / "nowhere.jpg", tmp_path):
        assert str(image) in said(run("show", exported[0], image))
    assert os.listdir(desk) == []


def test_show_refuses_an_output_that_is_no_png_or_cannot_be_written(
    run: Run, desk: Path, exported: tuple[Path, Done], said: Said
) -> None:
    assert "ends in .png" in said(run("show", exported[0], SCENE, "--output", "kept.jpg"))
    assert "nowhere/kept.png cannot be written" in said(run("show", exported[0], SCENE, "--output", "nowhere/kept.png"))
    assert os.listdir(desk) == []


def test_a_path_with_brackets_is_printed_as_it_is(
    run: Run, exported: tuple[Path, Done], tmp_path: Path, said: Said
) -> None:
    """rich would take [red] for a colour and :star: for a picture."""
    folder = Path(shutil.copytree(exported[0], tmp_path / "[red] :star:"))
    assert run("show", folder, SCENE, "--output", tmp_path / "[b].png").out == f"wrote {tmp_path / '[b].png'}\n"
    assert "[red] :star: exists" in said(run(*EXPORT, "--keep", 64, "--output", folder))


def test_show_draws_fewer_of_the_kept_tokens(run: Run, desk: Path, exported: tuple[Path, Done], said: Said) -> None:
    assert run("show", exported[0], SCENE, "--keep", 16).code == 0
    few = (desk / "kept.png").read_bytes()
    run("show", exported[0], SCENE)
    assert few != (desk / "kept.png").read_bytes()
    assert said(run("show", exported[0], SCENE, "--keep", 65)) == (
        "the number of tokens must be a whole one in 1..64, got 65; export with more --keep"
    )


def test_case_gray16_an_image_of_more_than_8_bits_needs_a_range(
    run: Run, desk: Path, tmp_path: Path, exported: tuple[Path, Done], said: Said
) -> None:
    Image.open(SCENE).convert("L").point(lambda level: level * 257, "I").save(tmp_path / "deep.tif")
    assert "say what is black and white by --image-range LO HI" in said(run("show", exported[0], tmp_path / "deep.tif"))
    assert run("show", exported[0], tmp_path / "deep.tif", "--image-range", 0, 65535).code == 0
    found = (desk / "kept.png").read_bytes()
    Image.open(SCENE).convert("L").save(tmp_path / "plain.png")
    run("show", exported[0], tmp_path / "plain.png")
    assert found == (desk / "kept.png").read_bytes()
    assert "two numbers, the lower first, got 5 1" in said(run(*EXPORT, "--keep", 64, "--image-range", 5, 1))
