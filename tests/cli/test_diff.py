"""`edgeprune diff`: what it prints, and when it fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeprune.cli.tables.diff import _rows
from edgeprune.runtime.parity.diff import Diff

Done = Any
Run = Callable[..., Any]
MakeBundle = Callable[..., Path]


def test_a_bundle_beside_its_copy(run: Run, exported: tuple[Path, Done], bundle: Path) -> None:
    done = run("diff", exported[0], bundle / "encoder.onnx", "--max-set-change", 0, "--max-token-error", 0)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[-1] == (
        "kept sets change by up to 0.0%, tokens differ by up to 0.0e+00, 1.000 of the multiply-adds, "
        "1.000 of the encoder's bytes"
    )


def test_it_fails_above_a_bound_and_says_which(run: Run, make_bundle: MakeBundle) -> None:
    old, new = make_bundle(), make_bundle(shift=1, target="jetson-orin", deviations=("a long one, " * 9,))
    done = run("diff", old, new)
    assert (done.code, done.err) == (0, "")
    assert max(map(len, done.out.splitlines()[:-1])) <= 80
    assert "The probes of the old one" in done.out
    done = run("diff", old, new, "--max-set-change", 0.01)
    assert done.code == 1
    assert done.err.startswith(f"edgeprune: {new} differs from {old} by more than was allowed: set change must be at")
    found = json.loads(run("diff", old, new, "--max-set-change", 0.01, "--json").out)
    assert found["passed"] is False
    assert found["fields"]["target"] == {"old": "cpu", "new": "jetson-orin"}
    assert found["probes"]["scene00"]["set_change"] <= found["set_change"]


def test_what_was_not_compared_is_said_once(run: Run, make_bundle: MakeBundle) -> None:
    old = make_bundle()
    preprocessing = {**json.loads((old / "manifest.json").read_text())["preprocessing"], "mean": [0.5, 0.5, 0.5]}
    done = run("diff", old, make_bundle(preprocessing=preprocessing))
    assert done.code == 0
    assert done.out.splitlines()[-2:] == [
        "not compared: scene00, scene01: they do not take the same pixel_values, and the old one keeps no image of it",
        "nothing was run on the same probes, 1.000 of the encoder's bytes",
    ]
    assert "The probes of the old one" not in done.out


@pytest.mark.parametrize("arguments", [("--max-set-change", 1.5), ("--max-cost", -1), ("--max-token-error", "x")])
def test_a_bound_that_is_none_is_refused(run: Run, arguments: tuple[object, ...]) -> None:
    done = run("diff", "old", "new", *arguments)
    assert done.code == 2
    assert str(arguments[0]) in done.err


def test_a_folder_that_is_no_bundle_is_refused_by_name(run: Run, exported: tuple[Path, Done], desk: Path) -> None:
    assert "nowhere is not a bundle" in run("diff", exported[0], "nowhere").err


def test_steps_and_options_are_words() -> None:
    inside = {"name": "pairs", "layer": 2, "keep": 12}
    fields = {
        "steps": (None, [(2, 12), (3, 6)]),
        "inside.options": ({"bias": True, "score": "cls"}, {}),
        "learned.adapted": (None, {"reducer": "drop", "options": {"bias": False}, "loss": [0.5, 0.2]}),
        "rule.steps": (None, [inside]),
    }
    found = Diff(fields, {}, ((), ()), (0, 0), (1, 1), (1, 1), {}, {})
    assert list(_rows(found))[2:] == [
        ("steps", "-", "2:12, 3:6"),
        ("inside.options", "bias=true, score=cls", "-"),
        ("learned.adapted", "-", "reducer=drop, options=(bias=false), loss=(0.5, 0.2)"),
    ]
