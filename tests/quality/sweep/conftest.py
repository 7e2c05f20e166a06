"""A sweep that computes nothing: its exports and answers are made up, counted, and fail where a test wants it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeprune.quality.sweep import items, work
from edgeprune.quality.sweep.items import Shard
from edgeprune.quality.sweep.work import BLIND, RIGHT, WRONG, Graph, Place, Wanted

PATCHES = 144


class Drawn:
    """Stands in for `work`. refused: method -> why; uncut: methods that cannot be cut; before: called with each task"""

    def __init__(self) -> None:
        self.refused: dict[str, str] = {}
        self.uncut: set[str] = set()
        self.before: Callable[[str], None] = lambda name: None
        self.exported: list[str] = []
        self.answered: list[tuple[str, int, tuple[Wanted, ...]]] = []

    def export(self, place: Place, graph: Graph, into: Path) -> dict[str, Any]:
        self.before(f"export {graph.name}")
        self.exported.append(graph.name)
        if why := self.refused.get(graph.variant.method):
            return {"refused": why}
        into.mkdir(parents=True)
        (into / "name").write_text(graph.name)
        cuts = graph.variant.method in ("random", "fastervlm", "divprune") and graph.variant.method not in self.uncut
        keep = graph.keep or PATCHES
        each = 1000 + 10 * keep
        return {
            "refused": "", "patches": PATCHES, "keep": keep, "cuts": cuts, "multiply_adds": each, "per_token": 10,
        }  # fmt: skip

    def answers(self, place: Place, folder: Path, shard: Shard, wanted: tuple[Wanted, ...]) -> list[dict[str, Any]]:
        name = (folder / "name").read_text()
        self.before(name)
        self.answered.append((name, shard.number, tuple(wanted)))
        right = {RIGHT: 1.0, WRONG: 0.0, BLIND: 0.0}
        scores = [right.get(seen, 0.5) if not keep else keep / PATCHES for keep, seen in wanted]
        asked = [query for item in shard.items for query in item.queries]
        return [{"score": [score] * len(asked), "answer": ["x"] * len(asked)} for score in scores]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    found = Drawn()
    monkeypatch.setattr(items, "SHARD", 5)
    monkeypatch.setattr(work, "export", found.export)
    monkeypatch.setattr(work, "answers", found.answers)
    return found
