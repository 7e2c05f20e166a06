"""README.md and docs/ say what is so: tables are what the code declares, commands parse, links lead somewhere."""

from __future__ import annotations

import functools
import importlib
import re
from pathlib import Path
from typing import Any

import click
import pytest

from edgeprune import catalog
from edgeprune.cli import cli
from edgeprune.cli.tables.docs import TABLES, current
from tests.pages import blocks, commands, languages

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
ENGINES = sorted((ROOT / "docs" / "engines").glob("*.md"))
PAGES = [README, *sorted((ROOT / "docs").glob("*.md")), *ENGINES, ROOT / "CONTRIBUTING.md"]
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}
COMMANDS = [line for text in TEXTS.values() for block in blocks(text, "sh") for line in commands(block)]
EDGEPRUNE = sorted({line for line in COMMANDS if line.startswith("edgeprune ")})


@pytest.fixture(params=TEXTS)
def page(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_readme_is_short() -> None:
    assert len(TEXTS["README.md"].splitlines()) < 130


def test_every_table_is_what_the_code_declares(page: str) -> None:
    assert current(TEXTS[page]) == TEXTS[page], f"{page} is not current: make docs"


def test_every_table_stands_once() -> None:
    marked = [name for text in TEXTS.values() for name in re.findall(r"<!-- table: (\w+) -->", text)]
    assert sorted(marked) == sorted(TABLES)


def test_a_table_that_is_not_current_is_found_and_made_again() -> None:
    page = f"# A\n<!-- table: rules -->\n{TABLES['rules']()}\n<!-- end -->\nb\n"
    assert current(page) == page
    assert current(page.replace("one cut", "two cuts")) == page
    assert current("<!-- table: rules -->\n<!-- end -->\n<!-- table: matrix -->\n<!-- end -->").count("| rule |") == 1
    with pytest.raises(KeyError, match="shiny"):
        current("<!-- table: shiny -->\n<!-- end -->")


def test_every_page_says_what_it_is_for(page: str) -> None:
    title, blank, first, *_ = TEXTS[page].splitlines()
    assert title.startswith("# ")
    assert blank == ""
    assert page == "README.md" or first.startswith("For ")


def test_every_page_is_reached_from_the_readme_and_those_of_engines_from_the_page_of_whole_models() -> None:
    pages = [page for page in TEXTS if page != "README.md" and not page.startswith("docs/engines/")]
    assert [page for page in pages if f"({page})" not in TEXTS["README.md"]] == []
    assert [path.name for path in ENGINES if f"(engines/{path.name})" not in TEXTS["docs/whole-model.md"]] == []


def anchors(text: str) -> set[str]:
    """Of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_every_link_leads_somewhere(page: str) -> None:
    folder = (ROOT / page).parent
    for link in re.findall(r"\]\(([^)]+)\)", TEXTS[page]):
        file, _, anchor = link.partition("#")
        if not file.startswith("https://"):
            found = (folder / file).resolve() if file else ROOT / page
            assert found.is_file(), link
            assert not anchor or anchor in anchors(found.read_text(encoding="utf-8")), link


PARITY = (
    "pruners.inside",
    *(f"runtime.parity.{name}" for name in ("verdict", "verify", "decisions", "greedy", "inside")),
)


def test_what_the_page_of_parity_names_is_in_the_code() -> None:
    """`module.NAME`, or `Class.member` of one of its modules."""
    modules = [importlib.import_module(f"edgeprune.{name}") for name in (*PARITY, "export.record", "pruners")]
    known: dict[str, Any] = {module.__name__.rpartition(".")[2]: module for module in modules}
    for module in modules:
        known |= {name: one for name, one in vars(module).items() if isinstance(one, type)}
    named = re.findall(r"`(\w+)\.([A-Za-z_]\w*)`", TEXTS["docs/parity.md"])
    assert len(named) > 12
    files = {"py", "json", "safetensors"}
    assert [f"{place}.{name}" for place, name in named if name not in files and not has(known[place], name)] == []


def has(place: Any, name: str) -> bool:
    return hasattr(place, name) or name in getattr(place, "__annotations__", {})


def test_every_block_is_of_a_language_that_tests_know(page: str) -> None:
    assert set(languages(TEXTS[page])) <= {"c", "cmake", "cpp", "js", "sh", "python", "text", "yaml"}


def test_there_are_commands_to_check() -> None:
    assert len(EDGEPRUNE) >= 10


@functools.cache
def names() -> set[str]:
    return {one.name for one in catalog.methods()} | {one.name for one in catalog.reducers()}


@pytest.mark.parametrize("line", EDGEPRUNE)
def test_every_command_parses_and_names_what_there_is(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the parser of the command line itself: verbs, options, and the values that are chosen from a few."""
    monkeypatch.setattr("edgeprune.bundle.find", Path)  # no bundle is there
    words = line.split()[1:]
    verb: click.Command = cli
    context = click.Context(cli, **cli.context_settings)
    while isinstance(verb, click.Group):
        name = words.pop(0)
        inner = verb.get_command(context, name)
        assert inner is not None, name
        verb, context = inner, click.Context(inner, parent=context, info_name=name)
    verb.parse_args(context, words)
    method = context.params.get("method")
    assert method is None or method in names()


def test_make_lines_are_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    said = {name for text in TEXTS.values() for name in re.findall(r"`make ([\w-]+)`", text)}
    assert {"demo", "test", "bench"} <= said
    assert [name for name in said if not re.search(rf"^{name}:", makefile, flags=re.MULTILINE)] == []


def test_the_methods_that_need_training_are_those_it_says() -> None:
    trained = [entry.name for entry in catalog.methods() if entry.traits.needs_scorer]
    said = re.search(r"(`\w+`(?:(?:, | and )`\w+`)*) apart, none of them needs training", TEXTS["docs/methods.md"])
    assert said
    assert re.findall(r"`(\w+)`", said[1]) == trained
    assert f"one of [{len(catalog.methods())}](docs/methods.md)" in TEXTS["README.md"]
