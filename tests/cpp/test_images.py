"""What C makes of an image is, bit for bit, what the Python runtime makes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgeprune.errors import BundleError, ImageError, RequestError
from edgeprune.runtime.detections import decode
from edgeprune.runtime.images.preprocess import Preprocessing
from edgeprune.runtime.images.resize import TORCH
from edgeprune.runtime.images.tiles import Tiles, packed
from tests.cpp.pictures import BAD_BUNDLE, BAD_IMAGE, CLIP_MEAN, WRONG_REQUEST, Pictures, Refused, steps

SQUEEZED = tuple((24 * down, 24 * across) for down, across in ((1, 4), (2, 2), (4, 1)))
FORMS = {
    "squash": steps((20, 30), resize={"height": 20, "width": 30}),
    "squash to a square": steps(resize={"height": 24, "width": 24}, resample=2, mean=(0.5,) * 3, std=(0.5,) * 3),
    "shortest edge and crop": steps(resize={"shortest_edge": 24}, crop=(24, 24)),
    "crop pads": steps((24, 31), resize={"shortest_edge": 13}, crop=(24, 31)),
    "odd crop": steps((17, 9), resize={"shortest_edge": 20}, crop=(17, 9), resample=1),
    "crop without a resize": steps((25, 40), crop=(25, 40)),
    "at most as long": steps((24, 24), resize={"shortest_edge": 20, "longest_edge": 32}, crop=(24, 24), resample=2),
    "within": steps((30, 24), resize={"max_height": 30, "max_width": 24}, crop=(30, 24), resample=2),
    "square": steps(resize={"shortest_edge": 24}, crop=(24, 24), square=(122, 116, 104)),
    "square and squash": steps((20, 30), resize={"height": 20, "width": 30}, square=(1, 2, 3), resample=4),
    "square, nearest": steps((20, 30), resize={"height": 20, "width": 30}, square=(9, 0, 255), resample=0),
    "large numbers": steps(
        (9, 9), resize={"height": 9, "width": 9}, rescale=257.0, mean=(-3e4, 0, 7), std=(1, 1e-3, 3)
    ),
    "tiles": steps(
        resize={"shortest_edge": 24},
        crop=(24, 24),
        tiles=Tiles(5, 24, ((48, 48), (24, 96), (96, 24))),
    ),
    "tiles, lanczos": steps(resize={"height": 24, "width": 24}, resample=1, tiles=Tiles(3, 24, ((24, 48), (48, 24)))),
    "tiles squeezed": steps(resize={"height": 24, "width": 24}, tiles=Tiles(5, 24, SQUEEZED, squeezed=True)),
    "tiles without the whole": steps(
        resize={"height": 24, "width": 24}, resample=2, tiles=Tiles(4, 24, SQUEEZED, squeezed=True, whole=False)
    ),
    "one tile without the whole": steps(
        resize={"height": 24, "width": 24}, tiles=Tiles(1, 24, ((24, 24),), squeezed=True, whole=False)
    ),
    "tiles of a scaled image": steps(
        resize={"height": 24, "width": 24}, resample=1, tiles=Tiles(3, 24, ((24, 48), (48, 24)), True, 48)
    ),
    "tiles of a scaled image without it": steps(
        resize={"height": 24, "width": 24}, resample=1, tiles=Tiles(2, 24, ((24, 48), (48, 24)), True, 48, False)
    ),
    "one tile of a scaled image": steps(
        resize={"height": 24, "width": 24}, resample=1, tiles=Tiles(1, 24, (), True, 47)
    ),
    "torch": steps((20, 30), resize={"height": 20, "width": 30}, resample=2, resizer=TORCH),
    "torch, crop and square": steps(
        (17, 9), resize={"shortest_edge": 20}, crop=(17, 9), resample=3, square=(1, 2, 3), resizer=TORCH
    ),
    "torch, tiles": steps(
        resize={"height": 24, "width": 24},
        resample=2,
        tiles=Tiles(5, 24, ((48, 48), (24, 96), (96, 24))),
        resizer=TORCH,
    ),
    "torch, tiles without the whole": steps(
        resize={"height": 24, "width": 24},
        resample=2,
        tiles=Tiles(4, 24, SQUEEZED, squeezed=True, whole=False),
        resizer=TORCH,
    ),
    "torch, tiles of a scaled image": steps(
        resize={"height": 24, "width": 24},
        resample=3,
        tiles=Tiles(3, 24, ((24, 48), (48, 24)), True, 48),
        resizer=TORCH,
    ),
    "one tile": steps(resize={"height": 24, "width": 24}, tiles=Tiles(1, 24, ())),
}


@pytest.fixture(scope="module")
def pictures(cpp: Path) -> Iterator[Pictures]:
    program = Pictures(cpp / "tests" / "pictures")
    yield program
    program.close()
    assert program.process.returncode == 0


@pytest.fixture(autouse=True)
def as_pillow_13(monkeypatch: pytest.MonkeyPatch) -> None:
    """Earlier releases always go across first, where Pillow 13 goes down first when the height shrinks most."""
    if int(PIL.__version__.split(".")[0]) >= 13:
        return
    resize = Image.Image.resize

    def ordered(self: Image.Image, size: tuple[int, int], resample: Any = None, **rest: Any) -> Image.Image:
        lost = self.height - size[1]
        if resample and lost > 0 and lost > 2 * (self.width - size[0]):
            return resize(resize(self, (self.width, size[1]), resample), size, resample)
        return resize(self, size, resample, **rest)

    monkeypatch.setattr(Image.Image, "resize", ordered)


def pixels_of(form: Preprocessing, image: NDArray[np.uint8], dtype: str) -> NDArray[Any]:
    if dtype == "uint8":
        return form.pixels(image) if form.tiles is None else form.tiled_pixels(image)
    values = form(image) if form.tiles is None else form.tiled(image)
    with np.errstate(over="ignore"):
        return values.astype(dtype)


def made_or_said(make: Callable[..., NDArray[Any]], *given: Any) -> bytes | str:
    """The bits that are made; or why they are not."""
    try:
        return make(*given).tobytes()
    except (ImageError, Refused) as error:
        return str(error)


def some(random: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    """Noise, or black and white, whose edges make filters overshoot."""
    image = random.integers(0, 256, (height, width, 3), np.uint8)
    return np.where(image > 127, 255, 0).astype(np.uint8) if random.random() < 0.3 else image


def sizes(random: np.random.Generator, count: int, most: int) -> list[tuple[int, int]]:
    """Thin and thick ones, as many small as large; and what lies at the edge."""
    edges = [(1, 1), (1, 2), (2, 1), (1, most), (most, 1), (24, 24), (20, 30), (48, 48), (24, 96), (3, 300), (300, 3)]
    drawn = np.exp(random.uniform(0, np.log(most), (count, 2))).astype(int).tolist()
    return [*edges, *((height, width) for height, width in drawn)]


@pytest.mark.parametrize("resample", range(6), ids=["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"])
def test_every_filter_has_the_bits_of_pillow(pictures: Pictures, resample: int) -> None:
    random = np.random.default_rng(resample)
    targets = sizes(random, 90, 250)
    for (height, width), (down, across) in zip(sizes(random, 90, 700), targets[::-1], strict=True):
        form = steps((down, across), resize={"height": down, "width": across}, resample=resample)
        image = some(random, height, width)
        expected = np.asarray(Image.fromarray(image).resize((across, down), Image.Resampling(resample)))
        got = pictures.pixels(form, image, "uint8")
        np.testing.assert_array_equal(got, expected, err_msg=f"{width}x{height} to {across}x{down}")


@pytest.mark.parametrize("resample", [2, 3], ids=["bilinear", "bicubic"])
def test_what_is_resized_as_torch_does_has_the_bits_of_python(pictures: Pictures, resample: int) -> None:
    """Which has those of torch: tests/runtime/images/test_resize.py."""
    random = np.random.default_rng(resample)
    targets = sizes(random, 60, 250)
    for (height, width), (down, across) in zip(sizes(random, 60, 700), targets[::-1], strict=True):
        form = steps((down, across), resize={"height": down, "width": across}, resample=resample, resizer=TORCH)
        image = some(random, height, width)
        got = pictures.pixels(form, image, "uint8")
        np.testing.assert_array_equal(got, form.pixels(image), err_msg=f"{width}x{height} to {across}x{down}")


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float16"])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_every_form_has_the_bits_of_python(pictures: Pictures, form: Preprocessing, dtype: str) -> None:
    random = np.random.default_rng(7)
    for height, width in sizes(random, 30, 400):
        image = some(random, height, width)
        got, expected = made_or_said(pictures.pixels, form, image, dtype), made_or_said(pixels_of, form, image, dtype)
        assert got == expected, image.shape


def test_a_large_photo_has_the_bits_of_python(pictures: Pictures) -> None:
    form = steps((336, 336), resize={"shortest_edge": 336}, crop=(336, 336))
    for height, width in ((1080, 1920), (1920, 1080), (2400, 1080), (336, 336), (200, 300)):
        image = some(np.random.default_rng(height), height, width)
        np.testing.assert_array_equal(pictures.pixels(form, image), form(image))


def test_rows_may_have_gaps(pictures: Pictures) -> None:
    whole = some(np.random.default_rng(1), 40, 70)
    for part in (whole[:, :50], whole[5:30, 3:69], whole[::2], whole[39:, 69:]):
        for name in ("square", "tiles", "odd crop"):
            expected = pixels_of(FORMS[name], part, "float32")
            np.testing.assert_array_equal(pictures.pixels(FORMS[name], part), expected)


def test_images_without_a_resize_must_have_the_size(pictures: Pictures) -> None:
    form = steps((20, 30))
    image = some(np.random.default_rng(2), 20, 30)
    np.testing.assert_array_equal(pictures.pixels(form, image), form(image))
    with pytest.raises(ImageError) as expected:
        form(image[:, :29])
    with pytest.raises(Refused) as refused:
        pictures.pixels(form, image[:, :29])
    assert (refused.value.status, refused.value.line) == (BAD_IMAGE, str(expected.value))


@pytest.mark.parametrize(
    ("form", "size"),
    [
        (steps((336, 336), resize={"shortest_edge": 336}, crop=(336, 336)), (1, 5000)),
        (steps((336, 336), resize={"shortest_edge": 336}, crop=(336, 336)), (3000, 2)),
        (FORMS["at most as long"], (1, 5000)),
        (FORMS["within"], (5000, 1)),
        (FORMS["square"], (1, 20000)),
    ],
    ids=["grows", "grows down", "shrinks to nothing", "shrinks within", "square"],
)
def test_what_is_too_long_and_thin_is_refused_in_the_words_of_python(
    pictures: Pictures, form: Preprocessing, size: tuple[int, int]
) -> None:
    image = np.zeros((*size, 3), np.uint8)
    with pytest.raises(ImageError) as expected:
        form(image)
    with pytest.raises(Refused) as refused:
        pictures.pixels(form, image)
    assert (refused.value.status, refused.value.line) == (BAD_IMAGE, str(expected.value))
    assert "long and thin" in refused.value.line
    np.testing.assert_array_equal(pictures.pixels(form, image[:9, :9]), form(image[:9, :9]))


@pytest.mark.parametrize("huge", [2**29, 2**31, 2**32, 2**63, 2**64 - 1])
def test_sizes_that_cannot_be_are_refused(pictures: Pictures, huge: int) -> None:
    given = FORMS["square"].to_json()
    for width, height, stride, status in (
        (0, 5, 0, BAD_IMAGE),
        (5, 0, 0, BAD_IMAGE),
        (huge, 5, 0, BAD_IMAGE),
        (5, huge, 0, BAD_IMAGE),
        (huge, huge, huge, BAD_IMAGE),
        (5, 5, 14, WRONG_REQUEST),
        (5, 2**29 - 1, max(huge, 2**36), WRONG_REQUEST),
    ):
        with pytest.raises(Refused) as refused:
            pictures.raw(given, width, height, stride)
        assert refused.value.status == status
    with pytest.raises(Refused, match="images must become float32, float16 or uint8; got int8"):
        pictures.raw(given, 1, 1, 0, "int8", b"abc")


PARTS: dict[str, Any] = {"count": 2, "pinpoints": [[48, 24], [24, 48]], "squeezed": True, "whole": False}
BROKEN: dict[str, list[Any]] = {
    "size": [[24], 24, None, [24, 0], [24, -1], [24, 1.5], [24, "24"], [2**40, 24], [24, 2**64], [25, 24]],
    "resize": [3, [], {}, {"height": 24}, {"shortest_edge": 24, "width": 3}, {"shortest_edge": 0}, {"max_height": 24}],
    "resample": [-1, 6, 2**70, "3", None],
    "crop": [[24], [24, 23], "2"],
    "rescale": ["x", None],
    "mean": [[0.5], 3, [0.5, 0.5, None]],
    "std": [[0.5, 0.0, 0.5], [1, 1], [1, 1, "x"]],
    "tiles": [
        {},
        [],
        {"count": 0, "pinpoints": []},
        {"count": 3, "pinpoints": []},
        {"count": 1, "pinpoints": [[24, 24]]},
        {"count": 3, "pinpoints": [[24, 24]]},
        {"count": 3, "pinpoints": [[24, 49]]},
        {"count": 3, "pinpoints": 7},
        {"count": 3, "pinpoints": [[24, 48, 1]]},
        {"count": 1, "pinpoints": [], "longest": 48},
        {"count": 1, "pinpoints": [], "squeezed": True, "longest": -1},
        *({**PARTS, "whole": 0}, {**PARTS, "whole": None}, {**PARTS, "whole": "no"}, {**PARTS, "whole": []}),
        *({**PARTS, "count": 3}, {**PARTS, "squeezed": False}, {**PARTS, "count": 1, "pinpoints": []}),
    ],
    "resizer": ["", "cv2", "Torch", None, 1, True, ["torch"], {}],
    "square": [[1, 2], [1, 2, 256], [1, 2, -1], [0.5, 1, 1], 7],
}


@pytest.mark.parametrize(("field", "value"), [(name, one) for name, every in BROKEN.items() for one in every], ids=str)
def test_a_broken_field_is_refused(pictures: Pictures, field: str, value: Any) -> None:
    given = FORMS["shortest edge and crop"].to_json()
    pictures.raw(given, 1, 1, 0, "uint8", b"abc")
    with pytest.raises(Refused) as refused:
        pictures.raw({**given, field: value}, 1, 1, 0, "uint8", b"abc")
    assert refused.value.status == BAD_BUNDLE
    assert refused.value.line.startswith("the manifest's preprocessing is wrong (")
    with pytest.raises(BundleError):
        Preprocessing.from_json({**given, field: value})


@pytest.mark.parametrize(
    "change",
    [
        *({name: ...} for name in ("size", "resize", "resample", "crop", "rescale", "mean", "std", "convert_rgb")),
        {"crop": None},
        {"crop": [24, 23]},
        {"resample": 6},
        {"resize": {"height": 24, "shortest_edge": 24}},
        {"resize": {"height": 24, "width": 23}, "crop": None},
        {"std": [0.5, 0.0, 0.25]},
        {"square": [1, 2, 256]},
        {"tiles": {"count": 2, "pinpoints": []}},
        {"tiles": {"count": 1, "pinpoints": []}, "square": [0, 0, 0]},
        {"tiles": {**PARTS, "whole": 3}},
        {"tiles": {**PARTS, "squeezed": False}},
        {"tiles": {**PARTS, "count": 1, "pinpoints": []}},
        {"resizer": 7},
        *({"resizer": "torch", "resample": by} for by in (0, 1, 4, 5)),
        {"size": [24, 30], "crop": [24, 30], "tiles": {"count": 1, "pinpoints": []}},
    ],
    ids=str,
)
def test_contradictions_are_refused_in_the_words_of_python(pictures: Pictures, change: dict[str, Any]) -> None:
    changed = {**FORMS["shortest edge and crop"].to_json(), **change}
    given = {name: value for name, value in changed.items() if value is not ...}
    with pytest.raises(BundleError) as expected:
        Preprocessing.from_json(given)
    with pytest.raises(Refused) as refused:
        pictures.raw(given, 1, 1, 0, "uint8", b"abc")
    said = str(expected.value).replace("(1, 2, 256)", "[1,2,256]")  # lists as JSON has them, not as tuples
    said = said.replace(f"{CLIP_MEAN} and (0.5, 0.0, 0.25)", f"[{','.join(map(str, CLIP_MEAN))}] and [0.5,0.0,0.25]")
    assert (refused.value.status, refused.value.line) == (BAD_BUNDLE, said)


@pytest.mark.parametrize("name", [name for name, form in FORMS.items() if form.tiles is not None])
def test_tiles_have_the_shape_of_python(pictures: Pictures, name: str) -> None:
    random, tiles = np.random.default_rng(3), FORMS[name].tiles
    assert tiles is not None
    between = [(20, 50), (40, 100), (16, 10), (80, 50)]  # as near to one shape as to another, small and large
    for height, width in [*sizes(random, 80, 3000), *between, (2**20, 1), (1, 2**20)]:
        assert pictures.shape(FORMS[name], height, width) == tiles.shape((height, width)), (height, width)
    assert pictures.shape(FORMS["square"], 10, 20) == (0, 0)


@pytest.mark.parametrize(
    ("squeezed", "whole"), [(False, True), (True, True), (True, False)], ids=["AnyRes", "squeezed", "without the whole"]
)
@pytest.mark.parametrize("pooled", [False, True], ids=["of each tile", "of all tiles"])
@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (1, 3), (3, 1), (0, 0)], ids=str)
def test_tiles_are_read_in_the_order_of_python(
    pictures: Pictures, shape: tuple[int, int], pooled: bool, squeezed: bool, whole: bool
) -> None:
    if shape == (0, 0) and not whole:
        return  # no tile at all
    random = np.random.default_rng(sum(shape))
    grid, keep, tiles = (3, 4), 5, shape[0] * shape[1] + whole
    pools, among = (1, tiles * 12) if pooled else (tiles, 12)
    drawn = [np.sort(random.choice(among, keep, replace=False)) for _ in range(pools)]
    indices = np.stack(drawn).astype(np.int32)
    tokens = np.arange(pools * keep).reshape(pools, keep, 1)
    expected = packed(tokens, indices, grid, shape, squeezed, whole)[:, 0]
    np.testing.assert_array_equal(pictures.order(indices, grid, shape, squeezed, whole), expected)


def test_indices_of_other_tiles_are_refused(pictures: Pictures) -> None:
    indices = np.full((3, 2), 11, np.int32)
    assert len(pictures.order(indices, (3, 4), (1, 2), False)) == 6
    for given, shape in ((indices, (2, 2)), (indices + 1, (1, 2)), (indices - 12, (1, 2))):
        with pytest.raises(Refused, match="give the width and height of the same image") as refused:
            pictures.order(given, (3, 4), shape, False)
        assert refused.value.status == WRONG_REQUEST
    with pytest.raises(RequestError):
        packed(indices[..., None], indices, (3, 4), (2, 2))


ULPS = 8
"""Of a score: exp() of numpy and that of the C library may each be wrong by some units in the last place."""


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("classes", [1, 2, 6, 7, 15, 91, 127, 128, 300, 1000])
def test_detections_are_those_of_python(pictures: Pictures, classes: int, dtype: str) -> None:
    random = np.random.default_rng(classes)
    logits = (6 * random.standard_normal((1, 100, classes + 1))).astype(dtype)
    boxes = random.random((1, 100, 4)).astype(dtype)
    threshold = 0.4
    (expected,) = decode(logits, boxes, [(480, 641)], threshold)
    found = pictures.detect(logits[0], boxes[0], (480, 641), threshold)
    assert len(found) == len(expected.scores) > 0
    np.testing.assert_array_equal(found["label"], expected.labels)
    np.testing.assert_array_equal(found["box"], expected.boxes)
    np.testing.assert_array_max_ulp(found["score"], expected.scores, ULPS)


def test_what_is_not_finite_is_no_detection(pictures: Pictures) -> None:
    logits = np.array([[9, 0, 0], [np.nan, 9, 0], [9, np.nan, 0], [np.inf, 0, 0], [9, 0, -np.inf]], np.float32)
    boxes = np.ones((5, 4), np.float32)
    with np.errstate(invalid="ignore"):
        (expected,) = decode(logits[None], boxes[None], [(1, 1)])
    found = pictures.detect(logits, boxes, (1, 1), 0.5)
    np.testing.assert_array_equal(found["label"], expected.labels)
    assert len(found) == 2
    with pytest.raises(Refused, match="logits must be"):
        pictures.detect(logits[:, :1], boxes, (1, 1), 0.5)
