"""What a graph is given beside the pixels, from C as from Python: tensors by name, what stands in for them, refusals;
and the certificate of what was chosen by them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeprune.errors import EdgepruneError
from edgeprune.runtime import load
from tests.brightest import MakeBundle
from tests.covering import always
from tests.cpp.judging import Case, judged
from tests.cpp.library import BAD_IMAGE, CPU, WRONG_REQUEST, Failure, Library
from tests.cpp.test_verify_tool import Tool, check_same, tool  # noqa: F401 - a fixture

Arrays = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def library(cpp: Path) -> Library:
    return Library(cpp)


def ports(blank: float | None) -> dict[str, Any]:
    return {"prior": {"what": "of each patch, what is wanted", "blank": blank}}


def drawn(batch: int, **ports: tuple[int, ...]) -> Arrays:
    """Pixels of so many images, and numbers for the ports of these shapes."""
    dice = np.random.default_rng(batch)
    shapes = {"pixel_values": (3, 32, 48), **ports}
    return {name: dice.normal(size=(batch, *shape)).astype(np.float32) for name, shape in shapes.items()}


def held_against_python(folder: Path, library: Library, given: list[Arrays]) -> None:
    """The same bits of each run, one after the other on one handle."""
    with load(folder, device="cpu", threads=1) as python, library.open(folder, device=CPU, threads=1) as c:
        for feeds in given:
            for name, value in python.run(feeds).items():
                assert c.run(feeds)[name].tobytes() == value.tobytes(), name


@pytest.mark.parametrize("batch", [1, 3, "images"])
def test_what_is_left_out_is_what_the_manifest_says(
    batch: int | str, library: Library, make_bundle: MakeBundle
) -> None:
    """Of as many images as there are, more or fewer than before; and given again in between."""
    folder = make_bundle(batch=batch, prior=True, ports=ports(0.25))
    counts = [batch] * 3 if isinstance(batch, int) else [2, 1, 5, 2]
    given = [drawn(count) for count in counts]
    held_against_python(folder, library, [*given, drawn(counts[0], prior=(24,)), *given])
    with library.open(folder, threads=1) as c:
        left, said = c.run(given[0]), c.run({**given[0], "prior": np.full((counts[0], 24), 0.25, np.float32)})
        assert all(value.tobytes() == said[name].tobytes() for name, value in left.items())


def refusals(folder: Path, library: Library, feeds: Arrays, status: int) -> str:
    """The line of both."""
    with load(folder, device="cpu") as python, pytest.raises(EdgepruneError) as expected:
        python.run(feeds)
    with library.open(folder, device=CPU) as c, pytest.raises(Failure) as refused:
        c.run(feeds)
    assert (refused.value.status, str(refused.value)) == (status, str(expected.value))
    return str(expected.value)


@pytest.mark.parametrize("batch", [1, "images"])
def test_what_has_to_be_given_is_asked_for_in_the_same_words(
    batch: int | str, library: Library, make_bundle: MakeBundle
) -> None:
    folder = make_bundle(batch=batch, prior=True, ports=ports(None))
    said = refusals(folder, library, drawn(1), WRONG_REQUEST)
    assert said == "prior must be given: of each patch, what is wanted; brightest chooses by it"
    held_against_python(folder, library, [drawn(1, prior=(24,))])


def test_what_is_no_port_has_to_be_given(library: Library, make_bundle: MakeBundle) -> None:
    said = refusals(make_bundle(prior=True), library, drawn(1), WRONG_REQUEST)
    assert said == "the graph must be given pixel_values, prior; it was given pixel_values"


def test_numbers_that_are_none_are_found_in_a_port(library: Library, make_bundle: MakeBundle) -> None:
    feeds = {**drawn(1), "prior": np.full((1, 24), np.nan, np.float32)}
    folder = make_bundle(prior=True, ports=ports(1.0))
    assert "prior must be finite, 24 of 24" in refusals(folder, library, feeds, BAD_IMAGE)


# --- exports ----------------------------------------------------------------------------------------------------------

EXPORTED: dict[str, tuple[str, dict[str, Any]]] = {
    "asked": ("cdpruner", {"keep": 24, "options": {"form": "openvino"}, "split": True}),
    "asked in float16": ("cdpruner", {"keep": 24, "options": {"form": "openvino"}, "precision": "float16"}),
    "prior": ("fastervlm", {"keep": 24, "prior": "mask"}),
}


@pytest.mark.parametrize("name", always(EXPORTED, "asked"))
def test_an_export_with_a_port(
    name: str,
    library: Library,
    tool: Tool,  # noqa: F811
    exported_once: Callable[..., Any],
) -> None:
    """The verdict is that of Python, which proves it; and the same bits with and without what is left out."""
    method, fields = EXPORTED[name]
    folder = exported_once(method, "cpu", baselines=False, **fields).folder
    assert check_same(tool, folder)["passed"]
    with load(folder, device="cpu", threads=1) as python:
        shapes = {port: python.manifest.inputs[port].shape for port in python.manifest.ports}
        pixels = np.random.default_rng(0).normal(size=python.manifest.inputs["pixel_values"].shape)
    left = {"pixel_values": pixels.astype("float16" if "float16" in name else "float32")}
    with_port = [
        {**left, **{port: dice.normal(size=shape).clip(0).astype(np.float32) for port, shape in shapes.items()}}
        for dice in map(np.random.default_rng, range(2))
    ]
    held_against_python(folder, library, [left, with_port[0], left, with_port[1]])
    with library.open(folder, threads=1) as c:
        assert not np.array_equal(c.run(left)["indices"], c.run(with_port[0])["indices"])


# --- the rule of what is asked ----------------------------------------------------------------------------------------

PATCHES, KEEP = 40, 12
HALVES = [[0, 20, 6], [20, 40, 6]]


def asked(rule: dict[str, Any], picks: list[int], images: int = 2, **quantities: Any) -> Case:
    """Picks of a greedy method among features by chance, each image its own."""
    dice = np.random.default_rng(3)
    features = dice.standard_normal((images, PATCHES, 8))
    features /= np.linalg.norm(features, axis=2, keepdims=True)
    given = {
        "similarity": (features @ features.swapaxes(1, 2)).astype(np.float32),
        "relevance": dice.standard_normal((images, PATCHES)).astype(np.float32),
        "length": np.full((images, 1), 0.5, np.float32),
        "attention": dice.random((images, PATCHES)).astype(np.float32),
        "xyz": dice.standard_normal((images, PATCHES, 3)).astype(np.float32),
        **quantities,
    }
    order = np.tile(np.array(picks, np.int32), (images, 1))
    scores = np.full((images, PATCHES), -np.inf, np.float32)
    np.put_along_axis(scores, order.astype(np.int64), dice.random(order.shape).astype(np.float32), 1)
    got: Arrays = {"tokens": dice.standard_normal((images, len(picks), 4)).astype(np.float32), "scores": scores}
    got |= {"indices": np.sort(order, axis=1), "picks": order}
    return Case(got, got, "float32", {"name": "greedy", **rule}, given)


def relevant(weight: float = 0.5, parts: Any = ()) -> dict[str, Any]:
    return {"objective": "relevant", "smallest": 1e-6, "flat": 0.01, "weight": weight, "parts": parts}


APART = [3, 7, 1, 19, 0, 12, 25, 39, 20, 31, 22, 28]


def test_gains_by_a_question_are_the_same_to_the_last_bit(cpp: Path, tmp_path: Path) -> None:
    none: dict[str, Any] = {"relevance": np.zeros((2, PATCHES), np.float32), "length": np.zeros((2, 1), np.float32)}
    cases = [
        asked(relevant(1.0), APART),
        asked(relevant(0.5), APART),
        asked(relevant(0.5, HALVES), APART),
        asked(relevant(0.5, [[0, 40, 12]]), APART),
        asked(relevant(1.0), APART, **none),
        asked(relevant(0.25, HALVES), APART, **none),
        asked({"objective": "world", "balance": 0.5}, APART),
        asked({"objective": "world", "balance": 1.0}, APART, xyz=np.zeros((2, PATCHES, 3), np.float32)),
    ]
    assert judged(cpp, tmp_path, cases) == [one.verdict() for one in cases]


@pytest.mark.parametrize(
    "parts",
    [[[0, 20, 5], [20, 40, 7]], [[0, 20, 6], [26, 40, 6]], [[0, 20, 6], [20, 30, 6]], [[0, 20, 6], [20, 40, 9]]],
)
def test_picks_of_another_part_have_the_same_reason(parts: Any, cpp: Path, tmp_path: Path) -> None:
    one = asked(relevant(0.5, parts), APART)
    (verdict,) = judged(cpp, tmp_path, [one])
    assert verdict == one.verdict()
    assert any("must be of patches" in reason for reason in verdict["reasons"])


MALFORMED: dict[str, Any] = {
    "no lists": 7,
    "a text": "abc",
    "two numbers": [[0, 20]],
    "a fraction": [[0, 20.5, 6]],
    "a name": [[0, "20", 6]],
    "nothing": [None],
}


@pytest.mark.parametrize("name", MALFORMED)
def test_parts_that_are_none_do_not_fit_the_graph(name: str, cpp: Path, tmp_path: Path) -> None:
    cases = [asked(relevant(0.5, MALFORMED[name]), APART)]
    (verdict,) = judged(cpp, tmp_path, cases)
    assert verdict["refused"].startswith("reference.safetensors is not that of the graph (")


def test_quantities_that_are_none_do_not_fit_the_graph(cpp: Path, tmp_path: Path) -> None:
    cases = [
        asked(relevant(), APART, length=np.zeros((2, 0), np.float32)),
        asked(relevant(0.5, HALVES), APART, length=np.zeros((2, 1, 2, 2), np.float32)),
        asked(relevant(), APART, relevance=np.zeros((2, 3), np.float32)),
        asked({"objective": "world", "balance": 0.5}, APART, xyz=np.zeros((2, 3, 3), np.float32)),
        asked({"objective": "relevant", "smallest": 1e-6}, APART),
    ]
    for verdict in judged(cpp, tmp_path, cases):
        assert verdict["refused"].startswith("reference.safetensors is not that of the graph (")
