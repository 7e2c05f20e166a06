"""Images of more than 8 bits: refused with what to say, and scaled as it is said; never made 8 bits in silence."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgeprune.errors import ImageError
from edgeprune.export.processor import read_processor
from edgeprune.probes import check_own, probes
from edgeprune.runtime.images.levels import scaled
from edgeprune.runtime.images.preprocess import as_rgb

RAMP = np.floor(np.linspace(0, 65535, 60 * 90)).reshape(60, 90)
DEEP: dict[str, NDArray[Any]] = {
    "I;16": RAMP.astype(np.uint16),
    "I;16B": RAMP.astype(">u2"),
    "I": RAMP.astype(np.int32),
    "F": (RAMP / 65535).astype(np.float32),
}
EIGHT = np.rint(RAMP / 65535 * 255).astype(np.uint8)
"""what each of them is of its full range"""
STEPS = read_processor({"size": [60, 90], "do_center_crop": False}, (60, 90))


def within(mode: str) -> tuple[float, float]:
    return (0, 1) if mode == "F" else (0, 65535)


def channels16(path: Path, values: NDArray[np.uint16]) -> None:
    """[H, W, 2 to 4] as a PNG of 16-bit channels (grey or colour, and alpha), which Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


@pytest.mark.parametrize("mode", DEEP)
def test_case_gray16_a_pillow_image_is_refused_with_its_range_and_scaled_as_it_is_said(mode: str) -> None:
    image = Image.fromarray(DEEP[mode])
    assert image.mode == mode
    extent = "0 to 1" if mode == "F" else "0 to 65535"
    with pytest.raises(ImageError, match=rf"must have 8-bit values, it has .*{mode}.*, of {extent}: .*--image-range"):
        STEPS.pixels(image)
    found = np.asarray(as_rgb(image, True, within(mode)))
    np.testing.assert_array_equal(found, np.repeat(EIGHT[..., None], 3, 2))
    np.testing.assert_array_equal(np.asarray(scaled(image, *within(mode))), found)


@pytest.mark.parametrize(("name", "mode"), [("a.png", "I;16"), ("a.tif", "I;16"), ("a.tif", "F"), ("a.tif", "I")])
def test_case_gray16_a_file_is_refused_by_its_name_and_scaled_as_it_is_said(
    tmp_path: Path, name: str, mode: str
) -> None:
    path = tmp_path / name
    Image.fromarray(DEEP[mode]).save(path)
    with pytest.raises(ImageError, match=rf"{name} has .*: say what is black and white by --image-range") as refused:
        STEPS(path)
    assert "\n" not in str(refused.value)
    found = np.asarray(as_rgb(path, False, within(mode)))
    np.testing.assert_array_equal(found, np.repeat(EIGHT[..., None], 3, 2))
    assert STEPS(as_rgb(path, False, within(mode))).shape == (3, 60, 90)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32, np.float64, np.int8])
@pytest.mark.parametrize("shape", [(60, 90), (60, 90, 1), (60, 90, 3)], ids=str)
def test_case_gray16_an_array_is_refused_and_scaled_as_it_is_said(dtype: Any, shape: tuple[int, ...]) -> None:
    high = 100 if dtype == np.int8 else 4000
    values = np.broadcast_to(np.linspace(0, high, 90).astype(dtype).reshape(1, 90, *[1] * (len(shape) - 2)), shape)
    with pytest.raises(ImageError, match=rf"uint8 \[height, width, 3\]; got {np.dtype(dtype)} .*--image-range"):
        as_rgb(values, True)
    found = np.asarray(as_rgb(values, True, (0, high)))
    expected = np.rint(values.astype(np.float64).reshape(60, 90, -1) / high * 255)
    np.testing.assert_array_equal(found, np.broadcast_to(expected, (60, 90, 3)))


def test_values_beyond_the_range_are_black_and_white() -> None:
    found = np.asarray(scaled(np.array([[-np.inf, 5.0, 10, 15, 20, np.inf]]), 10, 20))
    assert found[0, :, 0].tolist() == [0, 0, 0, 128, 255, 255]


@pytest.mark.parametrize(("channels", "mode"), [(2, "RGBA"), (3, "RGB"), (4, "RGBA")])
def test_sixteen_bit_channels_of_which_pillow_drops_a_byte_are_refused(
    tmp_path: Path, channels: int, mode: str
) -> None:
    path, values = tmp_path / "a.png", np.random.default_rng(0).integers(0, 65536, (6, 9, channels), np.uint16)
    channels16(path, values)
    assert Image.open(path).mode == mode
    for given in (path, Image.open(path)):
        with pytest.raises(ImageError, match="has 16-bit channels: say what is black and white by --image-range"):
            as_rgb(given, True)
        with pytest.raises(ImageError, match="higher bytes alone: --image-range must be 0 65535, got 0 4095"):
            as_rgb(Image.open(path) if given != path else path, True, (0, 4095))
    colour = values[:, :, : channels - (channels != 3)]  # a file's alpha is dropped
    np.testing.assert_array_equal(np.asarray(as_rgb(path, True, (0, 65535))), np.broadcast_to(colour >> 8, (6, 9, 3)))


def test_an_image_of_8_bits_is_as_it_is_whatever_the_range(tmp_path: Path) -> None:
    Image.fromarray(EIGHT).save(tmp_path / "a.png")
    for given in (tmp_path / "a.png", Image.fromarray(EIGHT)):
        np.testing.assert_array_equal(np.asarray(as_rgb(given, True, (0, 10)))[..., 0], EIGHT)


@pytest.mark.parametrize(
    ("values", "within", "says"),
    [
        (RAMP, (5, 5), "two numbers, the lower first, got 5 5"),
        (RAMP, (0, float("inf")), "two numbers"),
        (np.full((4, 4), np.nan), (0, 1), "some of this one are NaN"),
        (RAMP[None, None], (0, 1), r"numbers \[height, width\]"),
        (RAMP > 3, (0, 1), "got bool"),
    ],
    ids=["empty", "open", "no number", "4 axes", "bool"],
)
def test_what_cannot_be_scaled_is_refused(values: NDArray[Any], within: tuple[float, float], says: str) -> None:
    with pytest.raises(ImageError, match=says):
        scaled(values, *within)


def test_probes_of_ones_own_are_scaled_as_it_is_said(tmp_path: Path) -> None:
    Image.fromarray(DEEP["I;16"]).save(tmp_path / "thermal.png")
    with pytest.raises(ImageError, match=r"thermal\.png has more than 8-bit values"):
        probes((48, 48), tmp_path)
    with pytest.raises(ImageError, match=r"thermal\.png has more than 8-bit values"):
        check_own(tmp_path)
    check_own(tmp_path, (0, 65535))
    found = probes((48, 48), tmp_path, (0, 65535))["own-thermal"]
    np.testing.assert_array_equal(np.asarray(found)[..., 0], EIGHT)
