"""Every family declares its image processors; together they are one table, in which no class stands twice."""

from __future__ import annotations

import importlib
from collections import Counter

import pytest

from edgeprune import encoders
from edgeprune.export.processor import read_processor

DECLARED = [
    (family, name)
    for family in encoders.families()
    for name in getattr(importlib.import_module(f"edgeprune.encoders.{family}"), "PROCESSORS", {})
]


def test_a_class_is_declared_by_one_family() -> None:
    assert [name for name, times in Counter(name for _, name in DECLARED).items() if times > 1] == []
    assert sorted(encoders.processors()) == sorted(name for _, name in DECLARED)


@pytest.mark.parametrize(("family", "name"), DECLARED)
def test_a_declared_class_is_one_of_transformers(family: str, name: str) -> None:
    assert hasattr(pytest.importorskip("transformers"), f"{name}ImageProcessor"), family


@pytest.mark.parametrize(("family", "name"), DECLARED)
def test_an_empty_file_of_a_declared_class_is_enough(family: str, name: str) -> None:
    one = encoders.processors()[name]
    step = "crop_size" if one.defaults["do_center_crop"] else "pad_size" if one.defaults["do_pad"] else "size"
    size, tiles = one.defaults[step if step in one.defaults else "size"], 1 if one.splits else None
    if one.splits:
        size = dict.fromkeys(("height", "width"), one.defaults["max_image_size"]["longest_edge"])
    height, width = (32, 48) if one.any_size else (size["height"], size["width"])
    steps = read_processor({"image_processor_type": f"{name}ImageProcessor"}, (height, width), tiles)
    assert steps.size == (height, width)


@pytest.mark.parametrize("name", [name for name, one in encoders.processors().items() if one.any_size])
def test_a_class_that_goes_by_the_image_takes_the_size_of_the_encoder(name: str) -> None:
    steps = read_processor({"image_processor_type": f"{name}ImageProcessor"}, (32, 48))
    assert steps.resize == {"height": 32, "width": 48}
