"""An encoder as its two halves, from C as from Python: an image is encoded once, and asked often."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeprune import bundle as bundles
from edgeprune.bundle import ENCODE, ENCODER, MANIFEST, SELECT, Manifest, TensorSpec
from edgeprune.errors import EdgepruneError
from edgeprune.runtime import load
from edgeprune.runtime.halves import Halves
from tests.brightest import MakeBundle
from tests.cpp import library as c
from tests.cpp.library import CPU, Failure, Library
from tests.cpp.test_ports import drawn, ports

Arrays = dict[str, NDArray[Any]]
BATCHES = (1, 3, "images")


@pytest.fixture(scope="module")
def library(cpp: Path) -> Library:
    return Library(cpp)


@pytest.fixture
def halved(make_bundle: MakeBundle) -> MakeBundle:
    """make_bundle of the graph with a prior, which stands at 0.25 where none is given, and of its halves."""
    return lambda **options: make_bundle(prior=True, split=True, picks=True, ports=ports(0.25), **options)


def asked(library: Library, folder: Path, **options: Any) -> c.Handle:
    return library.open(folder, device=CPU, threads=1, split=1, **options)


def same(one: Mapping[str, NDArray[Any]], other: Mapping[str, NDArray[Any]]) -> bool:
    return one.keys() == other.keys() and all(value.tobytes() == other[name].tobytes() for name, value in one.items())


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize("batch", BATCHES)
def test_the_halves_give_the_bits_of_pythons_at_once_and_apart(
    batch: int | str, dtype: str, library: Library, halved: MakeBundle
) -> None:
    """Of as many images as there are, more or fewer than before; and an output that the pixels alone decide."""
    folder = halved(batch=batch, dtype=dtype, early=True)
    counts = [batch] if isinstance(batch, int) else [2, 1, 5]
    python = Halves(bundles.load(folder), "cpu", 1)
    with asked(library, folder) as handle:
        for count in counts:
            feeds = drawn(count, prior=(24,))
            if dtype == "uint8":
                dice = np.random.default_rng(count)
                feeds["pixel_values"] = dice.integers(0, 256, (count, 32, 48, 3), np.uint8)
            wanted, seen = python.run(feeds), handle.encode(feeds["pixel_values"])
            assert same(handle.run(feeds), wanted)
            assert same(handle.select(seen, {"prior": feeds["prior"]}, batch=count), wanted)
            assert same(handle.select(seen, {}, ["means"], count), {"means": wanted["means"]})


def test_images_are_asked_in_any_order_by_any_handle(library: Library, halved: MakeBundle) -> None:
    folder = halved()
    first, second = drawn(1, prior=(24,)), {name: 1 - value for name, value in drawn(1, prior=(24,)).items()}
    with asked(library, folder) as handle, asked(library, folder) as other, library.open(folder, threads=1) as whole:
        seen = [handle.encode(one["pixel_values"]) for one in (first, second)]
        for image, feeds in ((1, first), (0, second), (1, second), (0, first)):
            pixels = (first, second)[image]["pixel_values"]
            wanted = whole.run({"pixel_values": pixels, "prior": feeds["prior"]})
            assert same(other.select(seen[image], {"prior": feeds["prior"]}), wanted)


def test_what_is_left_out_is_what_the_manifest_says(library: Library, halved: MakeBundle) -> None:
    with asked(library, halved()) as handle:
        seen = handle.encode(drawn(1)["pixel_values"])
        left, said = handle.select(seen, {}), handle.select(seen, {"prior": np.full((1, 24), 0.25, np.float32)})
        assert same(left, said)
        assert same(handle.run(drawn(1)), said)


def test_a_handle_says_what_it_is(library: Library, halved: MakeBundle) -> None:
    folder = halved()
    with asked(library, folder) as handle, library.open(folder) as whole:
        assert handle.info().source == b"encode.onnx and select.onnx"
        assert whole.info().source == b"encoder.onnx"
        assert handle.info().seen_nbytes >= (24 + 24 * 3) * 4  # means and rows
        assert whole.info().seen_nbytes == 0
        for kind in ("input", "output"):
            assert list(handle.tensors(kind)) == list(whole.tensors(kind))


# --- refusals ---------------------------------------------------------------------------------------------------------


def refused(status: int, call: Any, *arguments: Any, **named: Any) -> str:
    with pytest.raises(Failure) as failure:
        call(*arguments, **named)
    assert failure.value.status == status
    assert len(str(failure.value).splitlines()) == 1
    return str(failure.value)


def test_a_bundle_of_one_graph_says_how_to_get_two_as_python_does(library: Library, make_bundle: MakeBundle) -> None:
    folder = make_bundle(prior=True)
    with load(folder, device="cpu") as python, pytest.raises(EdgepruneError) as expected:
        python.encode(np.zeros((32, 48, 3), np.uint8))
    assert refused(c.WRONG_REQUEST, asked, library, folder) == str(expected.value)


def test_what_cannot_be_opened_as_halves(library: Library, halved: MakeBundle) -> None:
    folder = halved(nested=True)
    said = refused(c.WRONG_REQUEST, asked, library, folder, keep=2)
    assert said.startswith("the halves keep all that the bundle keeps, got a budget of 2; open it without")
    said = refused(c.WRONG_REQUEST, library.open, folder, device=c.TENSORRT, split=1)
    assert said.startswith("the halves run in ONNX Runtime, on cpu or cuda, got device tensorrt")


def test_a_handle_of_the_whole_has_no_halves(library: Library, halved: MakeBundle) -> None:
    with library.open(halved(), device=CPU) as whole:
        for name, call in {
            "edgeprune_encode": lambda: whole.encode(drawn(1)["pixel_values"]),
            "edgeprune_select": lambda: whole.select(np.zeros(99, np.int64), {}),
        }.items():
            said = refused(c.WRONG_REQUEST, call)
            assert said.startswith(f"{name} needs a handle that was opened with `split`")


def test_what_does_not_fit_is_refused(library: Library, halved: MakeBundle) -> None:
    with asked(library, halved()) as handle:
        pixels = drawn(1)["pixel_values"]
        seen = handle.encode(pixels)
        assert "pixel_values must have 18432 bytes" in refused(c.WRONG_REQUEST, handle.encode, pixels[:, 1:].copy())
        nan = np.full_like(pixels, np.nan)
        assert "pixel_values must be finite" in refused(c.BAD_IMAGE, handle.encode, nan)
        assert "seen must have" in refused(c.WRONG_REQUEST, handle.select, seen[1:].copy(), {})
        odd = np.zeros(seen.nbytes + 1, np.uint8)[1:]
        assert "data of seen must be aligned to the 8 bytes" in refused(c.WRONG_REQUEST, handle.select, odd, {})
        for feeds, status, line in (
            ({"text": np.zeros(3, np.float32)}, c.WRONG_REQUEST, "no input text; it has prior, seen"),
            ({"prior": np.zeros((1, 23), np.float32)}, c.WRONG_REQUEST, "prior must have 96 bytes"),
            ({"prior": np.full((1, 24), np.inf, np.float32)}, c.BAD_IMAGE, "prior must be finite"),
            ({"seen": seen}, c.WRONG_REQUEST, "the input seen must be given once"),
        ):
            assert line in refused(status, handle.select, seen, feeds)
        over = c.buffers({"tokens": seen.view(np.uint8)[: 4 * 5 * 7]})
        status = handle.raw.edgeprune_select(handle.handle, seen.ctypes.data, seen.nbytes, None, 0, over, 1)
        assert status == c.WRONG_REQUEST
        assert "memory of its own, tokens and seen overlap" in handle.raw.edgeprune_error(handle.handle).decode()


def changed(folder: Path, half: str, **fields: Any) -> Path:
    """What the manifest says of a half, with a digest that is right."""
    manifest = Manifest.from_json((folder / MANIFEST).read_text())
    graphs = {**manifest.graphs, half: dataclasses.replace(manifest.graphs[half], **fields)}
    (folder / MANIFEST).write_text(dataclasses.replace(manifest, graphs=graphs).to_json())
    return folder


def test_halves_that_do_not_make_up_the_encoder_are_refused(library: Library, halved: MakeBundle) -> None:
    """Each is what its graph is, and the manifest says so."""
    graphs = Manifest.from_json((halved() / MANIFEST).read_text()).graphs
    encode, select, whole = (vars(graphs[name]) for name in (ENCODE, SELECT, ENCODER))
    fewer = {name: spec for name, spec in graphs[SELECT].outputs.items() if name != "tokens"}
    wider = {**graphs[ENCODE].outputs, "means": TensorSpec((1, 25), "float32")}
    for half, fields, line in (
        (ENCODE, select, "select.onnx must take pixel_values, it takes means, rows, prior"),
        (ENCODE, whole, "encoder.onnx and select.onnx do not make up the encoder: prior float32 [1, 24] has no place"),
        (SELECT, whole, "encode.onnx and encoder.onnx do not make up the encoder: pixel_values float32"),
        (SELECT, encode, "encode.onnx and encode.onnx do not make up the encoder: pixel_values float32"),
        (
            SELECT,
            {"outputs": fewer},
            "encode.onnx and select.onnx do not make up the encoder: tokens float32 [1, 5, 7]",
        ),
        (ENCODE, {"outputs": wider}, "means is float32 [1, 24] in encode.onnx, manifest.json says float32 [1, 25]"),
    ):
        assert line in refused(c.BAD_BUNDLE, asked, library, changed(halved(), half, **fields))
