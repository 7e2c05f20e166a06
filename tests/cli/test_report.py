"""`edgeprune report`, as a terminal sees it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Done = Any
Run = Callable[..., Any]
Said = Callable[..., str]


def test_report_writes_a_page(run: Run, desk: Path, exported: tuple[Path, Done]) -> None:
    done = run("report", exported[0], "--no-bench", "--json")
    given = json.loads(done.out)
    assert given["report"] == "report.html"
    assert given["bytes"] == (desk / "report.html").stat().st_size


@pytest.mark.parametrize("output", ["report.png", "nowhere/report.html"])
def test_report_refuses_an_output_before_anything_runs(
    run: Run, desk: Path, exported: tuple[Path, Done], said: Said, output: str
) -> None:
    assert "report" in said(run("report", exported[0], "--output", output))
    assert list(desk.iterdir()) == []


def test_report_refuses_an_image_that_is_none(run: Run, desk: Path, exported: tuple[Path, Done], said: Said) -> None:
    assert "no-such.jpg" in said(run("report", exported[0], "no-such.jpg", "--no-bench"))
    assert list(desk.iterdir()) == []
