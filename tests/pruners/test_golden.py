"""Every method against its authors' own code: what it selected on the inputs stored beside it, in tests/golden.

A file holds the inputs (queries and keys, features, projected features), what came out, and where it came from: the
repository, commit, path, function and licence of the code, how the inputs were drawn, and what stood in for the rest of
a model. No near tie is among them: the same came out in float64, and with noise of 3e-5.

Where a method departs from its authors' code, as its `deviations` say, `as_ours` says what that makes of a golden.
"""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edgeprune import pruners
from edgeprune.pruners import Eager, Selection
from edgeprune.taps import Attention, Taps

FOLDER = Path(__file__).parent.parent / "golden"
FREE = ("Apache-2.0", "MIT")
"""licences that let what their code computed be stored"""
CLOSE: Any = {"rtol": 1e-4, "atol": 1e-5}


@dataclass(frozen=True)
class Golden:
    """One call of the authors' code."""

    method: str
    number: int
    keep: int
    options: dict[str, Any]
    pooled: bool
    grid: tuple[int, int]
    inputs: dict[str, Tensor]
    out: dict[str, Tensor]

    def __str__(self) -> str:
        return f"{self.method}-{self.number}-keep{self.keep}"


def stored(path: Path) -> tuple[dict[str, Any], list[Golden]]:
    """What a file says of itself, and its cases."""
    with np.load(path) as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files if name != "meta"}
        meta: dict[str, Any] = json.loads(str(file["meta"]))

    def part(name: str) -> dict[str, Tensor]:
        return {key.removeprefix(f"{name}."): value for key, value in arrays.items() if key.startswith(f"{name}.")}

    cases = []
    for number, case in enumerate(meta["cases"]):
        rows, columns = meta["inputs"][case["inputs"]]["grid"]
        own = case["keep"], case.get("options", {}), case.get("pooled", False), (rows, columns)
        cases.append(Golden(meta["method"], number, *own, part(f"inputs{case['inputs']}"), part(f"case{number}")))
    return meta, cases


FILES = sorted(FOLDER.glob("*.npz"))
CASES = [case for path in FILES for case in stored(path)[1]]


def chosen(golden: Golden) -> tuple[Selection, Selection, Tensor]:
    """The static form, the official one, and the features that kept tokens are taken of."""
    made: Any = pruners.get(golden.method)
    method: pruners.Method = made(golden.keep, **golden.options)
    query, key = (golden.inputs.get(name, torch.empty(0, 1, 1, 1, 1)) for name in ("query", "key"))
    given = [golden.inputs.get(name) for name in ("features", "projected")]
    if golden.pooled:  # as tiles come, when they are one pool
        given = [None if rows is None else rows.flatten(0, 1).unsqueeze(0) for rows in given]
    batch = next(rows for rows in (*given, *query, *key) if rows is not None).shape[0]
    patches = golden.grid[0] * golden.grid[1]
    features, projected = (torch.zeros(batch, patches, 1) if rows is None else rows for rows in given)
    seen = {layer: Attention(query[layer], key[layer], query.shape[-1] ** -0.5) for layer in range(len(query))}
    maps = [(one.query @ one.key.mT * one.scaling).softmax(dim=-1) for one in seen.values()]
    static = method.select(Taps(seen, features, projected, golden.grid, 1, max(1, len(seen))))
    keys = key[-1] if len(key) else torch.empty(0)
    official = method.official(Eager(maps, features, projected, golden.grid, 1, keys))
    return static, official, features


def as_ours(golden: Golden, selection: Selection, features: Tensor) -> None:
    """Hold a selection against what the authors' code gave, with the named deviations."""
    if "picks" in golden.out:  # in the order in which they were chosen
        assert selection.picks is not None
        assert selection.picks.tolist() == golden.out["picks"].tolist()
    if golden.method == "visionzip":  # contextual ones behind the dominant ones; ours are in raster order
        assert selection.merge is not None
        for image, tokens in enumerate(selection.merge @ features):
            leads = torch.isin(selection.indices[image], golden.out["indices"][image].long())
            assert selection.indices[image][leads].tolist() == golden.out["indices"][image].tolist()
            torch.testing.assert_close(torch.cat((tokens[leads], tokens[~leads])), golden.out["tokens"][image], **CLOSE)
    elif golden.method == "apet":
        assert selection.merge is not None
        assert selection.indices.tolist() == golden.out["indices"].tolist()
        torch.testing.assert_close(selection.merge @ features, golden.out["tokens"], **CLOSE)
    elif golden.method == "aim":  # by similarity; ours are in raster order
        assert selection.merged is not None
        for ours, theirs in zip(selection.merged, golden.out["tokens"], strict=True):
            nearest = torch.cdist(theirs, ours).argmin(dim=1)
            assert sorted(nearest.tolist()) == list(range(golden.keep))
            torch.testing.assert_close(ours[nearest], theirs, **CLOSE)
    else:
        for ours, theirs in zip(selection.indices.tolist(), golden.out["indices"].tolist(), strict=True):
            named = set(theirs) - {-1}  # a row of zeros, where a chunk's share is larger than the chunk: ours fills up
            assert named <= set(ours)
            assert len(ours) == golden.keep == len(theirs)


@pytest.mark.parametrize("golden", CASES, ids=str)
def test_both_forms_select_what_the_authors_code_selected(golden: Golden) -> None:
    static, official, features = chosen(golden)
    as_ours(golden, static, features)
    as_ours(golden, official, features)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.stem))
def test_a_golden_says_whose_code_made_it_and_how(path: Path) -> None:
    meta, cases = stored(path)
    assert meta["method"] == path.stem
    assert meta["licence"] in FREE
    assert all(meta[name] for name in ("repo", "commit", "path", "function", "drawn", "stubs"))
    head = importlib.import_module(f"edgeprune.pruners.{path.stem}").__doc__ or ""
    assert f"{meta['repo']}@{meta['commit']}" in head
    assert len(cases) > 1
    assert path.stat().st_size < 50 * 1024


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.stem))
def test_what_came_out_of_another_image_is_not_met(path: Path) -> None:
    golden = stored(path)[1][1]
    for selection, features in (chosen(golden)[::2], chosen(golden)[1:]):
        moved = {name: value.roll(1, 0) if len(value) > 1 else value + 1 for name, value in golden.out.items()}
        with pytest.raises(AssertionError):
            as_ours(replace(golden, out=moved), selection, features)
