"""What cells come to: shares with their errors, gains over the unpruned row, seeds put together; and how it is told."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from edgeprune.cli.tables.choosing import choosing
from edgeprune.cli.tables.quality import placed
from edgeprune.errors import RequestError
from edgeprune.quality.errors import Mean, clustered
from edgeprune.quality.sweep.items import Item, Query
from edgeprune.quality.sweep.plots import PLOTS, plot
from edgeprune.quality.sweep.rows import ALL, Row, Sweep, read, rows_of
from edgeprune.quality.sweep.saving import save
from edgeprune.quality.sweep.texts import to_csv, to_markdown
from edgeprune.quality.sweep.variants import RANDOM, UNPRUNED, Variant
from edgeprune.quality.sweep.work import RIGHT, Graph

SETTING: tuple[str, int | None] = ("float32", None)
QUERIES = (Query("color", "?", "red"), Query("count", "?", "two"), Query("color", "?", "blue"))
ITEMS = [Item("a", (0, 0), QUERIES), Item("b", (0, 1), QUERIES[:2]), Item("c", (0, 2), QUERIES[:1])]
BASE = [1.0, 1.0, 0.0, 1.0, 0.0, 1.0]
PRUNED = [1.0, 0.0, 0.0, 0.0, 0.0, 1.0]
ABOUT = {"model": "tiny", "images": 3, "questions": 6, "data": "scenes"}


def rows(cells: dict[Variant, list[float]], **times: Any) -> tuple[Row, ...]:
    """Of methods at K = 8, in two shards."""
    serving: dict[Any, Graph] = {(one, 8, SETTING): Graph(one, 8, *SETTING) for one in cells}
    serving[UNPRUNED, 0, SETTING] = Graph(UNPRUNED, 0)
    records: dict[Graph, dict[str, Any]] = {
        graph: {"refused": "", "keep": graph.keep or 144, "multiply_adds": 900, "per_token": 5, "cuts": True}
        for graph in serving.values()
    }
    records[Graph(UNPRUNED, 0)]["multiply_adds"] = 1000
    values: dict[tuple[Variant, int, tuple[str, int | None], str], list[float]] = {
        (UNPRUNED, 0, SETTING, RIGHT): BASE,
        **{(one, 8, SETTING, RIGHT): own for one, own in cells.items()},
    }
    shards: dict[Any, list[dict[str, Any]]] = {
        key: [{"score": own[:3], "answer": []}, {"score": own[3:], "answer": []}] for key, own in values.items()
    }
    measured = {serving[one, 8, SETTING]: times[one.method] for one in cells if one.method in times}
    return rows_of(shards, serving, records, measured, ITEMS)


def test_shares_are_clustered_by_image_and_gains_are_paired() -> None:
    unpruned, pruned = rows({Variant("fastervlm"): PRUNED})
    assert {name: mean.value for name, mean in unpruned.values.items()} == {"color": 0.75, "count": 0.5, ALL: 4 / 6}
    assert pruned.values[ALL] == clustered(PRUNED, [0, 0, 0, 1, 1, 2])
    off = [own - base for own, base in zip(PRUNED, BASE, strict=True)]
    assert pruned.gains[ALL] == clustered(off, [0, 0, 0, 1, 1, 2])
    assert pruned.gains["count"].value == -0.5
    assert {mean.value for mean in unpruned.gains.values()} == {0.0}


def test_seeds_of_random_are_one_row_whose_error_holds_how_far_they_lie_apart() -> None:
    own = [BASE, PRUNED, [0.0] * 6]
    _, other, row = rows({**dict(zip(RANDOM, own, strict=True)), Variant("dpp"): PRUNED})[0:3]
    assert [other.method, row.method] == ["random (3 seeds)", "dpp"]
    mean = [sum(values) / 3 for values in zip(*own, strict=True)]
    alone = clustered(mean, [0, 0, 0, 1, 1, 2])
    shares = [4 / 6, 2 / 6, 0.0]
    variance = sum((share - 1 / 3) ** 2 for share in shares) / 2
    assert other.values[ALL].value == pytest.approx(1 / 3)
    assert other.values[ALL].error == pytest.approx(math.sqrt(alone.error**2 + variance / 3))


def timed(doubt: str = "") -> dict[str, Any]:
    return {
        "median_ms": 9.0, "unpruned_ms": 10.0, "ratio": 0.9, "interval": [0.8, 0.95], "doubt": doubt, "rounds": 20,
    }  # fmt: skip


def found(doubt: str = "") -> Sweep:
    measured = rows({Variant("fastervlm"): PRUNED, Variant("pool"): BASE}, fastervlm=timed(), pool=timed(doubt))
    refused = Row("scope", 8, *SETTING, refused="no [CLS] | here")
    return Sweep((*measured, replace(measured[1], keep=4), refused), ABOUT, ("a warning",))


def test_the_markdown_has_a_row_for_each_and_says_what_was_refused() -> None:
    text = to_markdown(found("the machine is restless"))
    head, rule, *lines = text.splitlines()
    assert head == "| method | K | color | count | all | lost | adds | time |"
    assert rule.count("---:") == 7
    assert lines[0].startswith("| unpruned | 144 | 75.0 ±")
    assert lines[1].endswith("| 0.900 | 0.900 |")
    assert lines[2].endswith("| 0.900 | unknown |")
    assert "of 3 images with 6 questions (scenes)" in text
    assert "No time is told for 1 rows: the machine is restless." in text
    assert "scope, 8 tokens: refused: no [CLS] | here." in text


def test_the_csv_has_every_figure() -> None:
    first, second, *_, last = csv.DictReader(io.StringIO(to_csv(found())))
    assert (first["method"], first["all_value"], first["time_ratio"]) == ("unpruned", str(4 / 6), "")
    assert (second["keep"], second["graph_keep"], second["all_gain"]) == ("8", "8", str(-2 / 6))
    assert (second["time_low"], second["time_high"]) == ("0.8", "0.95")
    assert (last["method"], last["refused"], last["all_value"]) == ("scope", "no [CLS] | here", "")


def test_what_is_saved_is_read_again(tmp_path: Path) -> None:
    given = found()
    names = [path.name for path in save(given, tmp_path)]
    assert names == ["table.md", "table.csv", "sweep.json", "tokens.svg", "multiply-adds.svg", "time.svg"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert read(tmp_path / "sweep.json") == given
    assert json.loads((tmp_path / "sweep.json").read_text())["rows"][0]["method"] == "unpruned"


def test_an_error_that_is_not_known_is_null_in_json(tmp_path: Path) -> None:
    row = found().rows[0]
    alone = Sweep((replace(row, values={ALL: replace(row.values[ALL], error=math.nan)}, gains={}),), ABOUT)
    save(alone, tmp_path)
    assert json.loads((tmp_path / "sweep.json").read_text())["rows"][0]["values"][ALL]["error"] is None
    assert math.isnan(read(tmp_path / "sweep.json").rows[0].values[ALL].error)


@pytest.mark.parametrize("text", ["", "[]", '{"rows": 3}', '{"rows": [{"method": "x"}]}'])
def test_what_is_no_sweep_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(RequestError, match=r"sweep.json must be what `edgeprune sweep` wrote"):
        read(tmp_path / "sweep.json")


def test_plots_are_svg_with_text_and_a_place_without_rows_has_none(tmp_path: Path) -> None:
    given = found()
    for name, (label, _) in PLOTS.items():
        assert plot(given, name, tmp_path / name)
        texts = {one.text for one in ElementTree.parse(tmp_path / name).iter("{http://www.w3.org/2000/svg}text")}
        assert {label, "fastervlm", "pool", "unpruned"} <= texts
    first = (tmp_path / "tokens").read_bytes()
    plot(given, "tokens", tmp_path / "tokens")
    assert (tmp_path / "tokens").read_bytes() == first
    untimed = Sweep(tuple(replace(row, time=None) for row in given.rows), ABOUT)
    assert not plot(untimed, "time", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_disk_that_is_full_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(RequestError, match=r"out cannot be written: .*; choose another --output"):
        save(found(), tmp_path / "out")


def test_the_table_takes_its_place_in_a_page() -> None:
    given = Sweep(found().rows, {**ABOUT, "machine": "a CPU", "versions": {"edgeprune": "1", "torch": "2"}})
    page = "# Quality\n<!-- quality -->\nNot run yet.\n<!-- /quality -->\nBehind.\n"
    once = placed(page, given)
    assert once.startswith("# Quality\n<!-- quality -->\n| method | K |")
    assert once.endswith("a CPU; edgeprune 1, torch 2.\n<!-- /quality -->\nBehind.\n")
    assert "Not run" not in once
    assert placed(once, given) == once
    with pytest.raises(RequestError, match="the page must have <!-- quality -->"):
        placed("# Quality", given)


def test_the_page_of_the_project_has_a_place_for_it() -> None:
    page = Path(__file__).parents[3] / "docs" / "quality.md"
    given = Sweep(found().rows, {**ABOUT, "machine": "a CPU", "versions": {}})
    assert "| unpruned | 144 |" in placed(page.read_text(encoding="utf-8"), given)


def test_the_table_for_choosing_has_what_each_method_needs_and_loses_and_what_papers_say() -> None:
    def row(method: str, keep: int, gain: float) -> Row:
        return replace(
            rows({UNPRUNED: BASE, Variant("fastervlm"): PRUNED})[-1],
            method=method,
            keep=keep,
            gains={ALL: Mean(gain, 0.01, 6, 3)},
            multiply_adds=90,
            unpruned_multiply_adds=100,
        )

    given = [row(name, keep, gain / 100) for name, gain in (("divprune", -3), ("zoo", -2)) for keep in (64, 32, 16)]
    table = choosing(Sweep((*given, row("fastervlm", 64, 0)), ABOUT), {"zoo": "95.2"}).splitlines()
    assert table[2] == "| `zoo` | two-layer projector | 0.90 | 2.0 ±1.0 | 2.0 ±1.0 | 2.0 ±1.0 | 95.2 |"
    assert [line.split()[1] for line in table[2:4]] == ["`zoo`", "`divprune`"]
    assert not [line for line in table if "fastervlm" in line]  # not at every budget
