"""Every image processor class of the families, in old and new spellings, gives what transformers gives.

The oracle is AutoImageProcessor with the same file: the same pixels, bit for bit; or both refuse it; or the size would
depend on the image, which a graph cannot take.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from numpy.typing import NDArray
from PIL import Image
from transformers.models.auto import image_processing_auto

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders._processor import COMMON
from edgeprune.encoders._settings import SILENT, settings_of
from edgeprune.errors import ImageError, ModelError
from edgeprune.export.processor import read_processor
from edgeprune.runtime.images.preprocess import Preprocessing

SQUARE = {"size": {"height": 24, "width": 24}, "crop_size": {"height": 24, "width": 24}}
SPELLINGS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "integers": {"size": 24, "crop_size": 24},
    "an integer is the shortest edge": {"size": 30, "crop_size": 24, "default_to_square": False},
    "an integer is a square": {"size": 24, "default_to_square": True, "do_center_crop": False},
    "lists": {"size": [24, 30], "crop_size": [24, 30]},
    "height and width": {"size": {"height": 24, "width": 30}, "do_center_crop": False},
    "height, width and a crop": {"size": {"height": 40, "width": 50}, "crop_size": {"height": 24, "width": 30}},
    "shortest edge": {"size": {"shortest_edge": 24}, "crop_size": 24},
    "shortest and longest edge": {"size": {"shortest_edge": 30, "longest_edge": 36}, "crop_size": 24},
    "shortest and no longest edge": {"size": {"shortest_edge": 24, "longest_edge": None}, "crop_size": 24},
    "most height and width": {"size": {"max_height": 30, "max_width": 28}, "crop_size": 24},
    "longest edge": {"size": {"longest_edge": 24}, "crop_size": 24},
    "least and most pixels": {"size": {"min_pixels": 64, "max_pixels": 4096}, "crop_size": 24},
    "pixels beside": {**SQUARE, "min_pixels": 4096, "max_pixels": 8192},
    "size and most": {"size": 32, "max_size": 48, "crop_size": 24},
    "a square size": {"use_square_size": True, "do_center_crop": False},
    "no square size": {**SQUARE, "use_square_size": False},
    "crop without height": {"size": 24, "crop_size": {"shortest_edge": 24}, "do_center_crop": True},
    "a crop": {**SQUARE, "do_center_crop": True, "crop_size": 20},
    "null crop": {**SQUARE, "do_center_crop": None, "crop_size": None},
    "null sizes": {"size": None, "crop_size": None},
    "null rescale": {**SQUARE, "do_rescale": None, "rescale_factor": None},
    "null normalise": {**SQUARE, "do_normalize": None, "image_mean": None, "image_std": None},
    "null mean": {**SQUARE, "image_mean": None},
    "no resize": {"do_resize": False, "do_center_crop": True, "crop_size": 24},
    "numbers": {**SQUARE, "image_mean": 0.5, "image_std": 0.25, "rescale_factor": 1 / 127, "do_convert_rgb": True},
    "padding": {**SQUARE, "do_pad": True},
    "padding of another size": {**SQUARE, "do_pad": True, "pad_size": {"height": 40, "width": 40}},
    "what no class reads": {**SQUARE, "do_image_splitting": True, "crop_pct": 0.9, "resample_mode": "odd"},
    "nearest": {**SQUARE, "resample": 0},
}
TORCHVISION = ("DINOv3ViT", "PI0", "Lfm2Vl")
"""whose classes have no other backend, and cannot be looked at without it"""
TILED = ("LlavaNext", "LlavaOnevision")
OTHER = (
    *("an integer is the shortest edge", "lists", "height and width", "height, width and a crop", "size and most"),
    *("shortest and longest edge", "a crop", "no resize"),
)
"""spellings in which tiles are resized or cropped to another size than their own, as no checkpoint does"""


def refusal(name: str, spelling: str) -> str:
    """How this project refuses what transformers takes; empty where it takes it."""
    if name in TILED and spelling in OTHER:
        return "tiles must be squares|would depend on the image"
    if encoders.processors()[name].splits:
        return "must have longest_edge|must scale images first"
    if name == "Pixtral":
        return "has do_center_crop on"
    if encoders.processors()[name].torchvision:
        return "resizer torch takes resample 2|resize it first"
    return ""


NAMES = sorted(encoders.processors())
IMAGES = [
    Image.fromarray(np.random.default_rng(at).integers(0, 256, (*size, 3), np.uint8))
    for at, size in enumerate([(40, 57), (96, 50), (24, 30)])
]


def _siglip2(out: Any, own: Any) -> NDArray[Any]:
    """Of patches in raster order, (row, column, channel) each."""
    (rows, columns), side = out["spatial_shapes"][0], getattr(own, "patch_size", 0) or own.encoder_patch_size
    patches = out["pixel_values"][0, : rows * columns].reshape(rows, columns, side, side, 3)
    return np.asarray(patches.transpose(4, 0, 2, 1, 3).reshape(3, rows * side, columns * side))


def _qwen2_vl(out: Any, own: Any) -> NDArray[Any]:
    """Of squares of patches, (channel, frame, row, column) each."""
    (_, rows, columns), side, merge = out["image_grid_thw"][0], own.patch_size, own.merge_size
    patches = out["pixel_values"].reshape(rows // merge, columns // merge, merge, merge, 3, -1, side, side)
    whole = patches[:, :, :, :, :, 0].transpose(4, 0, 2, 5, 1, 3, 6)
    return np.asarray(whole.reshape(3, rows * side, columns * side))


def _cosmos3_edge(out: Any, own: Any) -> NDArray[Any]:
    """Of squares of patches, (row, column, channel, frame) each."""
    (_, rows, columns), side, merge = out["image_grid_thw"][0], own.patch_size, own.merge_size
    patches = out["pixel_values"].reshape(rows // merge, columns // merge, merge, merge, side, side, 3, -1)
    whole = patches[..., 0].transpose(6, 0, 2, 4, 1, 3, 5)
    return np.asarray(whole.reshape(3, rows * side, columns * side))


def _gemma4(out: Any, own: Any) -> NDArray[Any]:
    """Of patches in raster order, (row, column, channel) each, with their columns and rows."""
    (columns, rows), side = out["image_position_ids"][0].max(axis=0) + 1, own.patch_size
    patches = out["pixel_values"][0, : rows * columns].reshape(rows, columns, side, side, 3)
    return np.asarray(patches.transpose(4, 0, 2, 1, 3).reshape(3, rows * side, columns * side))


def _minicpmv4_6(out: Any, own: Any) -> NDArray[Any]:
    """Of patches behind each other, (channel, row, column) each."""
    (rows, columns), side = out["target_sizes"][0], own.patch_size
    patches = out["pixel_values"][0].reshape(3, side, rows, columns, side)
    return np.asarray(patches.transpose(0, 2, 1, 3, 4).reshape(3, rows * side, columns * side))


PACKED: dict[str, Callable[[Any, Any], NDArray[Any]]] = {
    **dict.fromkeys(("Siglip2", "Lfm2Vl"), _siglip2),
    **dict.fromkeys(("Qwen2VL", "Glm4v", "Glm46V"), _qwen2_vl),
    "Cosmos3Edge": _cosmos3_edge,
    "Gemma4": _gemma4,
    "MiniCPMV4_6": _minicpmv4_6,
}
"""the classes that hand patches over -> what they return, and the processor, to [3, H, W]"""
BY_PIXELS = ("Qwen2VL", "Cosmos3Edge", "Glm4v", "Glm46V")
"""whose size is of pixels, not of sides: the other settings stand beside its default"""


def theirs(folder: Path, name: str, given: dict[str, Any], image: Image.Image) -> NDArray[Any]:
    """[3, H, W], of an image that is cut into tiles the whole one."""
    from transformers import AutoImageProcessor

    (folder / "preprocessor_config.json").write_text(json.dumps(given))
    auto: Any = AutoImageProcessor
    own = auto.from_pretrained(folder)
    out = own(image, return_tensors="np")
    values = out["pixel_values_images" if name == "VideoLlava" else "pixel_values"][0]
    if name in PACKED:
        values = PACKED[name](out, own)
    whole: NDArray[Any] = values[0] if in_tiles(name) else values
    return whole


def in_tiles(name: str) -> bool:
    return name in TILED or encoders.processors()[name].splits


def ours(name: str, given: dict[str, Any], image: Image.Image, size: tuple[int, int]) -> NDArray[Any]:
    if in_tiles(name):
        whole: NDArray[Any] = read_processor(given, size, 1).tiled(image)[0]
        return whole
    return read_processor(given, size)(image)


CELLS = [
    pytest.param(name, spelling, marks=() if (i + j) % 6 == 0 else pytest.mark.slow)
    for i, name in enumerate(NAMES)
    for j, spelling in enumerate(SPELLINGS)
]
"""each class with a sixth of the spellings, and each spelling with a sixth of the classes, in every run of the tests"""


@pytest.mark.parametrize(("name", "spelling"), CELLS)
def test_case_every_class_in_every_spelling_gives_the_pixels_of_transformers(
    name: str, spelling: str, tmp_path: Path
) -> None:
    if name in TORCHVISION:
        pytest.importorskip("torchvision")
    given = {"image_processor_type": f"{name}ImageProcessor", **SPELLINGS[spelling]}
    if name in BY_PIXELS:
        given.pop("size", None)
    if name == "Yolos":
        given.pop("pad_size", None)  # images are resized to the encoder's size, never padded to it
    if name in TILED:
        given["image_grid_pinpoints"] = [[24, 48], [48, 24]]
    if encoders.processors()[name].splits:
        given |= {"max_image_size": {"longest_edge": 24}, "do_image_splitting": False}
    any_size, expected = encoders.processors()[name].any_size, []
    for image in IMAGES:
        try:
            expected.append(theirs(tmp_path, name, given, image))
        except (ValueError, TypeError, AttributeError, KeyError):
            if not any_size:  # where it is the encoder's size that counts, not the file's
                with pytest.raises(ModelError):
                    ours(name, given, image, (24, 24))
            return
    sizes = {(one.shape[1], one.shape[2]) for one in expected}
    if not any_size and given.get("do_resize", True) and len(sizes) > 1:
        with pytest.raises(ModelError, match="would depend on the image"):
            ours(name, given, IMAGES[0], sizes.pop())
        return
    for image, wanted in zip(IMAGES, expected, strict=True):
        size = (wanted.shape[1], wanted.shape[2])
        try:
            np.testing.assert_array_equal(ours(name, given, image, size), wanted)
        except (ImageError, ModelError) as error:
            if not (says := refusal(name, spelling)) or not re.search(says, str(error)):
                raise


def test_every_setting_that_a_class_of_transformers_reads_is_declared() -> None:
    """So that a new one of a later release is seen, and not taken for one that changes no pixel."""
    for name, one in encoders.processors().items():
        own: Any = getattr(transformers, f"{name}ImageProcessorPil", None) or getattr(
            transformers, f"{name}ImageProcessor"
        )
        if name in TORCHVISION:
            continue
        unknown = set(own.valid_kwargs.__annotations__) - {*COMMON, *SILENT, *one.reads}
        assert not unknown, f"{name}: {unknown}"


@pytest.mark.parametrize(
    ("name", "model"), [(name, model) for name in NAMES for model in encoders.processors()[name].models]
)
def test_a_file_without_a_class_is_of_the_one_that_transformers_has_for_the_model(name: str, model: str) -> None:
    mapping: Any = vars(image_processing_auto)["IMAGE_PROCESSOR_MAPPING_NAMES"]
    if model in mapping:  # towers of their own are not there; theirs is that of the whole model
        assert f"{name}ImageProcessor" in mapping[model].values()
    assert settings_of({}, model).processor is encoders.processors()[name]


def test_every_model_type_of_every_family_has_a_class() -> None:
    declared = {model for one in encoders.processors().values() for model in one.models}
    assert declared == {
        model
        for family in encoders.families()
        for model in importlib.import_module(f"edgeprune.encoders.{family}").MODEL_TYPES
    }


def test_the_processor_that_is_nested_comes_before_the_file_beside_it(clip_folder: Any, tmp_path: Path) -> None:
    from transformers import AutoImageProcessor

    folder = clip_folder(tmp_path / "clip")
    nested = {"image_processor_type": "CLIPImageProcessor", "size": 30, "crop_size": 20}
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": nested}))
    auto: Any = AutoImageProcessor
    wanted = auto.from_pretrained(folder)(IMAGES[0], return_tensors="np")["pixel_values"][0]
    found = read_processor(open_checkpoint(str(folder)).processor, (20, 20))(IMAGES[0])
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("size", [(40, 57), (57, 40), (30, 30)])
def test_an_image_is_made_square_first_where_a_llava_says_do_pad(tmp_path: Path, size: tuple[int, int]) -> None:
    given = {"image_processor_type": "LlavaImageProcessor", "do_pad": True, "size": 24, "crop_size": 24}
    image = IMAGES[0].resize(size)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(given))
    steps = read_processor(given, (24, 24))
    np.testing.assert_array_equal(steps(image), theirs(tmp_path, "Llava", given, image))
    assert steps.to_json()["square"] == [122, 116, 104]
    assert Preprocessing.from_json(json.loads(json.dumps(steps.to_json()))) == steps
