"""Which graphs and cells a sweep computes, and which it takes from the cache. Exports and answers are drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from edgeprune.adapted import FILE, packed
from edgeprune.errors import ModelError, RequestError
from edgeprune.quality.sweep import Request, sweep
from edgeprune.quality.sweep.cache import Cache
from edgeprune.quality.sweep.rows import ALL


def request(output: Path, **fields: Any) -> Request:
    given: dict[str, Any] = {"methods": ("fastervlm", "hiprune"), "keep": (16, 8), "count": 7, "speed": False}
    return Request(output, workers=1, **{**given, **fields})


def test_sets_that_nest_are_exported_once_and_run_once_for_every_budget(drawn: Any, tmp_path: Path) -> None:
    found = sweep(request(tmp_path / "out"))
    assert sorted(drawn.exported) == sorted([
        "none all float32", "fastervlm 16 float32", "hiprune 16 float32", "hiprune 8 float32", "pool 16 float32",
        "pool 8 float32", "uniform 16 float32", "uniform 8 float32",
        *(f"random{seed} 16 float32" for seed in ("", ":seed=1", ":seed=2")),
    ])  # fmt: skip
    assert len(drawn.answered) == len(set(drawn.answered)) == 2 * len(drawn.exported)  # two shards of each
    assert {wanted for name, _, wanted in drawn.answered if name.startswith("fastervlm")} == {
        ((16, "right"), (8, "right"))
    }
    rows = {(row.method, row.keep): row for row in found.rows}
    assert list(rows) == [
        ("unpruned", 144), ("wrong image", 144), ("no token", 0), ("oracle patches", 16), ("oracle patches", 8),
        ("fastervlm", 16), ("fastervlm", 8), ("hiprune", 16), ("hiprune", 8), ("random (3 seeds)", 16),
        ("random (3 seeds)", 8), ("uniform", 16), ("uniform", 8), ("pool", 16), ("pool", 8),
    ]  # fmt: skip
    assert rows["unpruned", 144].values[ALL].value == 1.0
    assert rows["fastervlm", 8].values[ALL].value == pytest.approx(8 / 144)
    assert [rows[one].multiply_adds for one in (("fastervlm", 8), ("hiprune", 8), ("unpruned", 144))] == [
        1080, 1080, 2440,
    ]  # fmt: skip
    assert (rows["fastervlm", 8].graph_keep, rows["hiprune", 8].graph_keep) == (16, 8)
    assert not (tmp_path / "out" / "bundles").exists()


def test_a_repeated_sweep_computes_nothing_and_a_further_one_what_is_new(drawn: Any, tmp_path: Path) -> None:
    first = sweep(request(tmp_path))
    done = len(drawn.exported), len(drawn.answered)
    again = sweep(request(tmp_path))
    assert (len(drawn.exported), len(drawn.answered)) == done
    assert again.rows == first.rows
    assert (again.about["computed"], again.warnings) == ({"graphs": 0, "cells": 0, "times": 0}, ())
    sweep(request(tmp_path, methods=("fastervlm", "hiprune", "divprune"), count=12))
    assert [name for name in drawn.exported[done[0] :] if name.startswith("divprune")] == ["divprune 16 float32"]
    further = [(name, shard) for name, shard, _ in drawn.answered[done[1] :]]
    assert sorted(further) == sorted(
        [(name, shard) for name in set(drawn.exported) for shard in (1, 2) if not name.startswith("divprune")]
        + [("divprune 16 float32", shard) for shard in (0, 1, 2)]
    )  # shard 1 had 2 images, and has 5


def test_one_image_has_no_other_to_be_shown_instead(drawn: Any, tmp_path: Path) -> None:
    found = sweep(request(tmp_path, count=1))
    assert [row.method for row in found.rows][:2] == ["unpruned", "no token"]


def test_an_interrupted_sweep_goes_on_where_it_was(drawn: Any, tmp_path: Path) -> None:
    whole = sweep(request(tmp_path / "whole"))
    exports, answers = list(drawn.exported), list(drawn.answered)

    def interrupt(after: int) -> None:
        left = iter(range(after))

        def before(name: str) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt

        drawn.before = before

    drawn.exported.clear()
    drawn.answered.clear()
    for after in (4, 12):
        interrupt(after)
        with pytest.raises(KeyboardInterrupt):
            sweep(request(tmp_path / "out"))
    drawn.before = lambda name: None
    found = sweep(request(tmp_path / "out"))
    assert found.rows == whole.rows
    assert sorted(drawn.exported) == sorted(exports)
    assert sorted(drawn.answered) == sorted(answers)


def test_a_refused_method_says_why_and_the_sweep_goes_on(drawn: Any, tmp_path: Path) -> None:
    drawn.refused["fastervlm"] = "fastervlm reads the [CLS] row"
    found = sweep(request(tmp_path))
    (row,) = [row for row in found.rows if row.method == "fastervlm"]
    assert (row.refused, row.values) == ("fastervlm reads the [CLS] row", {})
    assert len([row for row in found.rows if row.method == "hiprune"]) == 2
    drawn.exported.clear()
    assert sweep(request(tmp_path)).rows == found.rows
    assert drawn.exported == []


def test_an_encoder_that_cannot_even_be_exported_unpruned_ends_the_sweep(drawn: Any, tmp_path: Path) -> None:
    drawn.refused["none"] = "yolos detects and gives no tokens"
    with pytest.raises(RequestError, match="yolos detects"):
        sweep(request(tmp_path))


def test_sets_that_nest_and_cannot_be_cut_are_exported_apart(drawn: Any, tmp_path: Path) -> None:
    drawn.uncut.add("fastervlm")
    found = sweep(request(tmp_path))
    assert [name for name in drawn.exported if name.startswith("fastervlm")] == [
        "fastervlm 16 float32", "fastervlm 8 float32",
    ]  # fmt: skip
    assert [row.graph_keep for row in found.rows if row.method == "fastervlm"] == [16, 8]


def test_precisions_and_layers_are_rows_of_their_own(drawn: Any, tmp_path: Path) -> None:
    found = sweep(request(tmp_path, methods=("fastervlm",), precisions=("float32", "float16"), layers=(None, 3)))
    rows = [(row.precision, row.layer) for row in found.rows if row.method == "fastervlm" and row.keep == 16]
    assert rows == [("float16", None), ("float16", 3), ("float32", None), ("float32", 3)]


def test_budgets_are_shares_or_tokens_and_none_is_more_than_all(drawn: Any, tmp_path: Path) -> None:
    found = sweep(request(tmp_path, methods=("fastervlm",), keep=(0.5, 8)))
    assert [row.keep for row in found.rows if row.method == "fastervlm"] == [72, 8]
    drawn.exported.clear()
    with pytest.raises(RequestError, match=r"--keep must be in 1..144 for 144 patches, got 145"):
        sweep(request(tmp_path, keep=(145, 8)))
    assert drawn.exported == []


def test_damaged_cells_are_named_and_computed_again(drawn: Any, tmp_path: Path) -> None:
    first = sweep(request(tmp_path))
    file = sorted((Cache(tmp_path).folder / "cells").iterdir())[0]
    file.write_text("{")
    drawn.answered.clear()
    again = sweep(request(tmp_path))
    assert again.rows == first.rows
    assert (len(drawn.answered), again.warnings) == (1, (f"{file} is damaged and not used; it is computed again",))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"keep": (0,)}, "--keep must be 1 or more, got 0"),
        ({"keep": (1.5,)}, r"--keep as a share must be in \(0, 1\], got 1.5"),
        ({"precisions": ("int4",)}, "--precision must be one of float32, float16, int8, int8-dynamic; got int4"),
        ({"model": "somewhere"}, "--images must say what somewhere is judged on"),
        ({"questions": Path("q.jsonl")}, "--questions goes with --images DIR"),
        ({"images": "no-folder"}, "--images must be a folder with images"),
        ({"revision": "main"}, "--revision goes with a Hugging Face id"),
    ],
)
def test_a_wrong_request_computes_nothing(drawn: Any, tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        sweep(request(tmp_path / "out", **fields))
    assert drawn.exported == []
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_else_is_left_alone(drawn: Any, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RequestError, match="must be a new folder or that of a sweep"):
        sweep(request(tmp_path))
    with pytest.raises(RequestError, match=r"must be a folder, .* is a file"):
        sweep(request(tmp_path / "thesis.txt"))


def test_a_model_without_a_language_part_cannot_be_asked(drawn: Any, tmp_path: Path) -> None:
    model = tmp_path / "clip"
    model.mkdir()
    with pytest.raises(ModelError, match=r"must be a folder with a config.json"):
        sweep(request(tmp_path / "out", model=str(model), images="scenes"))
    (model / "config.json").write_text('{"model_type": "clip_vision_model"}')
    with pytest.raises(RequestError, match="--questions need a model with a language part"):
        sweep(request(tmp_path / "out", model=str(model), images=str(tmp_path), questions=tmp_path / "q.jsonl"))


class TestAdapted:
    """A tower that was adapted to steps, beside the tower as it is."""

    @pytest.fixture
    def weights(self, tmp_path: Path) -> Path:
        folder = tmp_path / "weights"
        folder.mkdir()
        (folder / FILE).write_bytes(packed(nn.Linear(2, 2), {"reducer": "cells"}))
        return folder

    def asked(self, output: Path, weights: Path, **fields: Any) -> Request:
        given = {"methods": ("fastervlm",), "inside": ("cells",), "encoder_costs": (0.5,), "keep": (16,), **fields}
        return request(output, adapted=(str(weights),), **given)

    def test_it_has_a_row_of_its_own(self, drawn: Any, weights: Path, tmp_path: Path) -> None:
        found = sweep(self.asked(tmp_path / "out", weights))
        assert {"fastervlm+cells@0.5", "fastervlm+adapted cells@0.5"} <= {row.method for row in found.rows}

    def test_other_weights_in_the_same_folder_are_not_taken_for_those(
        self, drawn: Any, weights: Path, tmp_path: Path
    ) -> None:
        sweep(self.asked(tmp_path / "out", weights))
        done = len(drawn.exported)
        sweep(self.asked(tmp_path / "out", weights))
        assert len(drawn.exported) == done
        (weights / FILE).write_bytes(packed(nn.Linear(2, 2), {"reducer": "cells"}))
        sweep(self.asked(tmp_path / "out", weights))
        assert drawn.exported[done:] == ["fastervlm+adapted cells@0.5 16 float32"]

    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({"inside": ("drop",)}, "was trained for steps of cells; give --inside cells with it"),
            ({"ray": "local"}, "--adapted is read on this machine, and --ray runs on others"),
        ],
    )
    def test_what_does_not_go_with_it_is_refused(
        self, weights: Path, tmp_path: Path, fields: dict[str, Any], said: str
    ) -> None:
        with pytest.raises(RequestError, match=said):
            sweep(self.asked(tmp_path / "out", weights, **fields))
