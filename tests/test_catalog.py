"""The catalog reads the heads of the methods' files without importing them; here it is held against the code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgeprune import catalog, pruners
from edgeprune.catalog import Entry, methods


def entry(tmp_path: Path, head: str) -> Entry:
    (tmp_path / "shiny.py").write_text(f'"""{head}"""\n')
    return catalog._entry(tmp_path / "shiny.py")


def test_the_catalog_lists_the_methods_that_there_are() -> None:
    assert [one.name for one in methods()] == pruners.names()


@pytest.mark.parametrize("one", methods(), ids=lambda one: one.name)
def test_every_method_says_in_one_sentence_what_it_does(one: Entry) -> None:
    assert re.fullmatch(r"[A-Z].{10,99}\.", one.does), one.does


@pytest.mark.parametrize("one", methods(), ids=lambda one: one.name)
def test_a_method_that_needs_cls_says_so(one: Entry) -> None:
    assert ("[CLS]" in one.needs) == pruners.get(one.name).traits.needs_cls


@pytest.mark.parametrize("one", methods(), ids=lambda one: one.name)
def test_a_paper_is_one_link(one: Entry) -> None:
    assert re.fullmatch(r"(https://\S+)?", one.paper)


def test_only_the_first_sentence_is_taken_even_over_two_lines(tmp_path: Path) -> None:
    found = entry(tmp_path, "Shiny: keep what\nshines. And more.\n\n    score = 1. Or 2.\n")
    assert (found.name, found.does, found.needs, found.paper) == ("shiny", "Keep what shines.", "", "")


def test_a_field_goes_on_where_it_is_indented(tmp_path: Path) -> None:
    fields = "Paper   https://arxiv.org/abs/1\nSource  here, and\n        there\nNeeds   a [CLS]\n        token\n"
    found = entry(tmp_path, f"Shiny: keep.\n\n{fields}")
    assert (found.paper, found.needs) == ("https://arxiv.org/abs/1", "a [CLS] token")


def test_a_file_without_a_head_is_listed_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "bare.py").write_text("x = 1\n")
    assert catalog._entry(tmp_path / "bare.py") == Entry("bare", "", "", "")


def test_methods_are_listed_without_torch() -> None:
    code = "import sys; from edgeprune.catalog import methods; methods(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
