"""Methods with their options, as --methods has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeprune import pruners
from edgeprune.errors import MethodError
from edgeprune.quality.sweep.variants import CONTROLS, UNPRUNED, Variant, variants


def test_without_a_choice_every_method_is_there_once() -> None:
    found = variants()
    assert sorted({one.method for one in found}) == pruners.names()
    assert len(set(found)) == len(found) == len(pruners.names()) + 2  # two more seeds of random


def test_what_a_method_has_to_beat_always_stands_beside_it() -> None:
    assert variants(["divprune"]) == (UNPRUNED, Variant("divprune"), *CONTROLS)
    assert variants(["pool", "random"]).count(Variant("pool")) == 1


def test_an_option_that_is_the_default_is_as_if_it_were_not_given() -> None:
    assert variants(["hiprune:alpha=0.10"])[1] == Variant("hiprune")
    assert variants(["hiprune:alpha=0.2:object_layer=4"])[1].name == "hiprune:alpha=0.2:object_layer=4"


def test_a_reducer_is_a_method_by_itself_with_its_own_options_and_no_second_one() -> None:
    found = variants(["zero-tprune:rounds=3", "fastervlm"], ["tome"], [0.5])
    assert [one.name for one in found][1:4] == ["zero_tprune:rounds=3", "fastervlm", "fastervlm+tome@0.5"]
    assert found[1].request() == {"method": "zero_tprune", "options": {"rounds": "3"}}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("fastvlm", "Did you mean 'fastervlm'"),
        ("flowcutt", "Did you mean 'flowcut'"),
        ("tome+cells@0.5", "no method 'tome'"),
        ("hiprune:alpha", "must be NAME=VALUE behind a colon, got 'alpha'"),
        ("hiprune:beta=1", "no option of hiprune 'beta'"),
        ("hiprune:alpha=much", "option alpha of hiprune must be a number, got 'much'"),
        ("fastervlm:alpha=1", "no option of fastervlm 'alpha'; have padding, position"),
    ],
)
def test_what_does_not_exist_is_refused(given: str, said: str) -> None:
    with pytest.raises(MethodError, match=said):
        variants([given])


def test_steps_are_tried_once_more_with_what_was_adapted_to_them() -> None:
    found = variants(["fastervlm"], ["tome", "cells"], [0.6, 0.5], {"cells": "weights"})
    assert [one.name for one in found[1:8]] == [
        "fastervlm", "fastervlm+tome@0.6", "fastervlm+tome@0.5",
        "fastervlm+cells@0.6", "fastervlm+adapted cells@0.6", "fastervlm+cells@0.5", "fastervlm+adapted cells@0.5",
    ]  # fmt: skip
    asked = found[5].request()
    assert (asked["inside"], asked["encoder_cost"], asked["adapted"]) == ("cells", 0.6, Path("weights"))
    assert "adapted" not in found[4].request()
