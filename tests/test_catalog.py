"""The catalog reads the files of methods and encoders without importing them; here it is held against the code."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from edgeprune import catalog, encoders, pruners
from edgeprune.catalog import Entry, Family, ReducerEntry, families, methods, reducers, refusal
from edgeprune.errors import MethodError
from edgeprune.pruners import inside
from edgeprune.runtime.parity.verdict import RULES
from edgeprune.traits import FEATURES, OURS, READS, WEIGHTING, WRITTEN_FROM, Traits


def entry(head: str, body: str = "pass") -> Entry:
    return catalog._entry("shiny", ast.parse(f'"""{head.strip()}"""\nclass Method:\n    {body}'))


def needing(**traits: Any) -> Entry:
    return Entry("shiny", "Keep.", traits=Traits(**traits))


def test_the_catalog_lists_the_methods_that_there_are() -> None:
    assert [one.name for one in methods()] == pruners.names()


@pytest.mark.parametrize("one", methods(), ids=lambda one: one.name)
def test_every_method_says_in_one_sentence_what_it_does(one: Entry) -> None:
    assert re.fullmatch(r"[A-Z].{10,99}\.", one.does), one.does


@pytest.mark.parametrize("one", methods(), ids=lambda one: one.name)
def test_what_is_read_of_a_method_is_what_its_class_says(one: Entry) -> None:
    method = pruners.get(one.name)
    assert one.traits == replace(method.traits, deviations=(), on_tiles=())
    every = dataclasses.fields(method)  # type: ignore[arg-type]
    fields = {spec.name: spec.default for spec in every if spec.default is not dataclasses.MISSING}
    fields |= WEIGHTING if one.traits.attends else {}
    assert {name: ast.literal_eval(text) for name, text in one.defaults.items()} == fields
    if not one.traits.needs_scorer:
        rule = method(64).rule(144)  # type: ignore[call-arg]
        assert (one.rule, one.objective) == (rule["name"], rule.get("objective", ""))


@pytest.mark.parametrize("text", ["true", "True", "TRUE", "false", "False"])
def test_an_option_that_is_true_or_false_is_written_so(text: str) -> None:
    assert catalog.option_value("shiny", "bright", text, {"bright": "bool"}) is (text.lower() == "true")
    with pytest.raises(MethodError, match="option bright of shiny must be true or false, got '1'"):
        catalog.option_value("shiny", "bright", "1", {"bright": "bool"})


@pytest.mark.parametrize("one", methods(), ids=lambda one: one.name)
def test_the_rule_of_a_method_is_one_of_paritys(one: Entry) -> None:
    assert one.rule in RULES


@pytest.mark.parametrize("one", methods(), ids=lambda one: one.name)
def test_a_paper_is_one_link(one: Entry) -> None:
    assert re.fullmatch(r"(https://\S+)?", one.paper)


@pytest.mark.parametrize("one", reducers(), ids=lambda one: one.name)
def test_a_reducer_is_stateful_where_its_class_states_what_it_keeps(one: ReducerEntry) -> None:
    assert one.stateful == (inside.get(one.name).state is not inside.Reducer.state)


@pytest.mark.parametrize("one", [*methods(), *reducers()], ids=lambda one: one.name)
def test_each_says_what_it_was_written_from(one: Entry | ReducerEntry) -> None:
    kind: Any = inside.get(one.name) if isinstance(one, ReducerEntry) else pruners.get(one.name)
    assert vars(kind)["written_from"] == one.written_from
    what, _, where = one.written_from.partition(" at ")
    head = inspect.getmodule(kind).__doc__ or ""
    assert what in WRITTEN_FROM
    if what == "official code":
        assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{7}", where)
        assert where in head
    else:
        assert where == ""
        assert what != "paper" or "Paper" in head
        assert what != OURS or "Paper" not in head


def test_only_the_first_sentence_is_taken_even_over_two_lines() -> None:
    found = entry("Shiny: keep what\nshines. And more.\n\n    score = 1. Or 2.\n")
    assert found == Entry("shiny", "Keep what shines.")


def test_a_paper_is_a_line_of_the_head() -> None:
    found = entry("Shiny: keep.\n\nPaper   https://arxiv.org/abs/1\nSource  here, and\n        there\n")
    assert found.paper == "https://arxiv.org/abs/1"


def test_traits_are_read_but_for_what_may_be_made_of_constants() -> None:
    traits = 'Traits(reads=("features",), nested=True, deviations=(f"{SMALLEST} is taken",))'
    assert entry("Shiny: keep.", f"traits: ClassVar[Traits] = {traits}").traits == Traits(("features",), nested=True)


@pytest.mark.parametrize("traits", ["Traits(nested=YES)", "Traits(shiny=True)", "OTHER", "Traits(**OTHER)"])
def test_traits_that_are_no_literals_are_refused(traits: str) -> None:
    with pytest.raises(ValueError, match=r"shiny\.py must have traits = Traits\(\.\.\.\) of literals by name"):
        entry("Shiny: keep.", f"traits: ClassVar[Traits] = {traits}")


def test_what_a_method_reads_is_one_of_few_words() -> None:
    with pytest.raises(ValueError, match=r"a method reads one of .*projected features.*; got 'projected feature'"):
        Traits(("projected feature",))


def test_what_a_method_needs_follows_from_what_it_reads() -> None:
    assert Traits(("[CLS] attention", "features")).needs == ("[CLS]",)
    assert Traits(("features", "projected features", "projector weights")).needs == ("two-layer projector",)
    assert Traits(("attention map of an early layer",), inside=True).needs == ("variable sequence length",)
    assert [Traits((word,)).projects_all for word in READS] == [word == "projected features" for word in READS]


def test_a_method_is_refused_for_what_the_encoder_lacks() -> None:
    needy = needing(reads=("[CLS] attention", "projector weights"))
    assert refusal(needy, Family("clip", "", ("[CLS]",))) == "no two-layer projector"
    assert refusal(needy, Family("siglip", "", ())) == "no [CLS]"
    assert refusal(needy, Family("llava", "a CLIP tower", ("[CLS]", "two-layer projector"))) == ""


def test_a_detector_takes_only_what_drops_tokens_inside_it() -> None:
    detector = Family("yolos", "", ("[CLS]", "detection tokens", "variable sequence length"))
    assert refusal(needing(reads=("features",)), detector) == "tokens dropped behind the encoder"
    assert refusal(needing(reads=("attention map of an early layer",), inside=True), detector) == ""
    assert refusal(needing(), detector) == ""


def test_a_method_that_drops_inside_is_refused_where_layers_take_every_token() -> None:
    inside = needing(inside=True)
    assert refusal(inside, Family("internvl", "", ("[CLS]",))) == "no variable sequence length"
    assert refusal(inside, Family("clip", "", ("[CLS]", "variable sequence length"))) == ""


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
    assert set(family.has) <= set(FEATURES)
