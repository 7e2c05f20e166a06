"""What nothing beats, and how a sweep with steps inside the encoder is drawn and told."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from edgeprune.cli.tables.sweep import sweep_table
from edgeprune.quality.errors import Mean
from edgeprune.quality.sweep.frontier import frontier
from edgeprune.quality.sweep.plots import plot
from edgeprune.quality.sweep.rows import ALL, Row, Sweep
from edgeprune.quality.sweep.texts import to_markdown

SVG = "{http://www.w3.org/2000/svg}"


def row(method: str, keep: int, share: float, cost: float) -> Row:
    values = {ALL: Mean(share, 0.01, 100, 10)}
    return Row(method, keep, "float32", None, "", values, values, round(1000 * cost), 1000, keep)


def best(*rows: Row, near: float = 0.0) -> list[str]:
    return [one.method for one in frontier(rows, ALL, lambda row: row.multiply_adds / 1000, near)]


def test_what_is_dearer_and_no_better_is_not_on_it() -> None:
    cheap, good, beaten = row("cheap", 8, 0.7, 0.5), row("good", 8, 0.9, 0.8), row("beaten", 8, 0.7, 0.6)
    assert best(good, beaten, cheap) == ["cheap", "good"]
    assert best(good, row("worse", 8, 0.8, 0.8)) == ["good"]
    assert best() == []


def test_costs_that_nearly_agree_are_one() -> None:
    rows = row("tome", 8, 0.9, 0.508), row("drop", 8, 0.7, 0.5)
    assert best(*rows) == ["drop", "tome"]
    assert best(*rows, near=0.01) == ["tome"]


def swept(*reducers: str) -> Sweep:
    rows = [row("unpruned", 144, 0.95, 1.0)]
    for keep in (32, 16):
        rows.append(row("fastervlm", keep, 0.9, 0.8))
        for at, name in enumerate(reducers):
            rows += [row(f"fastervlm+{name}@{cost}", keep, 0.9 - 0.1 * at - 0.01 / cost, cost) for cost in (0.6, 0.5)]
        rows.append(row("pool", keep, 0.7, 0.9))
    return Sweep(tuple(rows), {"model": "tiny", "images": 10, "questions": 100, "data": "scenes"})


def texts(file: Path) -> list[str]:
    return [one.text or "" for one in ElementTree.parse(file).iter(f"{SVG}text")]


def test_the_frontier_is_drawn_and_named_for_each_count_of_tokens(tmp_path: Path) -> None:
    assert plot(swept("tome", "drop"), "multiply-adds", tmp_path / "plot.svg")
    said = texts(tmp_path / "plot.svg")
    assert [said.count(one) for one in ("32 tokens", "16 tokens", "tome 0.5", "tome 0.6")] == [1, 1, 2, 2]
    assert [said.count(one) for one in ("drop 0.5", "drop 0.6", "fastervlm + drop", "pool")] == [0, 0, 1, 1]
    lines = [one.get("id") for one in ElementTree.parse(tmp_path / "plot.svg").iter(f"{SVG}g")]
    assert lines.count("frontier") == 2


def test_against_tokens_each_cost_has_its_panel(tmp_path: Path) -> None:
    assert plot(swept("tome"), "tokens", tmp_path / "plot.svg")
    said = texts(tmp_path / "plot.svg")
    for cost in ("0.6", "0.5"):
        assert said.count(f"encoder at {cost} of the multiply-adds") == 1


def test_ten_reducers_at_two_costs_have_one_entry_each(tmp_path: Path) -> None:
    names = [f"r{at}" for at in range(10)]
    assert plot(swept(*names), "multiply-adds", tmp_path / "plot.svg")
    said = texts(tmp_path / "plot.svg")
    assert [said.count(f"fastervlm + {name}") for name in names] == [1] * 10


def test_without_steps_inside_the_frontier_is_drawn_as_well(tmp_path: Path) -> None:
    assert plot(swept(), "multiply-adds", tmp_path / "plot.svg")
    assert "nothing better for less" in texts(tmp_path / "plot.svg")
    assert plot(swept(), "tokens", tmp_path / "tokens.svg")
    assert "nothing better for less" not in texts(tmp_path / "tokens.svg")


def test_the_table_has_what_is_inside_in_a_column_of_its_own() -> None:
    head, _, *lines = to_markdown(swept("tome")).splitlines()
    assert head == "| method | inside | K | all | lost | adds |"
    assert lines[2].startswith("| fastervlm | tome 0.6 | 32 | 88.3 ±1.0 |")
    assert "| method | K | all | lost | adds |" in to_markdown(swept())


def test_on_a_terminal_it_stands_below_its_method() -> None:
    names = [str(cell) for cell in sweep_table(swept("tome")).columns[0].cells]
    assert names == ["unpruned", *["fastervlm", "+ tome 0.6", "+ tome 0.5", "pool"] * 2]
