"""`edgeprune inspect`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Done = Any
Run = Callable[..., Any]


def test_inspect_says_what_it_is_and_what_it_costs(run: Run, exported: tuple[Path, Done]) -> None:
    done = run("inspect", exported[0])
    assert (done.code, done.err) == (0, "")
    for part in ("edgeprune/tiny", "[1, 64, 128] float32", "% of unpruned", "on the formula", "encoder.onnx"):
        assert part in done.out


def test_inspect_shows_a_bundle_that_knows_nothing_of_its_cost(run: Run, bundle: Path) -> None:
    from edgeprune.bundle import load

    manifest = load(bundle).manifest
    costs: tuple[dict[str, int], ...] = ({}, {"formula": 0, "graph": 0, "unpruned_formula": 0}, {"graph": 7})
    for cost in costs:
        (bundle / "manifest.json").write_text(dataclasses.replace(manifest, cost=cost).to_json())
        done = run("inspect", bundle)
        assert (done.code, done.err, "multiply-adds" in done.out) == (0, "", False)


@pytest.mark.parametrize(
    ("cost", "says"),
    [
        ({"graph": 90, "unpruned_graph": 100, "formula": 1, "unpruned_formula": 9}, "10.0% of the encoder; behind it"),
        ({"formula": 80, "unpruned_formula": 100}, "20.0% of the encoder; behind it, 64 of 144 tokens (44%) are left"),
        ({"graph": 101, "unpruned_graph": 100}, "nothing in the encoder (101.0% of it); behind it, 64 of 144 tokens"),
    ],
    ids=["of the graphs", "of the formula, without baselines", "nothing"],
)
def test_what_is_saved_in_the_encoder_and_behind_it_stand_apart(
    run: Run, bundle: Path, cost: dict[str, int], says: str
) -> None:
    from edgeprune.bundle import load

    manifest = dataclasses.replace(load(bundle).manifest, cost=cost)
    (bundle / "manifest.json").write_text(manifest.to_json())
    assert says in " ".join(run("inspect", bundle).out.split())


def test_steps_inside_are_shown_layer_by_layer(run: Run, bundle: Path) -> None:
    from edgeprune.bundle import load

    manifest = load(bundle).manifest
    assert "each /" not in run("inspect", bundle).out
    layers = ((145, 40_000_000, 40_000_000), *[(65, 10_000_000, 40_000_000)] * (manifest.model.layer - 1))
    stepped = dataclasses.replace(manifest, steps=((1, 64),), layers=layers)
    (bundle / "manifest.json").write_text(stepped.to_json())
    done = run("inspect", bundle)
    assert (done.code, done.err) == (0, "")
    rows = [" ".join(line.split()) for line in done.out.splitlines()]
    assert "1 145 40 M 40 M 1.000" in rows
    assert f"2-{manifest.model.layer} 65 10 M 40 M 0.250" in rows
    assert "Behind layer 1 go on: 64 of 144." in rows
    assert json.loads(run("inspect", bundle, "--json").out)["layers"] == [list(layer) for layer in layers]


def test_what_was_learned_for_the_steps_is_said_with_what_it_was_made_of(run: Run, bundle: Path) -> None:
    from edgeprune.bundle import load

    learned = {
        "adapted": {"reducer": "cells", "options": {"bias": True}, "images": 2000, "loss": [0.012, 0.008, 0.004]},
        "correction": {"kind": "affine", "images": 200, "residual": [0.4, 0.2]},
    }
    manifest = dataclasses.replace(load(bundle).manifest, learned=learned)
    (bundle / "manifest.json").write_text(manifest.to_json())
    said = " ".join(run("inspect", bundle).out.split())
    assert "adapted reducer=cells, images=2000, loss=0.012 to 0.004" in said
    assert "correction kind=affine, images=200, residual=0.4 to 0.2" in said
