"""The catalog reads the heads of the methods' files without importing them; here it is held against the code."""

from __future__ import annotations

import ast
import re
import subprocess
import sys

import pytest

from edgeprune import catalog, encoders, pruners
from edgeprune.catalog import Entry, Family, families, methods, refusal


def entry(head: str) -> Entry:
    return catalog._entry("shiny", head.strip())


def test_the_catalog_lists_the_methods_that_there_are() -> None:
    assert [one.name for one in methods()] == pruners.names()


@pytest.mark.parametrize("one", methods(), ids=lambda one: one.name)
def test_every_method_says_in_one_sentence_what_it_does(one: Entry) -> None:
    assert re.fullmatch(r"[A-Z].{10,99}\.", one.does), one.does


@pytest.mark.parametrize("one", methods(), ids=lambda one: one.name)
def test_a_method_that_needs_cls_says_so(one: Entry) -> None:
    assert ("[CLS]" in one.needs) == pruners.get(one.name).traits.needs_cls


@pytest.mark.parametrize("one", methods(), ids=lambda one: one.name)
def test_a_method_that_needs_a_projector_of_two_layers_says_so(one: Entry) -> None:
    assert ("two-layer projector" in one.needs) == pruners.get(one.name).traits.needs_mlp


@pytest.mark.parametrize("one", methods(), ids=lambda one: one.name)
def test_a_method_that_drops_tokens_inside_the_encoder_says_so(one: Entry) -> None:
    assert ("layers of any length" in one.needs) == pruners.get(one.name).traits.inside


@pytest.mark.parametrize("one", methods(), ids=lambda one: one.name)
def test_a_method_that_can_drop_tokens_in_a_detector_is_blind_or_drops_inside(one: Entry) -> None:
    method = pruners.get(one.name)
    assert one.inside == (method.traits.blind or method.traits.inside)


@pytest.mark.parametrize("one", methods(), ids=lambda one: one.name)
def test_a_method_that_is_trained_says_so(one: Entry) -> None:
    assert one.training_free != pruners.get(one.name).traits.needs_scorer


@pytest.mark.parametrize("one", methods(), ids=lambda one: one.name)
def test_every_method_says_what_it_reads_and_what_its_selection_costs(one: Entry) -> None:
    assert one.reads
    assert re.fullmatch(r"0|[\d.]+ [MG]", one.multiply_adds)


@pytest.mark.parametrize("one", methods(), ids=lambda one: one.name)
def test_a_paper_is_one_link(one: Entry) -> None:
    assert re.fullmatch(r"(https://\S+)?", one.paper)


def test_only_the_first_sentence_is_taken_even_over_two_lines() -> None:
    found = entry("Shiny: keep what\nshines. And more.\n\n    score = 1. Or 2.\n")
    assert (found.name, found.does, found.needs, found.paper) == ("shiny", "Keep what shines.", "", "")


def test_a_field_goes_on_where_it_is_indented() -> None:
    fields = "Paper   https://arxiv.org/abs/1\nSource  here, and\n        there\nNeeds   a [CLS]\n        token\n"
    found = entry(f"Shiny: keep.\n\n{fields}")
    assert (found.paper, found.needs) == ("https://arxiv.org/abs/1", "a [CLS] token")


def test_a_file_without_a_head_is_listed_by_its_name() -> None:
    assert entry("") == Entry("shiny", "", "", "", True, "", "")


def test_a_method_with_weights_of_its_own_is_not_training_free() -> None:
    assert not entry("Shiny: keep.\n\nWeights of a classifier\n").training_free


def test_a_method_is_refused_for_what_the_encoder_lacks() -> None:
    needy = entry("Shiny: keep.\n\nNeeds   a [CLS] token and a two-layer projector\n")
    assert refusal(needy, Family("clip", "", ("[CLS]",))) == "no two-layer projector"
    assert refusal(needy, Family("siglip", "", ())) == "no [CLS]"
    assert refusal(needy, Family("llava", "a CLIP tower", ("[CLS]", "two-layer projector"))) == ""


def test_a_detector_takes_only_what_drops_tokens_inside_it() -> None:
    behind, inside, blind = (
        entry(f"Shiny: keep.\n\n{lines}\n")
        for lines in ("Reads   features", "Needs   layers of any length\nReads   features", "Reads   nothing")
    )
    detector = Family("yolos", "", ("[CLS]", "detection tokens", "layers of any length"))
    assert refusal(behind, detector) == "tokens dropped behind the encoder"
    assert refusal(inside, detector) == refusal(blind, detector) == ""


def test_a_method_that_drops_inside_is_refused_where_layers_take_every_token() -> None:
    inside = entry("Shiny: keep.\n\nNeeds   layers of any length\nReads   features\n")
    assert refusal(inside, Family("internvl", "", ("[CLS]",))) == "no layers of any length"
    assert refusal(inside, Family("clip", "", ("[CLS]", "layers of any length"))) == ""


def test_every_family_is_listed_and_says_what_it_has() -> None:
    assert sorted({family.name for family in families()}) == encoders.families()


def test_methods_are_listed_without_torch() -> None:
    code = "import sys; from edgeprune.catalog import methods; methods(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("source", ["", "HAS: dict = {}", "HAS = {'': names()}"])
def test_what_is_no_literal_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match=r"shiny\.py must declare HAS as a literal"):
        catalog.literal(ast.parse(source), "HAS", "shiny.py")


@pytest.mark.parametrize("family", families(), ids=lambda family: f"{family.name} {family.tower}".strip())
def test_what_a_family_has_are_features_that_the_catalog_knows(family: Family) -> None:
    assert set(family.has) <= set(catalog.FEATURES)
