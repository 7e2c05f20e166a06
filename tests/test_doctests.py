"""The examples in docstrings are true."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {"edgeprune": "edgeprune", "export": "edgeprune.export", "runtime": "edgeprune.runtime"}
FOLDERS["targets"] = "edgeprune.targets"


def modules_with_examples() -> list[str]:
    found = []
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            linked = folder == "edgeprune" and parts[0] in FOLDERS
            if not linked and ">>> " in path.read_text(encoding="utf-8"):
                found.append(".".join([package, *(part for part in parts if part != "__init__")]))
    return found


def test_there_are_examples_to_check() -> None:
    assert {"edgeprune.errors", "edgeprune.pruners._select", "edgeprune.targets"} <= set(modules_with_examples())


@pytest.mark.parametrize("name", modules_with_examples())
def test_the_examples_of_a_module_are_true(name: str) -> None:
    failed, tried = doctest.testmod(importlib.import_module(name))
    assert tried > 0
    assert failed == 0
