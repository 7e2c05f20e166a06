"""The words for precisions stand in one place; what cannot import it says the same."""

from __future__ import annotations

import re
import typing
from pathlib import Path

import edgeprune
from edgeprune import targets
from edgeprune.precisions import CALIBRATED, INT8, PRECISIONS, QUANTISED

RUNTIME = Path(edgeprune.__file__).parent / "runtime" / "cpp"


def test_a_target_may_have_each_quantised_one() -> None:
    (words, _) = typing.get_args(typing.get_type_hints(targets.Engine)["quantised"])
    assert typing.get_args(words) == QUANTISED


def test_the_cpu_has_those_of_int8() -> None:
    assert targets.load("cpu").engine.quantised == INT8


def test_those_that_are_calibrated_are_quantised() -> None:
    assert set(CALIBRATED) < set(QUANTISED)


def test_a_manifest_is_read_in_the_same_ones_without_python() -> None:
    source = (RUNTIME / "bundle" / "agreement.cpp").read_text(encoding="utf-8")
    (listed,) = re.findall(r"\*PRECISIONS\[\] = \{(.*?)\}", source)
    assert tuple(re.findall(r'"(.*?)"', listed)) == PRECISIONS
