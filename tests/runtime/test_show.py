from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgeprune.errors import BundleError, ImageError, RequestError
from edgeprune.runtime import load, show
from edgeprune.runtime.detections import Detections
from edgeprune.runtime.images.tiles import Tiles
from edgeprune.runtime.runner import Runner
from edgeprune.runtime.show import draw

MakeBundle = Callable[..., Path]
FACTOR, CELL = 15, 120  # 32 pixels high x 15 = 480
HEIGHT, WIDTH = 480, 720
MARGIN, GAP = HEIGHT // 24, HEIGHT // 40


def panels(picture: Image.Image) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """The image and the pruned image, [480, 720, 3] each."""
    array = np.asarray(picture).astype(np.int16)
    second = MARGIN + WIDTH + GAP
    rows = slice(MARGIN, MARGIN + HEIGHT)
    return array[rows, MARGIN : MARGIN + WIDTH], array[rows, second : second + WIDTH]


def cell(panel: NDArray[np.int16], patch: int) -> NDArray[np.int16]:
    """The inside of a patch, without its outline."""
    row, column = divmod(patch, 6)
    return panel[row * CELL + 12 : (row + 1) * CELL - 12, column * CELL + 12 : (column + 1) * CELL - 12]


def colourfulness(panel: NDArray[np.int16]) -> float:
    return float((panel.max(-1) - panel.min(-1)).mean())


def test_kept_patches_stay_and_dropped_ones_lose_light_and_colour(make_bundle: MakeBundle) -> None:
    folder = make_bundle()
    photo = np.random.default_rng(3).integers(0, 256, (32, 48, 3), np.uint8)
    kept = set(load(folder)(photo).indices[0].tolist())
    before, after = panels(draw(folder, photo))
    assert len(kept) == 5
    for patch in range(24):
        old, new = cell(before, patch), cell(after, patch)
        if patch in kept:
            np.testing.assert_array_equal(new, old)
        else:
            assert new.mean() < 0.6 * old.mean()
            assert colourfulness(new) < 0.2 * colourfulness(old)


def test_the_left_side_is_what_the_encoder_sees(make_bundle: MakeBundle, photo: NDArray[np.uint8]) -> None:
    folder = make_bundle()
    before, _ = panels(draw(folder, photo))
    shrunk = np.asarray(Image.fromarray(before.astype(np.uint8)).resize((48, 32), Image.Resampling.BOX))
    pixels = load(folder).preprocessing.pixels(photo)
    assert np.abs(shrunk.astype(int) - pixels).mean() < 3  # enlarged smoothly, so not bit for bit


def test_a_kept_patch_has_an_outline(make_bundle: MakeBundle, photo: NDArray[np.uint8]) -> None:
    folder = make_bundle()
    row, column = divmod(int(load(folder)(photo).indices[0, 0]), 6)
    _, after = panels(draw(folder, photo))
    assert (after[row * CELL, column * CELL : (column + 1) * CELL] == 255).all()
    assert (after[row * CELL : (row + 1) * CELL, column * CELL] == 255).all()


@pytest.mark.parametrize(
    "options", [{}, {"batch": 3}, {"batch": "batch"}, {"dtype": "uint8"}, {"dtype": "float16"}], ids=str
)
def test_every_kind_of_bundle_can_be_shown(make_bundle: MakeBundle, photo: NDArray[np.uint8], options: Any) -> None:
    folder = make_bundle(**options)
    picture = draw(folder, photo)
    assert picture.mode == "RGB"
    assert picture.tobytes() == draw(load(folder), photo).tobytes()


def test_the_caption_says_how_many_are_kept_and_their_share() -> None:
    assert show._share(5, 24) == "keeps 5 of 24 patches (21%)"


def test_on_a_dark_image_dropped_patches_are_lighter_than_kept_ones(make_bundle: MakeBundle) -> None:
    folder, night = make_bundle(), np.zeros((32, 48, 3), np.uint8)
    kept = set(load(folder)(night).indices[0].tolist())
    _, after = panels(draw(folder, night))
    darkest_dropped = min(cell(after, patch).min(axis=(0, 1)).mean() for patch in range(24) if patch not in kept)
    assert darkest_dropped > max(cell(after, patch).max() for patch in kept) + 25


@pytest.mark.parametrize(
    ("size", "view"),
    [((32, 48), ""), ((64, 96), ""), ((65, 96), ""), ((32, 96), "squeezed from 96x32 to 48x32")],
    ids=str,
)
def test_an_image_of_other_proportions_is_said_to_be_squeezed(
    make_bundle: MakeBundle, size: tuple[int, int], view: str
) -> None:
    steps = replace(load(make_bundle()).preprocessing, crop=None, resize={"height": 32, "width": 48})
    assert show._view(steps, np.zeros((*size, 3), np.uint8)) == view


def test_an_image_whose_sides_are_cropped_is_said_to_be_cut(make_bundle: MakeBundle) -> None:
    steps = replace(load(make_bundle()).preprocessing, crop=(32, 48), resize={"shortest_edge": 32})
    assert show._view(steps, np.zeros((32, 96, 3), np.uint8)) == "cut from 96x32 to 48x32"


@pytest.mark.parametrize(("squeezed", "at"), [(False, 0), (True, 2)])
def test_of_tiles_the_whole_image_is_drawn_where_it_is_one(
    make_bundle: MakeBundle, photo: NDArray[np.uint8], squeezed: bool, at: int
) -> None:
    cut = Tiles(3, 32, ((32, 64), (64, 32)), squeezed)
    steps = replace(
        load(make_bundle()).preprocessing, size=(32, 32), crop=None, resize={"height": 32, "width": 32}, tiles=cut
    )
    runner: Any = SimpleNamespace(preprocessing=steps, grid=(4, 4), manifest=SimpleNamespace(tiles=3))
    pixels, cells = show._seen(runner, photo)
    np.testing.assert_array_equal(pixels, replace(steps, tiles=None).pixels(photo))
    assert [row.max() for row in cells] == [15 if place == at else -1 for place in range(3)]
    values = np.arange(48).reshape(3, 16)
    np.testing.assert_array_equal(show._laid(values, cells), values[at])


@pytest.mark.parametrize(("boxes", "words"), [(0, "0 objects"), (1, "1 object"), (2, "2 objects")])
def test_objects_are_counted_in_words(boxes: int, words: str) -> None:
    assert show._found(boxes, 0.5) == f", finds {words} (score > 0.5)"


def test_the_picture_is_written_as_png(make_bundle: MakeBundle, photo: NDArray[np.uint8], tmp_path: Path) -> None:
    picture = draw(make_bundle(), photo, tmp_path / "kept.PNG")
    with Image.open(tmp_path / "kept.PNG") as written:
        assert written.format == "PNG"
        assert written.tobytes() == picture.tobytes()


@pytest.mark.parametrize("name", ["kept.jpg", "kept", "kept.png.gz"])
def test_another_format_is_refused_before_anything_runs(tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError, match=f"PNG, got {name}"):
        draw(tmp_path / "no-bundle", "no-image", tmp_path / name)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    make_bundle: MakeBundle, photo: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, output = make_bundle(), tmp_path / "out" / "kept.png"
    output.parent.mkdir()
    output.write_text("old")

    def full(self: Image.Image, file: Any, **options: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(RequestError, match="No space left"):
        draw(folder, photo, output)
    assert [path.name for path in output.parent.iterdir()] == ["kept.png"]
    assert output.read_text() == "old"


def test_a_folder_that_does_not_exist_is_refused(
    make_bundle: MakeBundle, photo: NDArray[np.uint8], tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match="cannot be written"):
        draw(make_bundle(), photo, tmp_path / "missing" / "kept.png")


def test_a_bundle_without_an_image_of_its_own_wants_one(make_bundle: MakeBundle) -> None:
    older = Path(__file__).parents[1] / "golden" / "bundle-0.1"
    with pytest.raises(BundleError, match=r"bundle-0\.1 holds no image of its own; give one"):
        draw(older, None)
    with pytest.raises(RequestError, match="an open bundle does not read its own image; give one"):
        draw(load(make_bundle()), None)


def test_what_is_no_bundle_or_no_image_is_refused(make_bundle: MakeBundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError):
        draw(tmp_path, tmp_path / "a.png")
    with pytest.raises(ImageError):
        draw(make_bundle(), tmp_path / "missing.png")
    with pytest.raises(ImageError, match="float32"):
        draw(make_bundle(), np.zeros((1, 3, 32, 48), np.float32))


@pytest.mark.parametrize(
    ("size", "grid", "factor"),
    [((96, 96), (12, 12), 5), ((336, 336), (24, 24), 2), ((384, 384), (27, 27), 2), ((640, 480), (40, 30), 1)],
    ids=str,
)
def test_small_inputs_are_enlarged_by_a_whole_factor(size: tuple[int, int], grid: tuple[int, int], factor: int) -> None:
    """384 pixels hold 27 patches of 14, and 6 pixels that no patch covers."""
    white, last = np.full((*size, 3), 255, np.uint8), grid[0] * grid[1] - 1
    picture = show._picture(white, np.array([last], np.int32), grid, ("m", "k"))
    height, width = size[0] * factor, size[1] * factor
    margin, gap = height // 24, height // 40
    assert picture.width == 2 * (width + margin) + gap
    array = np.asarray(picture)[margin : margin + height, -margin - width : -margin]
    patch = [side // cells * factor for side, cells in zip(size, grid, strict=True)]
    bright = np.argwhere((array == 255).all(-1))
    assert bright.min(0).tolist() == [(cells - 1) * step for cells, step in zip(grid, patch, strict=True)]
    assert bright.max(0).tolist() == [cells * step - 1 for cells, step in zip(grid, patch, strict=True)]


def test_a_detector_has_its_boxes_on_the_pruned_image_alone() -> None:
    white, kept = np.full((32, 48, 3), 255, np.uint8), np.arange(24, dtype=np.int32)
    boxes = np.array([[0.25, 0.5, 0.75, 0.875], [0.5, -1, 2, 0.25]], np.float32)
    found = Detections(np.array([0.9, 0.6], np.float32), np.array([0, 7]), boxes)
    before = panels(show._picture(white, kept, (4, 6), ("m", "k")))
    after = panels(show._picture(white, kept, (4, 6), ("m", "k"), found, ("cat",)))
    np.testing.assert_array_equal(before[0], after[0])
    changed = (before[1] != after[1]).any(-1)
    left, top, right, bottom = 180, 240, 540, 420  # of 720 x 480
    for line in (changed[[top, bottom], left:right], changed[top:bottom, [left, right]]):
        assert line.all()
    assert not changed[top + 9 : bottom - 9, left + 9 : right - 9].any()
    assert not changed[:, : left - 9].any()
    assert changed[120, 360:].all()  # the second box goes on beyond the image
    assert not changed[150:200, 360:].any()


def test_two_classes_have_two_colours() -> None:
    white, kept, colours = np.full((32, 48, 3), 255, np.uint8), np.arange(24, dtype=np.int32), set()
    for label in (0, 1):
        boxes = np.array([[0.25, 0.5, 0.75, 0.875]], np.float32)
        found = Detections(np.ones(1, np.float32), np.array([label]), boxes)
        picture = panels(show._picture(white, kept, (4, 6), ("m", "k"), found, ("cat", "dog")))[1]
        colours.add(tuple(picture[420, 300].tolist()))
    assert len(colours) == 2


def test_no_box_leaves_the_picture_as_it_is() -> None:
    white, kept = np.full((32, 48, 3), 255, np.uint8), np.arange(24, dtype=np.int32)
    nothing = Detections(np.empty(0, np.float32), np.empty(0, np.int64), np.empty((0, 4), np.float32))
    plain, without = (show._picture(white, kept, (4, 6), ("m", "k"), found) for found in (None, nothing))
    assert plain.tobytes() == without.tobytes()


def test_patches_have_the_hue_of_the_token_that_they_went_to(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, outputs = make_bundle(), Runner.outputs
    photo = np.full((32, 48, 3), 128, np.uint8)  # grey, so that every colour is a tint
    kept = load(folder)(photo).indices[0].tolist()
    gone = [patch for patch in range(24) if patch not in kept]
    origin = np.full((1, 24), -1, np.int32)
    origin[0, kept] = range(len(kept))
    origin[0, gone[:2]], origin[0, gone[2]] = 0, 1  # two are part of the first token, one of the second

    def merging(self: Runner, images: Any) -> dict[str, NDArray[Any]]:
        return {**outputs(self, images), "origin": origin}

    monkeypatch.setattr(Runner, "outputs", merging)
    _, panel = panels(draw(folder, photo))

    def colour(patch: int) -> tuple[float, float]:
        """(hue, saturation)"""
        hue, saturation, _ = colorsys.rgb_to_hsv(*cell(panel, patch).mean((0, 1)))
        return hue, saturation

    (first, strong), (second, _) = colour(kept[0]), colour(kept[1])
    assert min(abs(first - second), 1 - abs(first - second)) > 0.2
    for patch in gone[:2]:
        hue, saturation = colour(patch)
        off = abs(hue - first)
        assert min(off, 1 - off) < 0.02
        assert saturation < 0.75 * strong
        assert cell(panel, patch).mean() > cell(panel, kept[0]).mean()
    assert abs(colour(gone[2])[0] - second) < 0.02
    assert colour(kept[2])[1] < 0.01, "a token of one patch stays as it is"
    assert cell(panel, gone[3]).mean() < 0.7 * 128, "what went nowhere is dimmed"
