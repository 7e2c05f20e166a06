"""`edgeprune bavit train` from its options to its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from edgeprune.cli.bavit import command as bavit
from edgeprune.errors import RequestError
from edgeprune.probes.drawn import Scenes
from edgeprune.pruners._scorer import load_scorer

QUICK = ("--layers", "1", "--width", "32", "--heads", "2", "--epochs", "1", "--batch", "8", "--threads", "1")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(bavit, ["train", *map(str, arguments)], standalone_mode=False)


def wrong(*arguments: object) -> str:
    """The message of a request that is refused with exit code 2."""
    error = call(*arguments).exception
    assert isinstance(error, (click.UsageError, RequestError)), error
    assert error.exit_code == 2
    return error.format_message() if isinstance(error, click.UsageError) else str(error)


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 12 scenes as PNG, and their boxes in instances.json; one of them inverted."""
    folder, scenes = tmp_path_factory.mktemp("coco"), Scenes(12)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = [{"id": 0, "image_id": 0, "category_id": 1, "bbox": [9, 9, -4, 5]}]
    for at in range(12):
        scene = scenes[at]
        Image.fromarray(scene.image).save(folder / f"{at}.png")
        images.append({"id": at, "file_name": f"{at}.png", "width": 80, "height": 80})
        for (x0, y0, x1, y1), label in zip(scene.boxes.tolist(), scene.labels.tolist(), strict=True):
            box = [x0, y0, x1 - x0, y1 - y0]
            annotations.append({"id": len(annotations), "image_id": at, "category_id": label + 1, "bbox": box})
    categories = [{"id": at + 1, "name": name} for at, name in enumerate(scenes.classes)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content))
    return folder


@pytest.mark.slow
def test_drawn_scenes_are_the_default(tmp_path: Path) -> None:
    done = call("--scenes", 16, "--output", tmp_path / "scorer", *QUICK)
    assert done.exception is None, done.output
    assert "Foreground kept" in done.stdout
    assert "AUC" in done.stdout
    assert f"wrote {tmp_path / 'scorer'}" in done.stdout
    config = load_scorer(tmp_path / "scorer" / "scorer.safetensors").config
    assert (config.kind, config.layers, config.width, config.mlp_width) == ("front", 1, 32, 64)
    assert (config.patch_size, config.grid) == (8, (10, 10))


@pytest.mark.slow
def test_images_of_coco_are_split_and_what_is_wrong_with_them_is_said(coco: Path, tmp_path: Path) -> None:
    given = ("--coco", coco / "instances.json", "--images", coco, "--size", "96x64", "--patch-size", 16)
    done = call(*given, "--output", tmp_path / "scorer", "--json", *QUICK)
    assert done.exception is None, done.output
    report = json.loads(done.stdout)["report"]
    assert (report["images"], report["training"]["images"]) == (1, 11)
    assert report["grid"] == [6, 4]
    assert report["training"]["classes"] == ["circle", "square", "triangle", "ring"]
    assert "1 boxes are inverted or empty, and were left out: 0.png" in done.stderr
    assert report["training"]["problems"]["boxes are inverted or empty, and were left out"]["count"] == 1
    config = load_scorer(tmp_path / "scorer" / "scorer.safetensors").config
    assert (config.patch_size, config.mlp_width) == (16, 128)  # of images, four times the width


def test_other_annotations_can_be_validated_on(coco: Path, tmp_path: Path) -> None:
    given = ("--coco", coco / "instances.json", "--images", coco, "--held-out", coco / "instances.json")
    done = call(*given, "--size", "80x80", "--output", tmp_path / "scorer", "--json", *QUICK)
    report = json.loads(done.stdout)["report"]
    assert (report["images"], report["training"]["images"]) == (12, 12)


def test_a_complete_training_prints_its_report_again(tmp_path: Path) -> None:
    given = ("--scenes", 16, "--output", tmp_path / "scorer", "--json", *QUICK)
    assert json.loads(call(*given).stdout) == json.loads(call(*given, "--resume").stdout)
    assert "exists; choose another --output" in wrong(*given)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--coco", "a.json"), "--coco needs --images, the folder of its images"),
        (("--coco", "a.json", "--voc", "b"), "--coco and --voc exclude each other; give one"),
        (("--voc", "a", "--scenes", "5"), "--voc and --scenes exclude each other; give one"),
        (("--images", "a"), "--images needs --coco or --voc"),
        (("--held-out", "a"), "--held-out needs --coco or --voc"),
        (("--size", "512"), "--size must be HxW in pixels, as 512x864, got 512"),
        (("--size", "84x80"), "--size must be a multiple of 8 pixels, the patch, got 84x80; the nearest is 80x80"),
        (("--model", "yolos"), "--model is for --kind trunk; the other kinds read the image"),
        (("--kind", "trunk", "--model", "absent"), "there is no folder absent"),
        (("--kind", "trunk", "--width", "64"), "--width is the detector's with --kind trunk; leave it out"),
        (("--resume", "--force"), "--resume and --force exclude each other; give one"),
        (("--resume",), "--resume needs a training that was begun"),
        (("--heads", "5"), "--width must be a multiple of --heads, got 48 and 5"),
        (("--threshold", "0"), "--threshold must be a share of a patch above 0, at most 1, got 0; try 0.1"),
        (("--layers", "0"), "0 is not in the range x>=1"),
        (("--kind", "side"), "'side' is not one of 'front', 'coarse', 'trunk'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_request_that_cannot_be_met_is_one_line(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    said = wrong(*arguments, "--output", tmp_path / "scorer")
    assert message in said
    assert "\n" not in said
    assert not (tmp_path / "scorer").exists()
