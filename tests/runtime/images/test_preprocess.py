"""The oracle is transformers' own PIL image processor, given the same image or the same file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgeprune.errors import BundleError, ImageError, ModelError
from edgeprune.export.processor import read_processor
from edgeprune.runtime.images.preprocess import Preprocessing

transformers = pytest.importorskip("transformers")
clip = pytest.importorskip("transformers.models.clip.image_processing_pil_clip")
siglip = pytest.importorskip("transformers.models.siglip.image_processing_pil_siglip")
vit = pytest.importorskip("transformers.models.vit.image_processing_pil_vit")
bit = pytest.importorskip("transformers.models.bit.image_processing_pil_bit")
deit = pytest.importorskip("transformers.models.deit.image_processing_pil_deit")
onevision = pytest.importorskip("transformers.models.llava_onevision.image_processing_pil_llava_onevision")

CLIP = {"size": {"shortest_edge": 24}, "crop_size": {"height": 24, "width": 24}}
SQUASH = {"size": {"height": 20, "width": 30}, "do_center_crop": False}
PADDED = {"size": {"shortest_edge": 13}, "crop_size": {"height": 24, "width": 31}}
SIZES = [(24, 24), (1, 1), (1, 1000), (1000, 1), (7, 5), (23, 25), (480, 640), (641, 479), (25, 1200), (33, 34)]
MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"]


def picture(height: int, width: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    random = np.random.default_rng(seed)
    rgba = Image.fromarray(random.integers(0, 256, (height, width, 4), np.uint8), "RGBA")
    return (
        rgba.convert("P").convert("PA")
        if mode == "PA"
        else rgba
        if mode == "RGBA"
        else rgba.convert("RGB").convert(mode)
    )


def theirs(image: Any, config: dict[str, Any]) -> NDArray[np.float32]:
    values: NDArray[np.float32] = clip.CLIPImageProcessorPil(**config)(image, return_tensors="np")["pixel_values"][0]
    return values


def ours(config: dict[str, Any]) -> Preprocessing:
    crop = config.get("crop_size") if config.get("do_center_crop", True) else config["size"]
    assert isinstance(crop, dict)
    return read_processor(config, (crop["height"], crop["width"]))


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
@pytest.mark.parametrize("config", [CLIP, SQUASH, PADDED], ids=["shortest edge and crop", "squash", "crop pads"])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_every_size_gives_the_bits_of_transformers(config: dict[str, Any], size: tuple[int, int]) -> None:
    image = picture(*size)
    values = ours(config)(image)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, theirs(image, config))


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_of_pillow_gives_the_bits_of_transformers(mode: str) -> None:
    image = picture(40, 50, mode)
    assert image.mode == mode
    np.testing.assert_array_equal(ours(CLIP)(image), theirs(image, CLIP))


@pytest.mark.parametrize("resample", range(6))
def test_every_filter_gives_the_bits_of_transformers(resample: int) -> None:
    config, image = {**SQUASH, "resample": resample}, picture(57, 43)
    np.testing.assert_array_equal(ours(config)(image), theirs(image, config))


@pytest.mark.parametrize(
    "switch",
    [
        {"do_rescale": False},
        {"do_normalize": False},
        {"rescale_factor": 1 / 127.5},
        {"image_mean": 0.5, "image_std": 0.25},
    ],
    ids=str,
)
def test_every_switch_means_what_it_means_in_transformers(switch: dict[str, Any]) -> None:
    config, image = {**CLIP, **switch}, picture(50, 40)
    np.testing.assert_array_equal(ours(config)(image), theirs(image, config))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA"])
def test_a_png_file_is_read_as_transformers_reads_it(tmp_path: Path, mode: str) -> None:
    picture(40, 50, mode).save(tmp_path / "a.png")
    expected = theirs(str(tmp_path / "a.png"), CLIP)
    np.testing.assert_array_equal(ours(CLIP)(tmp_path / "a.png"), expected)
    np.testing.assert_array_equal(ours(CLIP)(str(tmp_path / "a.png")), expected)


def test_a_palette_with_a_transparent_colour_is_laid_on_white() -> None:
    image = picture(40, 50, "P")
    image.info["transparency"] = 3
    np.testing.assert_array_equal(ours(CLIP)(image), theirs(image, CLIP))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_upright_by_its_exif(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture(40, 60).save(tmp_path / "a.jpg", exif=exif)
    np.testing.assert_array_equal(ours(CLIP)(tmp_path / "a.jpg"), theirs(str(tmp_path / "a.jpg"), CLIP))


def test_an_array_equals_the_image_made_of_it() -> None:
    image = picture(40, 60)
    np.testing.assert_array_equal(ours(CLIP)(np.asarray(image)), ours(CLIP)(image))
    mirrored = np.asarray(image)[:, ::-1]
    np.testing.assert_array_equal(ours(CLIP)(mirrored), ours(CLIP)(np.ascontiguousarray(mirrored)))


def test_pixels_are_the_image_before_normalisation() -> None:
    image, preprocessing = picture(40, 60), ours(CLIP)
    pixels = preprocessing.pixels(image)
    assert (pixels.dtype.name, pixels.shape) == ("uint8", (24, 24, 3))
    raw = theirs(image, {**CLIP, "do_normalize": False, "do_rescale": False})
    np.testing.assert_array_equal(pixels.transpose(2, 0, 1), raw)


def test_what_a_file_leaves_out_is_the_default_of_clip() -> None:
    image = picture(300, 250)
    np.testing.assert_array_equal(read_processor({}, (224, 224))(image), theirs(image, {}))


@pytest.mark.parametrize(
    "nulls",
    [["do_center_crop", "crop_size"], ["do_rescale", "rescale_factor"], ["do_normalize", "image_mean"]],
    ids=str,
)
def test_null_switches_a_step_off_as_in_transformers(nulls: list[str]) -> None:
    config: dict[str, Any] = {"size": {"height": 24, "width": 24}, "crop_size": 24, **dict.fromkeys(nulls)}
    image = picture(50, 40)
    np.testing.assert_array_equal(read_processor(config, (24, 24))(image), theirs(image, config))


@pytest.mark.parametrize(
    ("name", "processor"),
    [
        ("SiglipImageProcessor", siglip.SiglipImageProcessorPil),
        ("SiglipImageProcessorFast", siglip.SiglipImageProcessorPil),
        ("ViTImageProcessor", vit.ViTImageProcessorPil),
        ("BitImageProcessor", bit.BitImageProcessorPil),
        ("DeiTFeatureExtractor", deit.DeiTImageProcessorPil),
    ],
)
def test_what_a_file_leaves_out_is_the_default_of_its_class(name: str, processor: Any) -> None:
    image = picture(300, 250)
    expected = processor()(image, return_tensors="np")["pixel_values"][0]
    np.testing.assert_array_equal(read_processor({"image_processor_type": name}, (224, 224))(image), expected)


def test_a_deit_file_of_the_hubs_first_years_is_read() -> None:
    config: dict[str, Any] = {"size": 256, "crop_size": 224, "resample": 3, "do_resize": True, "do_center_crop": True}
    image = picture(300, 250)
    expected = deit.DeiTImageProcessorPil(**config)(image, return_tensors="np")["pixel_values"][0]
    config["feature_extractor_type"] = "DeiTFeatureExtractor"
    np.testing.assert_array_equal(read_processor(config, (224, 224))(image), expected)


def test_llava_onevision_takes_the_steps_of_its_first_tile() -> None:
    image = picture(300, 250)
    expected = onevision.LlavaOnevisionImageProcessorPil()(image, return_tensors="np")["pixel_values"][0][0]
    config = {"image_processor_type": "LlavaOnevisionImageProcessor", "do_pad": True}
    np.testing.assert_array_equal(read_processor(config, (384, 384))(image), expected)


@pytest.mark.parametrize(
    "spelling",
    [
        {"size": 24, "crop_size": 24, "feature_extractor_type": "CLIPFeatureExtractor"},
        {"size": 24, "crop_size": [24, 24], "do_pad": None},
        {"image_processor": {**CLIP, "image_processor_type": "CLIPImageProcessor"}, "image_token": "<image>"},
        {**CLIP, "image_processor_type": "LlavaNextImageProcessor", "do_pad": True},
        {
            **CLIP,
            "image_processor_type": "CLIPImageProcessorFast",
            "do_pad": False,
            "size": {**CLIP["size"], "longest_edge": None},
        },
    ],
    ids=["integers", "list", "transformers 5", "llava-next", "fast"],
)
def test_old_and_new_spellings_are_the_same_steps(spelling: dict[str, Any]) -> None:
    assert read_processor(spelling, (24, 24)) == read_processor(CLIP, (24, 24))


def test_what_transformers_saves_is_read_back(tmp_path: Path) -> None:
    clip.CLIPImageProcessorPil(**PADDED).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert read_processor(saved, (24, 31)) == ours(PADDED)


@pytest.mark.parametrize("size", [(30, 50), (50, 30), (9, 200)], ids=str)
def test_zeros_around_a_normalised_image_are_those_of_transformers(size: tuple[int, int]) -> None:
    config = {"size": {"max_height": 24, "max_width": 32}, "do_center_crop": False, "do_pad": True}
    config["pad_size"] = {"height": 24, "width": 32}
    steps, image = read_processor(config, (24, 32)), picture(*size)
    np.testing.assert_array_equal(steps(image), theirs(image, config))
    assert Preprocessing.from_json(json.loads(json.dumps(steps.to_json()))) == steps
    ground = (np.array(steps.pixels(image)[-1, -1]) / 255 - steps.mean) / steps.std  # of a graph that takes bytes
    assert np.abs(ground).max() < 0.5 / 255 / min(steps.std) + 1e-6


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ({**CLIP, "do_pad": True, "pad_size": 48}, "pads images to 48x48, the encoder takes 24x24"),
        ({**CLIP, "image_processor_type": "OwnImageProcessor", "crop_pct": 0.9}, "is told crop_pct"),
        ({**CLIP, "size": {"longest_edge": 48}}, "longest_edge"),
        ({**CLIP, "size": {"min_pixels": 24, "max_pixels": 48}}, "max_pixels"),
        ({**CLIP, "crop_size": {"shortest_edge": 24}}, "crop_size"),
        ({**CLIP, "do_center_crop": False}, "needs a crop"),
        ({**CLIP, "crop_size": 25}, "25x25"),
        ({**CLIP, "size": "large"}, "cannot be used"),
        ({**CLIP, "image_std": [1, 0, 1]}, "std"),
        ({**CLIP, "image_mean": [1, 0]}, "cannot be used"),
        ({**CLIP, "resample": 9}, "resample"),
        ({**CLIP, "rescale_factor": None}, "rescale_factor is null"),
        ({"image_processor_type": "OwnImageProcessor", "do_resize": True, "size": 24}, "OwnImageProcessor"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_steps_that_this_runtime_does_not_take_are_refused(config: dict[str, Any], names: str) -> None:
    with pytest.raises(ModelError, match=names) as refused:
        read_processor(config, (24, 24))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("config", [CLIP, SQUASH, PADDED], ids=["crop", "squash", "pads"])
def test_the_manifest_keeps_all_of_it(config: dict[str, Any]) -> None:
    preprocessing = ours(config)
    assert Preprocessing.from_json(json.loads(json.dumps(preprocessing.to_json()))) == preprocessing


@pytest.mark.parametrize(
    "change",
    [{"size": [24]}, {"mean": None}, {"std": "abc"}, {"resample": None}, {"resize": 3}, {"crop": [1, 2, 3]}],
    ids=str,
)
def test_a_wrong_field_in_the_manifest_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match="preprocessing is wrong"):
        Preprocessing.from_json({**ours(CLIP).to_json(), **change})
    without = ours(CLIP).to_json()
    del without[next(iter(change))]
    with pytest.raises(BundleError, match="preprocessing is wrong"):
        Preprocessing.from_json(without)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((24, 24), np.uint8),
        np.zeros((24, 24, 4), np.uint8),
        np.zeros((3, 24, 24), np.uint8),
        np.zeros((0, 24, 3), np.uint8),
        np.zeros((24, 24, 3), np.float32),
        np.zeros((24, 24, 3), np.int64),
        np.zeros((1, 24, 24, 3), np.uint8),
    ],
    ids=lambda array: f"{array.dtype} {array.shape}",
)
def test_another_array_is_refused_and_the_message_says_what_it_was(array: NDArray[Any]) -> None:
    with pytest.raises(ImageError, match=r"uint8 \[height, width, 3\]") as refused:
        ours(CLIP)(array)
    assert f"{array.dtype} {list(array.shape)}" in str(refused.value)


@pytest.mark.parametrize("thing", [None, 3, b"bytes", [1, 2]], ids=str)
def test_what_is_no_image_is_refused(thing: Any) -> None:
    with pytest.raises(ImageError, match=type(thing).__name__):
        ours(CLIP)(thing)


def test_files_that_cannot_be_read_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    picture(200, 200).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:4000])
    (tmp_path / "empty.jpg").touch()
    for name in ("missing.png", "text.png", "half.png", "empty.jpg", "."):
        with pytest.raises(ImageError) as refused:
            ours(CLIP)(tmp_path / name)
        assert str(tmp_path / name) in str(refused.value)
        assert "\n" not in str(refused.value)


def test_an_image_without_pixels_is_refused() -> None:
    with pytest.raises(ImageError, match="at least one pixel"):
        ours(CLIP)(Image.new("RGB", (0, 5)))


def test_a_line_that_would_grow_beyond_memory_is_refused() -> None:
    with pytest.raises(ImageError, match="long and thin"):
        read_processor({}, (224, 224))(Image.new("RGB", (1, 60_000)))


@pytest.mark.slow
def test_a_line_whose_square_would_grow_beyond_memory_is_refused() -> None:
    square = replace(ours(CLIP), square=(0, 0, 0))
    assert square(Image.new("RGB", (1, 11_000))).shape == (3, 24, 24)
    with pytest.raises(ImageError, match="1x20000 would grow to 20000x20000 pixels when it is made square"):
        square(Image.new("RGB", (1, 20_000)))


def test_without_a_resize_only_the_exact_size_is_taken() -> None:
    config = {"do_resize": False, "do_center_crop": False}
    preprocessing, image = read_processor(config, (24, 30)), picture(24, 30)
    np.testing.assert_array_equal(preprocessing(image), theirs(image, config))
    with pytest.raises(ImageError, match=r"24x30.*30x24"):
        preprocessing(picture(30, 24))


def test_a_processor_that_does_not_convert_takes_rgb_only() -> None:
    preprocessing = ours({**CLIP, "do_convert_rgb": False})
    with pytest.raises(ImageError, match=r"RGB.*got L"):
        preprocessing(picture(24, 24, "L"))
    np.testing.assert_array_equal(preprocessing(picture(24, 24)), ours(CLIP)(picture(24, 24)))
