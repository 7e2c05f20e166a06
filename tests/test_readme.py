"""The README says what is so: its table is the catalog's, its verbs and options exist, its files are there."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from edgeprune import catalog
from edgeprune.cli import cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^edgeprune (.+?)(?:\s+#.*)?$", README, flags=re.MULTILINE)


def methods_table() -> str:
    rows = ["| name | does | needs | paper |", "|---|---|---|---|"]
    for entry in catalog.methods():
        rows.append(f"| `{entry.name}` | {entry.does} | {entry.needs or 'any encoder'} | {entry.paper or '-'} |")
    return "\n".join(rows)


def test_the_table_of_methods_is_the_catalogs() -> None:
    assert methods_table() in README, f"paste this into README.md:\n{methods_table()}"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_names_a_verb_and_options_that_exist(command: str) -> None:
    verb, *words = command.split()
    options = {name for parameter in cli.commands[verb].params for name in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options
    assert isinstance(cli.commands[verb], click.Command)


def test_every_encoder_family_is_in_it() -> None:
    families = [path.stem for path in (ROOT / "edgeprune" / "encoders").glob("*.py") if path.stem != "__init__"]
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
