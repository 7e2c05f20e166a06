"""What a manifest may say: its form, its digest, and what of it must agree."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeprune import bundle
from edgeprune.bundle import MANIFEST, Graph, Manifest, TensorSpec, load
from edgeprune.bundle.manifest import digest
from edgeprune.errors import BundleError

Make = Callable[..., Manifest]
Change = Callable[[dict[str, Any]], object]
Edit = Callable[[Path, Change], None]
Refusal = Callable[[Path], str]

MUST = sorted(
    field.name
    for field in dataclasses.fields(Manifest)
    if field.default is field.default_factory is dataclasses.MISSING
)


def test_a_manifest_survives_the_way_through_json(manifest: Make) -> None:
    files = {"encoder.onnx": bundle.File(1, "f")}
    for one in (manifest(), manifest(files=files), manifest(deviations=(), options={}, labels=("cat", "Ä"))):
        assert Manifest.from_json(one.to_json()) == one


def test_a_manifest_counts_its_patches_and_knows_a_free_batch(manifest: Make) -> None:
    assert (manifest().patches, manifest().dynamic_batch) == (24, True)
    specs = {"pixel_values": TensorSpec((1, 3, 32, 48), "float32")}
    assert not manifest(inputs=specs).dynamic_batch


def test_baselines_are_the_graphs_of_that_name(manifest: Make) -> None:
    pool = Graph("pooled.onnx", {}, {})
    assert manifest(baselines={"baseline.pool": pool, "decoder": pool}).baselines == {"pool": "pooled.onnx"}


# The form.


@pytest.mark.parametrize("version", ["2.0", "2.7", "2.0.3"])
def test_a_newer_minor_with_fields_that_are_not_known_loads(folder: Path, edit: Edit, version: str) -> None:
    def change(given: dict[str, Any]) -> None:
        given |= {"schema_version": version, "mood": "good"}
        given["model"]["licence"] = "MIT"
        given["files"]["encoder.onnx"]["crc"] = 7
        given["graphs"]["encoder"]["inputs"]["pixel_values"]["layout"] = "NCHW"

    edit(folder, change)
    assert load(folder).manifest.keep == 5


@pytest.mark.parametrize("version", ["3.0", "0.9", "11.0", "20", "x", "", None, 2, "3.0\nand more"])
def test_an_unknown_major_is_refused(folder: Path, edit: Edit, refusal: Refusal, version: object) -> None:
    edit(folder, lambda given: given.update(schema_version=version))
    assert "manifest.json has schema" in refusal(folder)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"7", b"null", b'"schema_version"', b"{}", b'{"schema": 1}', b"[" * 100_000, b"\x00",
     b'{"schema_version": "2.0", "schema_version": "2.0"}', b'{"schema_version": "2.0", "a": NaN}',
     b'{"schema_version": "2.0", "a": -Infinity}', b'{"schema_version": "2.0", "a": 1e999}',
     b'{"schema_version": "2.0", "a": "\\ud800"}', b'{"schema_version": "2.0", "\\udfff": 1}',
     b'{"schema_version": "2.0", "a": 9223372036854775808}', b'{"schema_version": "2.0", "a": 1' + b"0" * 5000 + b"}"],
    ids=lambda text: repr(text[:40]),
)  # fmt: skip
def test_a_garbled_manifest_is_refused(folder: Path, refusal: Refusal, text: bytes) -> None:
    (folder / MANIFEST).write_bytes(text)
    assert "manifest.json must be a JSON object with a schema_version" in refusal(folder)


def test_what_is_nested_too_deeply_is_refused(folder: Path, edit: Edit, refusal: Refusal) -> None:
    edit(folder, lambda given: given["options"].update(deep=json.loads("[" * 254 + "]" * 254)))
    assert load(folder).manifest.keep == 5
    edit(folder, lambda given: given["options"].update(deep=json.loads("[" * 255 + "]" * 255)))
    assert "manifest.json is nested too deeply; export the bundle again" in refusal(folder)


@pytest.mark.parametrize("field", MUST)
def test_a_missing_field_is_named(folder: Path, edit: Edit, refusal: Refusal, field: str) -> None:
    edit(folder, lambda given: given.pop(field))
    assert f"manifest.json: {field} must be given;" in refusal(folder)


def test_a_missing_field_of_a_part_is_named(folder: Path, edit: Edit, refusal: Refusal) -> None:
    edit(folder, lambda given: given["model"].pop("family"))
    assert "model.family must be given;" in refusal(folder)


def encoder(given: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = given["graphs"]["encoder"]
    return found


BOUNDS = {"regret": 0.01, "token_median": 0.05, "token_each": 0.15}


def quantised(precision: str = "int8", **changes: Any) -> Change:
    """A graph whose products have fewer bits."""
    said = {"scheme": "int8", "bounds": BOUNDS, "session": {"cpu": {"disable": ["MatMulAddFusion"]}}, **changes}
    return lambda given: given.update(precision=precision, quantised=said)


WRONG: dict[str, Change] = {
    "method must be a string, got 7": lambda given: given.update(method=7),
    "keep must be an integer, got '5'": lambda given: given.update(keep="5"),
    "keep must be an integer, got True": lambda given: given.update(keep=True),
    "nested must be true or false, got 1": lambda given: given.update(nested=1),
    "tiles must be an integer, got 1.5": lambda given: given.update(tiles=1.5),
    "grid must be an array of 2, got 'a'": lambda given: given.update(grid="a"),
    "grid must be an array of 2, got '46'": lambda given: given.update(grid="46"),
    "grid must be an array of 2, got [4, 6, 1]": lambda given: given.update(grid=[4, 6, 1]),
    "grid[1] must be an integer, got None": lambda given: given.update(grid=[4, None]),
    "steps[1] must be an array of 2, got [3]": lambda given: given.update(steps=[[2, 12], [3]]),
    "model must be an object, got 'x'": lambda given: given.update(model="x"),
    "model.layer must be an integer, got '3'": lambda given: given["model"].update(layer="3"),
    "files must be an object, got []": lambda given: given.update(files=[]),
    "files['encoder.onnx'] must be an object, got 5": lambda given: given["files"].update({"encoder.onnx": 5}),
    "files['encoder.onnx'].size must be an integer": lambda given: given["files"]["encoder.onnx"].update(size="5"),
    "graphs must be an object, got None": lambda given: given.update(graphs=None),
    "graphs['encoder'].inputs must be an object, got None": lambda given: encoder(given).update(inputs=None),
    "inputs['x'].shape must be an array, got 3": lambda given: encoder(given)["inputs"].update(
        x={"shape": 3, "dtype": "f"}
    ),
    "inputs['x'].shape must be an array, got 'abc'": lambda given: encoder(given)["inputs"].update(
        x={"shape": "abc", "dtype": "f"}
    ),
    "inputs['x'].shape[0] must be an integer or a string, got [1]": lambda given: encoder(given)["inputs"].update(
        x={"shape": [[1]], "dtype": "f"}
    ),
    "cost['graph'] must be an integer, got 'much'": lambda given: given["cost"].update(graph="much"),
    "deviations must be an array, got 'none'": lambda given: given.update(deviations="none"),
    "preprocessing must be an object, got [1]": lambda given: given.update(preprocessing=[1]),
    "rule must be an object, got 'topk'": lambda given: given.update(rule="topk"),
    "ports must be an object, got ['prior']": lambda given: given.update(ports=["prior"]),
    "quantised must be an object, got 'int8'": lambda given: given.update(quantised="int8"),
}


@pytest.mark.parametrize("message", WRONG)
def test_a_field_of_the_wrong_type_is_named(folder: Path, edit: Edit, refusal: Refusal, message: str) -> None:
    edit(folder, WRONG[message])
    assert message in refusal(folder)


# What must agree.


def outputs(**changes: Any) -> Change:
    """The shape of outputs, or with a text their dtype."""

    def change(given: dict[str, Any]) -> None:
        for name, value in changes.items():
            spec = encoder(given)["outputs"].setdefault(name, {"shape": [], "dtype": "int32"})
            spec.update({"dtype" if isinstance(value, str) else "shape": value})

    return change


def classifies(labels: list[str], *shape: int) -> Change:
    """It gives logits of that shape behind the batch, in place of tokens."""

    def change(given: dict[str, Any]) -> None:
        tensors = encoder(given)["outputs"]
        tensors["logits"] = {**tensors.pop("tokens"), "shape": ["batch", *shape]}
        given["labels"] = labels

    return change


def ports(**given: Any) -> Change:
    """Inputs beside the pixels, by name, and what stands in for them."""
    return lambda manifest: manifest.update(ports=given)


def stepped(change: Change = lambda given: None) -> Change:
    """A manifest with two steps inside the encoder, the first of which leaves two hidden rows, changed."""

    def changed(given: dict[str, Any]) -> None:
        given.update(steps=[[2, 12], [3, 6]], inside={"reducer": "cells", "options": {}})
        first = {"name": "quadrants", "layer": 2, "keep": 12, "hidden": 2}
        given["rule"] = {"name": "topk", "steps": [first, {"name": "topk", "layer": 3, "keep": 6}]}
        outputs(**{"trail.2": ["batch", 24], "scores.2": ["batch", 24]})(given)
        outputs(**{"trail.3": ["batch", 14], "scores.3": ["batch", 12], "origin": ["batch", 24]})(given)
        outputs(**{"scores.2": "float32", "scores.3": "float32"})(given)
        change(given)

    return changed


DISAGREE: dict[str, Change] = {
    "keep must be in 1..48, got 0": lambda given: given.update(keep=0),
    "keep must be in 1..48, got 49": lambda given: given.update(keep=49),
    "keep must be at most the 24 patches it is chosen from, got 25": lambda given: given.update(keep=25),
    "tokens must be [batch, 6, a width], got '[batch, 5, 7]'": lambda given: given.update(keep=6),
    "grid must be rows and columns, both above 0, got (4, 0)": lambda given: given.update(grid=[4, 0]),
    "scores must be [batch, 20], got '[batch, 24]'": lambda given: given.update(grid=[4, 5]),
    "tiles must be above 0, got -1": lambda given: given.update(tiles=-1),
    "precision must be one of float32, float16, int8, int8-dynamic, fp8, got 'float64'": lambda given: given.update(
        precision="float64"
    ),
    "steps must be pairs of layers and tokens, got (2, -1)": lambda given: given.update(steps=[[2, -1]]),
    "cost['graph'] must not be below 0, got -4": lambda given: given["cost"].update(graph=-4),
    "graphs must have encoder, got ['decoder']": lambda given: given["graphs"].update(
        decoder=given["graphs"].pop("encoder")
    ),
    "files must list pool.onnx, the graph baseline.pool": lambda given: given["graphs"].update(
        {"baseline.pool": {"file": "pool.onnx", "inputs": {}, "outputs": {}}}
    ),
    "files must list encoder.onnx, the graph encoder": lambda given: given["files"].pop("encoder.onnx"),
    "graphs['encoder']: tokens must be one of float32,": outputs(tokens="float15"),
    "graphs['encoder']: tokens must have dimensions above 0, got ('batch', 5, 0)": outputs(tokens=["batch", 5, 0]),
    "graphs['encoder']: tokens must have dimensions above 0, got ('', 5, 7)": outputs(tokens=["", 5, 7]),
    "tokens must be [batch, 5, a width], got '[batch, 5]'": outputs(tokens=["batch", 5]),
    "tokens must be [batch, 5, a width], got '[2, 5, 7]'": outputs(tokens=[2, 5, 7]),
    "tokens must be [2, 5, a width], got '[]'": lambda given: (
        given["preprocessing"].update(tiles={}),
        encoder(given)["inputs"]["pixel_values"].update(shape=[2, 3, 32, 48]),
        outputs(tokens=[])(given),
    ),
    "indices must be [batch, 5], got '[batch, 6]'": outputs(indices=["batch", 6]),
    "picks must be [batch, 5], got '[batch, 6]'": outputs(picks=["batch", 6]),
    "indices must be int32, got 'int64'": outputs(indices="int64"),
    "scores must be float32, got 'float16'": outputs(scores="float16"),
    "the outputs of encoder must have scores": lambda given: encoder(given)["outputs"].pop("scores"),
    "encoder must have an input, got []": lambda given: encoder(given).update(inputs={}),
    "an input and an output must not share a name, got ['tokens']": lambda given: encoder(given)["inputs"].update(
        tokens=encoder(given)["outputs"]["tokens"]
    ),
    "preprocessing must give images of [32, 48], as encoder takes them, got [48, 32]": lambda given: given[
        "preprocessing"
    ].update(size=[48, 32]),
    "the outputs of encoder must have tokens": lambda given: encoder(given)["outputs"].pop("tokens"),
    "logits must be [batch, 0], one for each of labels, got '[batch, 7]'": classifies([], 7),
    "logits must be [batch, 2], one for each of labels, got '[batch, 2, 7]'": classifies(["cat", "dog"], 2, 7),
    "layers must be tokens and multiply-adds, none below 0, got (25, -1, 90)": lambda given: given["layers"][
        1
    ].__setitem__(1, -1),
    "layers must have one entry of each of the 3, got 2": lambda given: given["layers"].pop(),
    "the inputs of encoder must have prior, a port, got ['pixel_values']": ports(prior={"blank": 1.0}),
    "ports['pixel_values'].blank must be a number or null, got 'nothing'": ports(pixel_values={"what": "images"}),
    "ports['pixel_values'].blank must be a number or null, got 'noth": ports(pixel_values=[None]),
    "ports['pixel_values'].blank must be a number or null, got True": ports(pixel_values={"blank": True}),
    "ports['pixel_values'].blank must be a number or null, got [0]": ports(pixel_values={"blank": [0]}),
    "inside must name its reducer": stepped(lambda given: given["inside"].pop("reducer")),
    "inside must name its reducer; export": stepped(lambda given: given.pop("inside")),
    "rule.steps must say layer and keep of every step, as steps does": stepped(
        lambda given: given["rule"]["steps"].pop()
    ),
    "rule.steps must say layer and keep of every step, as steps does; export": stepped(
        lambda given: given["rule"].update(steps=None)
    ),
    "the layers of steps must rise, behind 2, got 2": stepped(
        lambda given: (given["steps"][1].__setitem__(0, 2), given["rule"]["steps"][1].update(layer=2))
    ),
    "behind layer 3 there must be 1..11 rows, got 12": stepped(
        lambda given: (given["steps"][1].__setitem__(1, 12), given["rule"]["steps"][1].update(keep=12))
    ),
    "the outputs of encoder must have trail.3, got": stepped(lambda given: encoder(given)["outputs"].pop("trail.3")),
    "trail.3 must be [batch, 14], got '[batch, 12]'": stepped(outputs(**{"trail.3": ["batch", 12]})),
    "scores.3 must be [batch, 12], got '[2, 12]'": stepped(outputs(**{"scores.3": [2, 12]})),
    "trail.2 must be int32, got 'int64'": stepped(outputs(**{"trail.2": "int64"})),
    "scores.2 must be float32, got 'float16'": stepped(outputs(**{"scores.2": "float16"})),
    "origin must be [batch, 24], got '[batch, 6]'": stepped(outputs(origin=["batch", 6])),
    "origin must be int32, got 'int64'": stepped(outputs(origin="int64")),
    "the hidden rows behind layer 2 must be a count, got -1": stepped(
        lambda given: given["rule"]["steps"][0].update(hidden=-1)
    ),
    "the hidden rows behind layer 2 must be a count, got True": stepped(
        lambda given: given["rule"]["steps"][0].update(hidden=True)
    ),
    "keep must be at most the 4 rows that the last step leaves, got 5": stepped(
        lambda given: (given["steps"][1].__setitem__(1, 4), given["rule"]["steps"][1].update(keep=4))
    ),
    "pixel_values must have 4 dimensions": lambda given: encoder(given)["inputs"]["pixel_values"].update(shape=[2, 3]),
    "what is quantised must be no float, got 'float16'": quantised(precision="float16"),
    "quantised.bounds must hold regret, token_median, token_each, each above 0": quantised(bounds=None),
    "each above 0, got {'regret': 0.01, 'token_median': 0.05, 'token_each': True}": quantised(
        bounds={"regret": 0.01, "token_median": 0.05, "token_each": True}
    ),
    "each above 0, got {'regret': 0, 'token_median': 0.05, 'token_each': 0.15}": quantised(
        bounds={"regret": 0, "token_median": 0.05, "token_each": 0.15}
    ),
    "each with a list of names to disable, got ['cpu']": quantised(session=["cpu"]),
    "each with a list of names to disable, got {'cpu': {'disable': 'GemmFusion'}}": quantised(
        session={"cpu": {"disable": "GemmFusion"}}
    ),
    "quantised.session must hold objects by device": quantised(session=None),
}


@pytest.mark.parametrize("message", DISAGREE)
def test_what_contradicts_itself_is_refused(folder: Path, edit: Edit, refusal: Refusal, message: str) -> None:
    edit(folder, DISAGREE[message])
    assert message in refusal(folder)


def test_what_is_quantised_says_what_a_runtime_needs_to_know(folder: Path, edit: Edit) -> None:
    assert (load(folder).manifest.computes, load(folder).manifest.bounds) == ("float16", None)
    edit(folder, quantised())
    found = load(folder).manifest
    assert (found.precision, found.computes, found.bounds) == ("int8", "float16", BOUNDS)
    assert (found.disabled("cpu"), found.disabled("cuda")) == (("MatMulAddFusion",), ())
    edit(folder, lambda given: given.update(quantised={"bounds": BOUNDS}))
    assert load(folder).manifest.disabled("cpu") == ()


def test_steps_inside_that_agree_load(folder: Path, edit: Edit) -> None:
    edit(folder, stepped())
    assert load(folder).manifest.inside["reducer"] == "cells"


@pytest.mark.parametrize("text", ["\x1b[2J", "a\nb", "\x07", "\u202e", "\x9b1m"], ids=ascii)
@pytest.mark.parametrize(
    "place",
    [lambda given, text: given.update(method=text), lambda given, text: given["model"].update(id=f"x{text}"),
     lambda given, text: given.update(labels=["cat", text]), lambda given, text: given["options"].update(mode=[text]),
     lambda given, text: given["versions"].update({text: "1"}),
     lambda given, text: given["files"].update({text: given["files"]["encoder.onnx"]})],
)  # fmt: skip
def test_text_that_cannot_be_printed_is_refused(
    folder: Path, edit: Edit, refusal: Refusal, place: Callable[[dict[str, Any], str], object], text: str
) -> None:
    """An escape sequence would be carried out by the terminal."""
    edit(folder, lambda given: place(given, text))
    assert "must be text that can be printed, got '" in refusal(folder)


def test_what_would_not_be_read_again_is_not_written(manifest: Make) -> None:
    for wrong in ({"keep": 6}, {"cost": {"graph": float("nan")}}, {"preprocessing": {"mean": float("inf")}}):
        with pytest.raises(BundleError):
            manifest(**wrong).to_json()


# The digest.


def test_the_digest_is_that_of_everything_else_in_canonical_form(manifest: Make) -> None:
    given = json.loads(manifest().to_json())
    assert given.pop("digest") == digest(given)
    assert digest(dict(reversed(given.items()))) == digest(given)
    assert digest({**given, "keep": 6}) != digest(given)


def test_a_manifest_without_its_digest_is_refused(folder: Path, refusal: Refusal) -> None:
    given = json.loads((folder / MANIFEST).read_text())
    del given["digest"]
    (folder / MANIFEST).write_text(json.dumps(given))
    assert "manifest.json has changed since the export (digest differs); copy the bundle again" in refusal(folder)


def test_another_layout_of_the_same_json_is_the_same_manifest(folder: Path) -> None:
    before, given = load(folder).manifest, json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(dict(reversed(given.items()))))
    assert load(folder).manifest == before


def test_no_single_bit_of_a_manifest_can_turn_and_change_what_it_says(folder: Path) -> None:
    """Every bit of it, one at a time: refused, or read as the same."""
    content = (folder / MANIFEST).read_bytes()
    before = Manifest.from_json(content.decode())
    for at in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[at // 8] ^= 1 << at % 8
        try:
            got = Manifest.from_json(bytes(flipped).decode())
        except (BundleError, UnicodeDecodeError):
            continue
        assert got == before, f"bit {at}"
