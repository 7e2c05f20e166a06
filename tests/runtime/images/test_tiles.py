"""The oracle for the tiles is transformers' own PIL image processor, for their order the view that it packs them by."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgeprune.errors import BundleError, ModelError, RequestError
from edgeprune.export.processor import read_processor
from edgeprune.runtime.images.preprocess import Preprocessing
from edgeprune.runtime.images.resize import PILLOW, resizer
from edgeprune.runtime.images.tiles import Tiles, packed

SIDE = 24
PINPOINTS = [[24, 48], [48, 24], [48, 48], [72, 24], [24, 72]]
NEXT: dict[str, Any] = {
    "image_processor_type": "LlavaNextImageProcessor",
    "size": {"shortest_edge": SIDE},
    "crop_size": {"height": SIDE, "width": SIDE},
    "image_grid_pinpoints": PINPOINTS,
    "do_pad": True,
}
ONEVISION: dict[str, Any] = {
    "image_processor_type": "LlavaOnevisionImageProcessor",
    "size": {"height": SIDE, "width": SIDE},
    "image_grid_pinpoints": [[SIDE * rows, SIDE * columns] for rows in (1, 2, 3) for columns in (1, 2, 3)],
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
SIZES = [
    *((24, 24), (1, 1), (7, 5), (23, 49), (480, 640), (641, 479), (31, 1200), (1000, 9), (1, 700)),
    *((50, 47), (72, 25), (40, 24), (45, 46)),
]


def picture(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8))


INTERNVL: dict[str, Any] = {
    "image_processor_type": "GotOcr2ImageProcessor",
    "size": {"height": SIDE, "width": SIDE},
    "crop_to_patches": True,
    "min_patches": 1,
    "max_patches": 6,
}


def processor(name: str, **given: Any) -> Any:
    if name == "GotOcr2ImageProcessor":
        from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

        return GotOcr2ImageProcessorPil(**given)
    if name == "LlavaNextImageProcessor":
        from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

        return LlavaNextImageProcessorPil(**given)
    from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

    return LlavaOnevisionImageProcessorPil(**given)


def theirs(image: Image.Image, config: dict[str, Any]) -> NDArray[np.float32]:
    given = {name: value for name, value in config.items() if name != "image_processor_type"}
    found = processor(config["image_processor_type"], **given)(image, return_tensors="np")
    values: NDArray[np.float32] = found["pixel_values"]
    return values if "num_patches" in found else values[0]


@pytest.mark.parametrize(
    ("config", "counts"), [(NEXT, {3, 4, 5}), (ONEVISION, {2, 3, 4, 5, 7, 10})], ids=["next", "ov"]
)
def test_tiles_are_the_bits_of_transformers_where_it_chooses_as_many(config: dict[str, Any], counts: set[int]) -> None:
    seen = set()
    for size in SIZES:
        image = picture(*size)
        expected = theirs(image, config)
        seen.add(len(expected))
        values = read_processor(config, (SIDE, SIDE), len(expected)).tiled(image)
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, expected, err_msg=str(size))
    assert seen == counts


def test_case_internvl_crops_are_the_bits_of_transformers_where_it_chooses_as_many() -> None:
    seen = set()
    for size in [*SIZES, (24, 30), (30, 24), (48, 60), (60, 48), (100, 125), (13, 40), (20, 100)]:
        image = picture(*size)
        expected = theirs(image, INTERNVL)
        seen.add(len(expected))
        steps = read_processor(INTERNVL, (SIDE, SIDE), len(expected))
        np.testing.assert_array_equal(steps.tiled(image), expected, err_msg=str(size))
        down, across = steps.tile_shape(image)
        assert len(expected) == (1 if not down else down * across + 1)
    assert seen == {1, 3, 4, 5, 6, 7}


@pytest.mark.parametrize("size", [(30, 24), (24, 30), (60, 48), (48, 60), (2, 50)], ids=str)
def test_internvl_chooses_among_shapes_of_as_many_tiles_where_it_would_take_another_number(size: Any) -> None:
    """The tie of 1x2 and 2x1 at a ratio of 1.25 goes to the later one where the image is large enough."""
    image = picture(*size)
    only = theirs(image, INTERNVL | {"min_patches": 2, "max_patches": 2})
    np.testing.assert_array_equal(read_processor(INTERNVL, (SIDE, SIDE), 3).tiled(image), only)


@pytest.mark.parametrize(
    ("change", "count", "have"),
    [
        ({}, 2, "1, 3, 4, 5, 6, 7"),
        ({"min_patches": 3}, 3, "1, 4, 5, 6, 7"),
        ({"max_patches": 12}, 14, "1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13"),
    ],
)
def test_a_tile_count_that_internvl_never_makes_is_refused(change: dict[str, int], count: int, have: str) -> None:
    with pytest.raises(ModelError, match=rf"--tiles must be .* \({have}"):
        read_processor(INTERNVL | change, (SIDE, SIDE), count)


def test_internvl_tiles_are_refused_by_an_encoder_of_whole_images() -> None:
    with pytest.raises(ModelError, match=r"cuts images into tiles \(crop_to_patches\)"):
        read_processor(INTERNVL, (SIDE, SIDE))
    for off in ({"crop_to_patches": False}, {"max_patches": 1}):  # as transformers has it
        steps, image = read_processor(INTERNVL | off, (SIDE, SIDE)), picture(30, 70)
        np.testing.assert_array_equal(steps(image)[None], theirs(image, INTERNVL | off))


def test_the_manifest_says_that_tiles_are_squeezed() -> None:
    steps = read_processor(INTERNVL, (SIDE, SIDE), 3)
    assert steps.to_json()["tiles"] == {"count": 3, "pinpoints": [[48, 24], [24, 48]], "squeezed": True}
    assert Preprocessing.from_json(json.loads(json.dumps(steps.to_json()))) == steps


def test_the_manifest_says_what_side_an_image_is_scaled_to_before_it_is_cut() -> None:
    given = {"image_processor_type": "SmolVLMImageProcessor", "size": {"longest_edge": 48}}
    steps = read_processor({**given, "max_image_size": {"longest_edge": 24}}, (24, 24), 3)
    said = {"count": 3, "pinpoints": [[24, 48], [48, 24]], "squeezed": True, "longest": 48}
    assert steps.to_json()["tiles"] == said
    assert Tiles.from_json(said, 24) == steps.tiles


PARTS: dict[str, Any] = {"count": 2, "pinpoints": [[48, 24], [24, 48]], "squeezed": True, "whole": False}


def test_without_the_whole_image_tiles_are_those_of_internvl_but_the_last() -> None:
    """Of one tile, too, that a manifest may ask for: the image squeezed into it."""
    one = Tiles.from_json({**PARTS, "count": 1, "pinpoints": [[24, 24]]}, SIDE)
    for size in SIZES:
        image, with_it = picture(*size), read_processor(INTERNVL, (SIDE, SIDE), 3).tiles
        assert with_it is not None
        parts = Tiles.from_json(PARTS, SIDE)
        assert (parts.to_json(), parts.shape(size)) == (PARTS, with_it.shape(size))
        assert parts.placed(size) == with_it.placed(size)[:2]
        cut, wanted = (tiles.cut(image, resizer(PILLOW, 3)) for tiles in (parts, with_it))
        assert [tile.tobytes() for tile in cut] == [tile.tobytes() for tile in wanted[:2]]
        assert one.cut(image, resizer(PILLOW, 3))[0].tobytes() == wanted[2].tobytes()


def test_kept_tokens_of_tiles_without_the_whole_image_follow_tile_after_tile() -> None:
    every = np.random.default_rng(1).normal(size=(2, 6, 4))
    indices = np.array([[1, 4], [0, 5]], np.int32)
    tokens = np.take_along_axis(every, indices[..., None].astype(int), 1)
    found = packed(tokens, indices, (2, 3), (1, 2), squeezed=True, whole=False)
    np.testing.assert_array_equal(found, every.reshape(12, 4)[[1, 4, 6, 11]])
    with pytest.raises(RequestError, match="must be those of 4 tiles of 2x3 patches"):
        packed(tokens, indices, (2, 3), (2, 2), squeezed=True, whole=False)


def test_kept_tokens_of_squeezed_tiles_follow_tile_after_tile() -> None:
    every = np.random.default_rng(1).normal(size=(3, 6, 4))
    indices = np.array([[1, 4], [0, 5], [2, 3]], np.int32)
    found = packed(np.take_along_axis(every, indices[..., None].astype(int), 1), indices, (2, 3), (1, 2), squeezed=True)
    np.testing.assert_array_equal(found, every.reshape(18, 4)[[1, 4, 6, 11, 14, 15]])


def test_only_pinpoints_of_as_many_tiles_are_chosen_from() -> None:
    wide = picture(100, 300)
    assert len(theirs(wide, NEXT)) == 4  # its own choice is 24x72
    found = read_processor(NEXT, (SIDE, SIDE), 3).tiled(wide)
    np.testing.assert_array_equal(found, theirs(wide, NEXT | {"image_grid_pinpoints": [[24, 48], [48, 24]]}))


def test_rows_and_columns_follow_the_shape_of_the_image() -> None:
    four = read_processor(NEXT, (SIDE, SIDE), 4)
    assert (four.tile_shape(picture(90, 30)), four.tile_shape(picture(30, 90))) == ((3, 1), (1, 3))
    assert read_processor(NEXT, (SIDE, SIDE), 5).tile_shape(picture(30, 90)) == (2, 2)


def test_one_tile_is_the_whole_image_squeezed_into_it() -> None:
    image, one = picture(40, 90), read_processor(NEXT, (SIDE, SIDE), 1)
    np.testing.assert_array_equal(one.tiled(image), theirs(image, NEXT)[:1])
    assert one.tile_shape(image) == (0, 0)


def test_a_tile_count_that_no_pinpoint_has_is_refused_with_those_there_are() -> None:
    with pytest.raises(ModelError, match=r"--tiles must be .* \(1, 3, 4, 5\), got 2"):
        read_processor(NEXT, (SIDE, SIDE), 2)


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ({"size": SIDE, "crop_size": SIDE}, "CLIPImageProcessor cuts no tiles"),
        ({**NEXT, "do_resize": False}, "tiles must be squares"),
        ({**NEXT, "size": {"shortest_edge": 20}}, "tiles must be squares"),
        ({**NEXT, "image_grid_pinpoints": [[24]]}, "cannot be used"),
    ],
)
def test_a_processor_whose_tiles_would_differ_is_refused(config: dict[str, Any], names: str) -> None:
    with pytest.raises(ModelError, match=names):
        read_processor(config, (SIDE, SIDE), 3)


@pytest.mark.parametrize(("name", "side"), [("LlavaNextImageProcessor", 336), ("LlavaOnevisionImageProcessor", 384)])
def test_pinpoints_that_are_left_out_are_those_of_the_class(name: str, side: int) -> None:
    config = {"image_processor_type": name, "size": {"height": side, "width": side}, "crop_size": side}
    found = read_processor(config, (side, side), 5).tiles
    expected = [tuple(one) for one in processor(name).image_grid_pinpoints if one[0] * one[1] == 4 * side * side]
    assert found == Tiles(5, side, tuple(expected))


def test_the_manifest_keeps_the_tiles_and_only_where_there_are_any() -> None:
    steps = read_processor(NEXT, (SIDE, SIDE), 3)
    assert steps.to_json()["tiles"] == {"count": 3, "pinpoints": [[24, 48], [48, 24]]}
    assert Preprocessing.from_json(json.loads(json.dumps(steps.to_json()))) == steps
    assert "tiles" not in read_processor(NEXT, (SIDE, SIDE)).to_json()


@pytest.mark.parametrize(
    "tiles",
    [
        *({}, [], {"count": 3}, {"count": 3, "pinpoints": []}, {"count": 1, "pinpoints": [[24, 48]]}),
        *({"count": 3, "pinpoints": [[24, 72]]}, {"count": 0, "pinpoints": []}, {"count": 3, "pinpoints": [[24, 50]]}),
        *({"count": 3, "pinpoints": [[-24, -48]]}, {"count": 3, "pinpoints": [[24, float("inf")]]}),
        {"count": 1, "pinpoints": [], "longest": 48},
        *({**PARTS, "count": 1, "pinpoints": []}, {**PARTS, "count": 3}, {**PARTS, "squeezed": False}),
        *({**PARTS, "whole": 0}, {**PARTS, "whole": None}),
    ],
    ids=str,
)
def test_wrong_tiles_in_the_manifest_are_refused(tiles: Any) -> None:
    steps = read_processor(NEXT, (SIDE, SIDE)).to_json()
    with pytest.raises(BundleError, match="preprocessing is wrong"):
        Preprocessing.from_json({**steps, "tiles": tiles})


def test_tiles_without_a_size_in_the_manifest_are_refused() -> None:
    steps = read_processor(NEXT, (SIDE, SIDE), 3).to_json()
    with pytest.raises(BundleError, match="tiles of 0 pixels"):
        Preprocessing.from_json({**steps, "size": [0, 0]})


GRID, WIDTH = (2, 3), 4


def in_order(tokens: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """The official codes' order: every patch of the tiles viewed as one raster, masked; the whole image in front."""
    (rows, columns), (down, across) = GRID, shape
    whole, grid = tokens[0], tokens[1:].reshape(down, across, rows, columns, WIDTH).transpose(0, 2, 1, 3, 4)
    every = np.concatenate((whole, grid.reshape(-1, WIDTH)))
    kept: NDArray[Any] = every[~np.isnan(every).any(1)]
    return kept


@pytest.mark.parametrize("shape", [(2, 2), (1, 3), (3, 1), (0, 0)])
@pytest.mark.parametrize("pooled", [False, True], ids=["each tile", "one pool"])
def test_kept_tokens_are_in_the_order_of_the_whole_images_rows(shape: tuple[int, int], pooled: bool) -> None:
    random, tiles, patches, keep = np.random.default_rng(1), shape[0] * shape[1] + 1, 6, 4
    every = random.normal(size=(tiles, patches, WIDTH))
    if pooled:
        indices = np.sort(random.permutation(tiles * patches)[: tiles * keep])[None]
        tokens = every.reshape(1, -1, WIDTH)[:, indices[0]]
        dropped = np.setdiff1d(np.arange(tiles * patches), indices)
    else:
        indices = np.stack([np.sort(random.permutation(patches)[:keep]) for _ in range(tiles)])
        tokens = np.take_along_axis(every, indices[..., None], 1)
        dropped = np.setdiff1d(np.arange(tiles * patches), indices + patches * np.arange(tiles)[:, None])
    every.reshape(-1, WIDTH)[dropped] = np.nan
    found = packed(tokens, indices.astype(np.int32), GRID, shape)
    np.testing.assert_array_equal(found, in_order(every, shape))


@pytest.mark.parametrize(
    ("tokens", "indices"),
    [((3, 2, 4), (3, 2)), ((5, 2, 4), (5, 1)), ((1, 4, 4), (1, 5)), ((2, 2, 4), (2, 2))],
    ids=str,
)
def test_tokens_of_another_number_of_tiles_are_refused(tokens: tuple[int, ...], indices: tuple[int, ...]) -> None:
    with pytest.raises(RequestError, match="must be those of 5 tiles of 2x3 patches"):
        packed(np.zeros(tokens), np.zeros(indices, np.int32), GRID, (2, 2))


def test_an_index_beyond_the_tiles_is_refused() -> None:
    with pytest.raises(RequestError, match="of the same image"):
        packed(np.zeros((1, 2, 4)), np.array([[0, 30]], np.int32), GRID, (2, 2))
