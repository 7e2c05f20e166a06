from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgeprune import bundle as bundles
from edgeprune.bundle import TensorSpec
from edgeprune.errors import BundleError, ImageError, RequestError
from edgeprune.export.processor import read_processor
from edgeprune.runtime import Output, load

MakeBundle = Callable[..., Path]
Normalise = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
Expect = Callable[[NDArray[Any]], Output]
ROUNDING = 1e-5  # float32 means over 192 pixels, summed in another order


def images(count: int, height: int = 32, width: int = 48) -> NDArray[np.uint8]:
    return np.random.default_rng(count).integers(0, 256, (count, height, width, 3), np.uint8)


def assert_close(got: Output, wanted: Output, tolerance: float = ROUNDING) -> None:
    np.testing.assert_array_equal(got.indices, wanted.indices)
    np.testing.assert_allclose(got.scores, wanted.scores, atol=tolerance)
    np.testing.assert_allclose(got.tokens, wanted.tokens, atol=tolerance)


def test_pixel_values_give_tokens_indices_and_scores(
    make_bundle: MakeBundle, normalised: Normalise, expected: Expect
) -> None:
    encoder, values = load(make_bundle()), normalised(images(1))
    output = encoder(values)
    assert [(name, a.shape, a.dtype.name) for name, a in output.tensors().items()] == [
        ("tokens", (1, 5, 7), "float32"),
        ("indices", (1, 5), "int32"),
        ("scores", (1, 24), "float32"),
    ]
    assert_close(output, expected(values))


def test_the_encoder_says_what_it_is(make_bundle: MakeBundle) -> None:
    folder = make_bundle()
    for encoder in (load(folder), load(str(folder), threads=1)):
        assert (encoder.grid, encoder.keep, encoder.manifest.method) == ((4, 6), 5, "brightest")


def test_a_file_an_image_and_an_array_give_the_same(
    make_bundle: MakeBundle, normalised: Normalise, expected: Expect, tmp_path: Path
) -> None:
    encoder, array = load(make_bundle()), images(1)
    picture = Image.fromarray(array[0])
    picture.save(tmp_path / "a.png")
    for given in (tmp_path / "a.png", str(tmp_path / "a.png"), picture, array[0], array, [array[0]], (picture,)):
        assert_close(encoder(given), expected(normalised(array)))


def test_an_image_of_another_size_is_resized(make_bundle: MakeBundle, normalised: Normalise, expected: Expect) -> None:
    array = images(1, 99, 70)[0]
    resized = Image.fromarray(array).resize((48, 32), Image.Resampling.BICUBIC)
    assert_close(load(make_bundle())(array), expected(normalised(np.asarray(resized)[None])))


@pytest.mark.parametrize("batch", [3, "batch"])
def test_several_images_are_encoded_at_once(
    make_bundle: MakeBundle, normalised: Normalise, expected: Expect, batch: int | str
) -> None:
    encoder, array = load(make_bundle(batch=batch)), images(3)
    wanted = expected(normalised(array))
    for given in (list(array), tuple(Image.fromarray(one) for one in array), array, normalised(array)):
        assert_close(encoder(given), wanted)


@pytest.mark.parametrize("count", [4, 6, 7])
def test_more_images_than_a_fixed_batch_are_run_in_pieces(
    make_bundle: MakeBundle, normalised: Normalise, expected: Expect, count: int
) -> None:
    encoder, array = load(make_bundle(batch=3)), images(count)
    for given in (list(array), tuple(Image.fromarray(one) for one in array), array):
        assert_close(encoder(given), expected(normalised(array)))


@pytest.mark.parametrize("count", [1, 2, 0])
def test_fewer_images_than_a_fixed_batch_are_refused(make_bundle: MakeBundle, count: int) -> None:
    encoder = load(make_bundle(batch=3))
    for given in (list(images(count)), images(count)):
        with pytest.raises(ImageError, match=f"takes 3 images at a time, got {count}"):
            encoder(given)


def test_an_open_batch_takes_any_number_but_none(make_bundle: MakeBundle, normalised: Normalise) -> None:
    encoder = load(make_bundle(batch="batch"))
    assert [len(encoder(list(images(count))).indices) for count in (1, 2, 7)] == [1, 2, 7]
    nothing: tuple[Any, ...] = ([], images(0), normalised(images(0)))
    for given in nothing:
        with pytest.raises(ImageError):
            encoder(given)


def test_float32_pixels_are_cast_for_a_float16_graph(
    make_bundle: MakeBundle, normalised: Normalise, expected: Expect
) -> None:
    encoder, array = load(make_bundle(dtype="float16")), images(1)
    wanted = expected(normalised(array).astype(np.float16))
    for given in (normalised(array), normalised(array).astype(np.float16), array[0]):
        output = encoder(given)
        assert output.tokens.dtype == np.float16
        assert_close(output, wanted, tolerance=5e-3)


def test_a_uint8_graph_takes_pixels_of_its_size_as_they_are(
    make_bundle: MakeBundle, normalised: Normalise, expected: Expect
) -> None:
    encoder, array = load(make_bundle(dtype="uint8")), images(1)
    assert encoder.prepare(array) is array
    for given in (array, array[0], [array[0]], Image.fromarray(array[0])):
        assert_close(encoder(given), expected(normalised(array)))


def test_a_uint8_graph_takes_them_so_even_where_an_image_is_resized_and_cropped(make_bundle: MakeBundle) -> None:
    steps = read_processor({"size": {"height": 40, "width": 60}, "crop_size": [32, 48]}, (32, 48)).to_json()
    encoder, array = load(make_bundle(dtype="uint8", preprocessing=steps)), images(1)
    for given in (array, array[0], [array[0]]):
        np.testing.assert_array_equal(encoder.prepare(given), array)
    assert not np.array_equal(encoder.prepare(Image.fromarray(array[0])), array)


def test_a_uint8_graph_gets_other_images_resized(
    make_bundle: MakeBundle, normalised: Normalise, expected: Expect
) -> None:
    encoder, array = load(make_bundle(dtype="uint8")), images(1, 50, 50)
    resized = np.asarray(Image.fromarray(array[0]).resize((48, 32), Image.Resampling.BICUBIC))
    for given in (array, array[0], [array[0]]):
        assert_close(encoder(given), expected(normalised(resized[None])))


def test_pixel_values_pass_without_a_copy(make_bundle: MakeBundle, normalised: Normalise) -> None:
    values = normalised(images(1))
    assert load(make_bundle()).prepare(values) is values


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("float32", np.zeros((3, 32, 48), np.float32)),
        ("float32", np.zeros((2, 3, 32, 48), np.float32)),
        ("float32", np.zeros((1, 3, 48, 32), np.float32)),
        ("float32", np.zeros((1, 32, 48, 3), np.float32)),
        ("float32", np.zeros((1, 3, 32, 48), np.float64)),
        ("float32", np.zeros((1, 3, 32, 48), np.float16)),
        ("float32", np.zeros((1, 3, 32, 48), ">f4")),
        ("float16", np.zeros((1, 3, 32, 48), np.float64)),
        ("uint8", np.zeros((1, 32, 48, 3), np.float32)),
        ("float32", np.zeros((), np.float32)),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.dtype} {value.shape}",
)
def test_other_float_arrays_are_refused(make_bundle: MakeBundle, dtype: str, values: NDArray[Any]) -> None:
    with pytest.raises(ImageError, match="an array for this encoder must be") as refused:
        load(make_bundle(dtype=dtype))(values)
    assert f"got {values.dtype} {list(values.shape)}" in str(refused.value)


@pytest.mark.parametrize(
    "given", [None, 7, b"bytes", {}, np.zeros((1, 3, 32, 48), np.int64), [None]], ids=lambda given: type(given).__name__
)
def test_what_is_no_image_is_refused(make_bundle: MakeBundle, given: Any) -> None:
    with pytest.raises(ImageError):
        load(make_bundle())(given)


def test_four_threads_share_one_encoder(make_bundle: MakeBundle, normalised: Normalise, expected: Expect) -> None:
    encoder = load(make_bundle(), threads=1)
    batches = [normalised(images(1) ^ np.uint8(seed)) for seed in range(64)]
    with ThreadPoolExecutor(4) as pool:
        outputs = list(pool.map(encoder, batches * 4))
    for output, values in zip(outputs, batches * 4, strict=True):
        assert_close(output, expected(values))


def test_a_changed_graph_is_refused(make_bundle: MakeBundle) -> None:
    folder = make_bundle()
    with (folder / "encoder.onnx").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"!")
    with pytest.raises(BundleError, match=r"encoder\.onnx has changed"):
        load(folder)


TURNED = {
    "size": [48, 32], "resize": {"height": 48, "width": 32}, "resample": 3, "crop": None, "rescale": 1 / 255,
    "mean": [0.5] * 3, "std": [0.5] * 3, "convert_rgb": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "name", "spec", "more"),
    [("inputs", "pixel_values", TensorSpec((1, 3, 48, 32), "float32"), {"preprocessing": TURNED}),
     ("inputs", "pixel_values", TensorSpec((1, 3, 32, 48), "float16"), {}),
     ("inputs", "prior", TensorSpec((1, 24), "float32"), {}),
     ("outputs", "tokens", TensorSpec((1, 5, 7), "float16"), {}),
     ("outputs", "tokens", TensorSpec((1, 5, 8), "float32"), {}),
     ("outputs", "tokens", TensorSpec((1, 5, 6), "float32"), {})],
    ids=str,
)  # fmt: skip
def test_a_manifest_of_another_graph_is_refused(
    make_bundle: MakeBundle, kind: str, name: str, spec: TensorSpec, more: dict[str, Any]
) -> None:
    folder = make_bundle()
    manifest = bundles.load(folder).manifest
    changes: dict[str, Any] = {kind: {**getattr(manifest.encoder, kind), name: spec}}
    graph = replace(manifest.encoder, **changes)
    (folder / "manifest.json").write_text(replace(manifest, graphs={"encoder": graph}, **more).to_json())
    with pytest.raises(BundleError, match=rf"{name} is .* in encoder\.onnx, manifest\.json says"):
        load(folder)


def test_an_unknown_device_is_refused(make_bundle: MakeBundle) -> None:
    with pytest.raises(RequestError, match="tpu"):
        load(make_bundle(), device="tpu")
