"""The README says what is so: its table is the catalog's, its verbs and options exist, its files are there."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from edgeprune import catalog
from edgeprune.cli import cli
from edgeprune.cli.tables.methods import fits

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^edgeprune (.+?)(?:\s+#.*)?$", README, flags=re.MULTILINE)


def methods_table() -> str:
    rows = ["| name | does | reads | multiply-adds | paper |", "|---|---|---|---:|---|"]
    for entry in catalog.methods():
        paper = f"[{entry.paper.rpartition('/')[2]}]({entry.paper})" if entry.paper else "-"
        rows.append(f"| `{entry.name}` | {entry.does} | {entry.reads} | {entry.multiply_adds} | {paper} |")
    return "\n".join(rows)


def matrix() -> str:
    rows = ["| encoders | works | refused |", "|---|---|---|"]
    rows += [" | ".join(("", *row, "")).strip() for row in fits(catalog.methods(), catalog.families())]
    return "\n".join(rows)


@pytest.mark.parametrize("table", [methods_table, matrix])
def test_the_tables_of_methods_are_the_catalogs(table: Callable[[], str]) -> None:
    assert table() in README, f"paste this into README.md:\n{table()}"


def test_the_methods_that_need_training_are_those_it_says() -> None:
    assert [entry.name for entry in catalog.methods() if not entry.training_free] == ["bavit"]
    assert "`bavit` apart, none of them needs training" in README


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_names_a_verb_and_options_that_exist(command: str) -> None:
    verb, *words = command.split()
    named = cli.get_command(click.Context(cli), verb)
    assert named is not None
    if isinstance(named, click.Group):
        named = named.get_command(click.Context(named), words.pop(0))
        assert named is not None
    options = {name for parameter in named.params for name in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options


def test_every_encoder_family_is_in_it() -> None:
    families = [path.stem for path in (ROOT / "edgeprune" / "encoders").glob("*.py") if not path.stem.startswith("_")]
    assert [family for family in families if f"`{family}`" not in README] == []


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) >= 5


def test_every_linked_file_exists() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert link.startswith("https://") or (ROOT / link).is_file(), link


def test_its_two_commands_are_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("demo", "test"):
        assert f"\nmake {target} " in README
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)
