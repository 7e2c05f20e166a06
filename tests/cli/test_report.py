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
    assert (done.code, given["report"], given["passed"]) == (0, "report.html", True)
    assert given["bytes"] == (desk / "report.html").stat().st_size


def test_report_of_a_bundle_that_fails_parity_is_written_and_fails(
    run: Run, desk: Path, make_bundle: Callable[..., Path]
) -> None:
    bundle = make_bundle(shift=-1)
    done = run("report", bundle, "--no-bench")
    assert done.code == 1
    assert done.err.startswith(f"edgeprune: {bundle} differs from its reference on cpu: ")
    assert done.err.endswith("; report.html shows where\n")
    assert '<b class="bad">differs</b>' in (desk / "report.html").read_text(encoding="utf-8")
    assert json.loads(run("report", bundle, "--no-bench", "--json").out)["passed"] is False


@pytest.mark.parametrize("output", ["report.png", "nowhere/report.html"])
def test_report_refuses_an_output_before_anything_runs(
    run: Run, desk: Path, exported: tuple[Path, Done], said: Said, output: str
) -> None:
    assert "report" in said(run("report", exported[0], "--output", output))
    assert list(desk.iterdir()) == []


def test_report_refuses_an_image_that_is_none(run: Run, desk: Path, exported: tuple[Path, Done], said: Said) -> None:
    assert "no-such.jpg" in said(run("report", exported[0], "no-such.jpg", "--no-bench"))
    assert list(desk.iterdir()) == []
