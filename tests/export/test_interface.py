"""The page's words on inputs and outputs: a program in another language that follows them gives the graph the same."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgeprune import bundle as bundles
from edgeprune.bundle import Graph, Manifest, TensorSpec
from edgeprune.export import interface
from edgeprune.export.processor import read_processor
from edgeprune.runtime import Preprocessing
from edgeprune.runtime.images.resize import TORCH
from edgeprune.runtime.images.tiles import Tiles

MakeBundle = Callable[..., Path]
CLIP = read_processor({"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 48}}, (32, 48))


@pytest.fixture
def manifest(make_bundle: MakeBundle) -> Callable[..., Manifest]:
    """(**fields) -> the manifest of a bundle that encodes."""

    def make(**fields: Any) -> Manifest:
        return bundles.load(make_bundle(**fields)).manifest

    return make


def numbers(text: str, before: str, count: int) -> list[float]:
    """The figures behind a word."""
    return [float(one) for one in re.findall(r"-?[\d.]+(?:e-?\d+)?", text.partition(before)[2])[:count]]


def test_who_follows_the_steps_gives_the_graph_the_same_pixels(
    manifest: Callable[..., Manifest], photo: NDArray[np.uint8]
) -> None:
    """The numbers are taken from the words."""
    steps = interface.inputs(manifest(preprocessing=CLIP.to_json()))
    assert [step.split()[0] for step in steps] == ["Decode", "Resize", "Cut", "For", "That"]
    _, resize, cut, formula, layout = steps
    image, short = Image.fromarray(photo), int(numbers(resize, "shorter side of", 1)[0])
    assert "bicubic" in resize
    longer = int(short * max(image.size) / min(image.size))
    image = image.resize((longer, short), Image.Resampling.BICUBIC)  # it is wider than high
    height, width = (int(one) for one in re.findall(r"(\d+)x(\d+)", cut)[0])
    left, top = (image.width - width) // 2, (image.height - height) // 2
    values = np.asarray(image)[top : top + height, left : left + width].astype(np.float32)
    (scale,) = numbers(formula, "value /", 1)
    mean, std = (np.array(numbers(formula, word, 3), np.float32) for word in (" mean ", " std "))
    assert layout.startswith("That is `pixel_values` [1, 3, 32, 48] float32, channels first")
    got = ((values / np.float32(scale) - mean) / std).transpose(2, 0, 1)
    np.testing.assert_allclose(got, CLIP(photo), atol=1e-5)


def test_a_graph_that_normalises_is_given_bytes(manifest: Callable[..., Manifest]) -> None:
    steps = interface.inputs(manifest(dtype="uint8"))
    assert steps[-1] == "That is `pixel_values` [1, 32, 48, 3] uint8, channels last; the graph normalises."
    assert not [step for step in steps if "mean" in step]


def test_an_image_of_the_right_size_is_asked_for_where_nothing_resizes(manifest: Callable[..., Manifest]) -> None:
    plain = dataclasses.replace(CLIP, resize=None, crop=None)
    assert "It must have 32x48 (height x width) pixels." in interface.inputs(manifest(preprocessing=plain.to_json()))


def test_it_is_said_whose_resize_it_is(manifest: Callable[..., Manifest]) -> None:
    torchs = dataclasses.replace(CLIP, resizer=TORCH)
    for steps, says in (
        (CLIP, "Pillow's bicubic filter, on 8 bits. It"),
        (torchs, "torch's antialiased bicubic filter"),
    ):
        assert says in interface.inputs(manifest(preprocessing=steps.to_json()))[1]


def test_tiles_are_said(manifest: Callable[..., Manifest]) -> None:
    tiled = Preprocessing(
        (32, 32),
        {"height": 32, "width": 32},
        3,
        None,
        1 / 255,
        CLIP.mean,
        CLIP.std,
        True,
        Tiles(3, 32, ((32, 64), (64, 32))),
    )
    steps = interface.inputs(dataclasses.replace(manifest(batch=3), preprocessing=tiled.to_json()))
    assert steps[1].startswith("Cut it into 3 tiles of 32x32 (height x width), the whole image squeezed into the first")
    parts = dataclasses.replace(tiled, tiles=Tiles(2, 32, ((32, 64), (64, 32)), squeezed=True, whole=False))
    steps = interface.inputs(dataclasses.replace(manifest(batch=2), preprocessing=parts.to_json()))
    assert steps[1].startswith("Cut it into 2 tiles of 32x32 (height x width), the whole image not among them: how")


def test_an_image_that_is_fitted_and_padded_is_said(manifest: Callable[..., Manifest]) -> None:
    padded = dataclasses.replace(CLIP, resize={"max_height": 32, "max_width": 48}, crop=None, pad=True)
    steps = interface.inputs(manifest(preprocessing=padded.to_json()))
    assert steps[1].startswith("Resize it to fit 32x48 (height x width), in its proportions, sides rounded down")
    assert steps[2] == (
        "Put it into the upper left corner of 32x48 (height x width); what is left is 0 behind the step below."
    )


def said(manifest: Manifest) -> dict[str, str]:
    return {line.split("`")[1]: line for line in interface.outputs(manifest)}


def test_the_prompt_has_as_many_placeholders_as_there_are_tokens(manifest: Callable[..., Manifest]) -> None:
    assert "the prompt must hold exactly 5 image placeholders, not 24" in said(manifest())["tokens"]


@pytest.mark.parametrize(("shape", "placeholders"), [((3, 5, 7), 15), ((1, 5, 7), 5)], ids=["of each tile", "one pool"])
def test_of_an_image_in_tiles_all_count(
    manifest: Callable[..., Manifest], shape: tuple[int, ...], placeholders: int
) -> None:
    one = manifest(batch=3, layout="tiles: the whole image first")
    outputs = {**one.outputs, "tokens": TensorSpec(shape, "float32")}
    tiled = dataclasses.replace(
        one,
        graphs={"encoder": Graph("encoder.onnx", one.inputs, outputs)},
        preprocessing={**one.preprocessing, "tiles": {}},
    )
    words = said(tiled)["tokens"]
    assert f"exactly {placeholders} image placeholders, not 72" in words
    assert words.endswith("Their layout: tiles: the whole image first.")


def test_scores_of_a_greedy_method_are_no_ranking(manifest: Callable[..., Manifest]) -> None:
    greedy = dataclasses.replace(manifest(), rule={"name": "greedy", "objective": "max-min"})
    assert "for every other one -inf" in said(greedy)["scores"]
    assert "higher is kept" in said(manifest())["scores"]


def test_only_what_the_graph_gives_is_said_in_its_order(manifest: Callable[..., Manifest]) -> None:
    assert list(said(manifest(picks=True))) == ["tokens", "indices", "scores", "picks"]
    assert list(said(manifest())) == ["tokens", "indices", "scores"]


def test_a_detector_gives_boxes_in_shares_of_the_image(manifest: Callable[..., Manifest]) -> None:
    one = manifest()
    outputs = {"logits": TensorSpec((1, 5, 4), "float32"), "pred_boxes": TensorSpec((1, 5, 4), "float32")}
    detector = dataclasses.replace(
        one, graphs={"encoder": Graph("encoder.onnx", one.inputs, outputs)}, labels=("cat", "dog", "bird")
    )
    assert "of its 3 classes and, last, of no object" in said(detector)["logits"]
    assert "in shares of the image" in said(detector)["pred_boxes"]


def test_who_follows_the_steps_gives_every_frame_what_the_one_before_left(manifest: Callable[..., Manifest]) -> None:
    own = manifest(video=True)
    before = [step for step in interface.inputs(own) if step.startswith("The frame before")]
    assert len(before) == 1
    given, left = re.findall(r"`((?:state|next)\.\d\S+)`", before[0])
    assert given in own.inputs
    assert left in own.outputs
    assert not any("frame before" in step for step in interface.inputs(manifest()))
