"""The embedded model, swept: real graphs, real answers; cut cells are those of an export with so many tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeprune.quality.sweep import Request, Sweep, sweep, variants, work
from edgeprune.quality.sweep.items import Shard, drawn
from edgeprune.quality.sweep.rows import ALL
from edgeprune.quality.sweep.run import BUNDLES
from edgeprune.quality.sweep.variants import Variant
from edgeprune.quality.sweep.work import RIGHT, Graph, Place
from edgeprune.runtime import load

COUNT = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweep") / "out"


@pytest.fixture(scope="module")
def found(folder: Path) -> Sweep:
    request = Request(
        folder, methods=("divprune", "bavit"), keep=(24, 6), count=COUNT, workers=1, rounds=2, keep_bundles=True
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(variants, "CONTROLS", (Variant("random"),))  # each of them is an export
        return sweep(request)


@pytest.mark.slow
def test_every_row_is_there_and_what_needs_weights_says_so(found: Sweep) -> None:
    rows = {(row.method, row.keep): row for row in found.rows}
    assert len(rows) == 5 + 2 * 2 + 1
    assert "bavit needs trained weights" in rows["bavit", 24].refused
    assert (found.about["images"], found.columns) == (COUNT, ("color", "shape", "count", "existence", ALL))
    assert rows["unpruned", 144].values[ALL].value > 0.7 > rows["wrong image", 144].values[ALL].value
    time = rows["divprune", 6].time
    assert time is not None
    assert time.median_ms > 0
    assert time.ratio == pytest.approx(time.median_ms / time.unpruned_ms)


@pytest.mark.slow
def test_a_cut_cell_is_what_an_export_with_so_many_tokens_gives(found: Sweep, folder: Path, tmp_path: Path) -> None:
    place = Place(threads=1)
    bundles = {load(one).manifest.method: one for one in (folder / BUNDLES).iterdir() if load(one).manifest.nested}
    shard = Shard(0, drawn(COUNT))
    own = work.export(place, Graph(Variant("divprune"), 6), tmp_path / "own")
    (cut,) = work.answers(place, bundles["divprune"], shard, [(6, RIGHT)])
    (exported,) = work.answers(place, tmp_path / "own", shard, [(6, RIGHT)])
    assert cut == exported
    (row,) = [row for row in found.rows if (row.method, row.keep) == ("divprune", 6)]
    assert np.mean(cut["score"]) == row.values[ALL].value
    assert row.multiply_adds == pytest.approx(own["multiply_adds"], rel=0.01)
    assert (row.graph_keep, own["keep"]) == (24, 6)


@pytest.mark.slow
def test_without_a_language_part_it_is_fidelity(
    tmp_path: Path, clip_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = clip_folder(tmp_path / "clip")
    images = tmp_path / "images"
    images.mkdir()
    for at in range(3):
        noise = np.random.default_rng(at).integers(0, 256, (48, 48, 3), dtype=np.uint8)
        Image.fromarray(noise).save(images / f"{at}.png")
    monkeypatch.setattr(variants, "CONTROLS", (Variant("random"), Variant("pool")))
    request = Request(
        tmp_path / "out", methods=("fastervlm", "zoo"), keep=(9,), model=str(model), images=str(images), speed=False
    )
    result = sweep(request)
    rows = {row.method: row for row in result.rows}
    assert result.columns == ("nearest", "cosine", "overlap", "coverage")
    assert list(rows) == ["unpruned", "fastervlm", "random (1 seeds)", "pool", "zoo"]
    assert "two-layer projector" in rows["zoo"].refused
    assert {name: mean.value for name, mean in rows["unpruned"].values.items()} == {
        "nearest": 1.0, "cosine": pytest.approx(1, abs=1e-5), "overlap": 1.0, "coverage": 1.0,
    }  # fmt: skip
    best, drawn_ = rows["fastervlm"].values, rows["random (1 seeds)"].values
    assert best["overlap"].value == 1.0
    assert best["coverage"].value > drawn_["coverage"].value
    assert best["cosine"].value == pytest.approx(1, abs=1e-5)
    assert rows["pool"].values["cosine"].value < 1 - 1e-3  # means of cells


def test_questions_of_ones_own_are_asked(tmp_path: Path) -> None:
    from edgeprune.probes import scenes

    folder = scenes()[0].parent
    lines = [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]
    asked = [{**line, "type": "ours"} for line in lines if line["image"] in ("scene00.png", "scene01.png")]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, asked)))
    request = Request(
        tmp_path / "out", images=str(folder), questions=tmp_path / "q.jsonl", workers=1, longest=2, speed=False
    )
    place, language, items = _place_and_items(request)
    assert language
    record = work.export(place, Graph(Variant("none"), 0), tmp_path / "whole")
    assert (record["refused"], record["patches"], record["cuts"]) == ("", 144, False)
    (result,) = work.answers(place, tmp_path / "whole", Shard(0, items), [(0, RIGHT)])
    assert len(result["answer"]) == len(asked)
    assert np.mean(result["score"]) > 0.7  # the model is not always right


def _place_and_items(request: Request) -> tuple[Any, bool, Any]:
    from edgeprune.quality.sweep.request import images_of, place_of

    place, _, language = place_of(request)
    return place, language, images_of(request, language)


@pytest.mark.slow
def test_a_method_is_asked_by_the_words_of_each_question(tmp_path: Path) -> None:
    request = Request(tmp_path / "out", methods=("mmtok", "trim"), keep=(12,), count=COUNT, workers=1, speed=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(variants, "CONTROLS", ())
        rows = {row.method: row for row in sweep(request).rows}
    assert rows["mmtok"].values[ALL].value > rows["no token"].values[ALL].value
    assert "--text-model" in rows["trim"].refused  # it is asked in CLIP's space, and there is none
