"""The page of a sweep: its curves, its table, and what the bundles that it left keep."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgeprune.errors import RequestError
from edgeprune.quality.errors import Mean
from edgeprune.quality.report import describe_sweep
from edgeprune.quality.report.page import render
from edgeprune.quality.sweep import Row, Sweep, save
from tests.brightest import GRID, KEEP, MakeBundle

PATCHES = GRID[0] * GRID[1]


def row(method: str, keep: int, share: float, **fields: object) -> Row:
    values = {"all": Mean(share, 0.01, 100, 10)}
    counts = {"multiply_adds": 80, "unpruned_multiply_adds": 100, "graph_keep": keep}
    return Row(method, keep, "float32", None, values=values, gains=values, **{**counts, **fields})  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = (
        row("unpruned", PATCHES, 0.9),
        row("no token", 0, 0.3),
        row("oracle patches", 5, 0.89),
        row("fastervlm", 5, 0.85),
        row("fastervlm", 2, 0.7),
        row("pool", 5, 0.6),
        Row("hiprune", 5, "float32", None, refused="needs <attention>"),
    )
    about = {
        "model": "edgeprune/tiny", "images": 10, "questions": 100, "data": "drawn scenes", "machine": "two cores",
        "versions": {"edgeprune": "9.9"},
    }  # fmt: skip
    save(Sweep(rows, about, ("a cache of another version",)), tmp_path / "swept")
    return tmp_path / "swept"


def test_it_names_the_best_method_at_each_budget(folder: Path) -> None:
    page = render(describe_sweep(folder))
    facts = re.findall(r'<div class="fact"><b class="">([^<]*)</b><span>([^<]*)</span>', page)
    assert facts == [
        ("90.0%", f"right with all {PATCHES} tokens"),
        ("85.0%", "with 5 of them, by fastervlm"),
        ("70.0%", "with 2 of them, by fastervlm"),
    ]
    assert "2 ways to keep fewer tokens" in page


def test_it_has_curves_a_table_and_what_was_refused(folder: Path) -> None:
    page = render(describe_sweep(folder))
    assert page.count("<svg") == 2  # nothing was timed
    assert "currentColor" in page
    assert "needs &lt;attention&gt;" in page
    for said in ("a cache of another version", "two cores", "85.0 ±1.0"):
        assert said in page


@pytest.mark.slow
def test_it_shows_what_is_kept_by_the_bundles_that_it_left(folder: Path, make_bundle: MakeBundle) -> None:
    assert "--keep-bundles" in render(describe_sweep(folder))
    made = make_bundle(picks=True, nested=True)
    (folder / "bundles").mkdir()
    made.rename(folder / "bundles" / "a")
    page = render(describe_sweep(folder))
    assert f"keep {KEEP}" not in page
    assert f"{KEEP} of {PATCHES} tokens" in page
    assert page.count("data-ranks") == 2  # the probes


def test_what_is_no_sweep_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text("{}")
    with pytest.raises(RequestError, match="must be what `edgeprune sweep` wrote"):
        describe_sweep(tmp_path)


@pytest.mark.slow
def test_steps_inside_are_named_where_they_are_best(folder: Path) -> None:
    rows = (row("unpruned", PATCHES, 0.9), row("fastervlm", 5, 0.7), row("fastervlm+tome@0.5", 5, 0.8))
    about = {
        "model": "edgeprune/tiny", "images": 10, "questions": 100, "data": "drawn scenes", "machine": "two cores",
        "versions": {"edgeprune": "9.9"},
    }  # fmt: skip
    save(Sweep(rows, about, ()), folder)
    page = render(describe_sweep(folder))
    assert "with 5 of them, by fastervlm + tome at 0.5" in page
    assert "<td>tome 0.5</td>" in page
    assert "nothing beats at its cost" in page
