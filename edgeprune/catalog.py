"""What methods there are, read from the heads of their files, so that a device without torch can list them too."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

__all__ = ["Entry", "methods"]


@dataclass(frozen=True)
class Entry:
    name: str
    does: str
    """the first sentence of the file, without the name"""
    needs: str
    """what the encoder must have; empty when any will do"""
    paper: str


def methods() -> list[Entry]:
    """Every file in edgeprune/pruners, by name."""
    folder = Path(str(files("edgeprune"))) / "pruners"
    return [_entry(path) for path in sorted(folder.glob("*.py")) if path.stem != "__init__"]


def _entry(path: Path) -> Entry:
    head = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first = re.split(r"(?<=\.)\s", " ".join(head.partition("\n\n")[0].split()).partition(": ")[2])[0]
    return Entry(path.stem, first[:1].upper() + first[1:], _field(head, "Needs"), _field(head, "Paper"))


def _field(head: str, name: str) -> str:
    """What stands behind the name at the start of a line, with the indented lines that go on with it."""
    found = re.search(rf"^{name}[ ]+(.+(?:\n[ ]+.+)*)", head, flags=re.MULTILINE)
    return " ".join(found.group(1).split()) if found else ""
