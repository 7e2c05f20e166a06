"""`edgeprune sweep` from its words to its files. Exports and answers are made up."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgeprune.cli.sweep import command
from edgeprune.errors import EdgepruneError

SMALL = ("--methods", "fastervlm,hiprune", "--keep", "16,8", "--count", "7", "--workers", "1", "--no-speed")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(command, list(map(str, arguments)))


def test_it_writes_its_tables_and_plots_and_says_so(drawn: Any, tmp_path: Path) -> None:
    done = call(*SMALL, "--output", tmp_path / "out")
    assert done.exit_code == 0, done.output
    files = ["multiply-adds.svg", "sweep.json", "table.csv", "table.md", "tokens.svg"]
    assert sorted(os.listdir(tmp_path / "out")) == ["cache", *files]
    lines = [line.split() for line in done.output.splitlines()]
    assert ["method", "K", "color", "shape", "count", "existence", "all", "lost", "adds"] in lines
    assert ["unpruned", "144", *["100.0"] * 5, "1.000"] in lines
    assert done.output.splitlines()[-1] == (
        f"wrote table.md, table.csv, sweep.json, tokens.svg, multiply-adds.svg into {tmp_path / 'out'}"
    )
    assert max(map(len, done.output.splitlines()[:-1])) <= 80


def test_it_prints_json_alone(drawn: Any, tmp_path: Path) -> None:
    given = json.loads(call(*SMALL, "--json", "--output", tmp_path / "out").output)
    assert given.keys() == {"output", "rows", "about", "warnings"}
    stored = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert {**stored, "output": str(tmp_path / "out")} == given


@pytest.mark.slow
def test_a_refused_method_is_told_below_the_table(drawn: Any, tmp_path: Path) -> None:
    drawn.refused["hiprune"] = "hiprune must read a layer"
    done = call(*SMALL, "--wide", "--output", tmp_path / "out")
    assert "hiprune, 16 tokens: refused: hiprune must read a layer." in done.output
    assert "5.6 ±0.0" in done.output  # of 8 of 144 tokens


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--methods", "fastvlm"), "Did you mean 'fastervlm'"),
        (("--methods", ""), "--methods must name at least one, got ''"),
        (("--keep", "many"), "--keep must be numbers with commas between them, as 64,32, got many"),
        (("--keep", "0"), "--keep must be 1 or more, got 0"),
        (("--precision", "int4"), "--precision must be one of float32, float16, int8, int8-dynamic; got int4"),
        (("--layer", "last"), "--layer must be numbers"),
        (("--questions", "q.jsonl"), "--questions goes with --images DIR"),
    ],
)
def test_a_wrong_request_is_one_line_and_writes_nothing(
    drawn: Any, tmp_path: Path, given: tuple[str, ...], said: str
) -> None:
    done = call(*given, "--output", tmp_path / "out")
    error = done.exception
    assert done.exit_code == 2 or (isinstance(error, EdgepruneError) and error.exit_code == 2)
    assert said in done.output + str(error)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_interrupted_it_says_how_to_go_on(drawn: Any, tmp_path: Path) -> None:
    def interrupt(name: str) -> None:
        if name.startswith("export hiprune"):
            raise KeyboardInterrupt

    drawn.before = interrupt
    before = signal.getsignal(signal.SIGTERM)
    done = call(*SMALL, "--output", tmp_path / "out")
    assert done.exit_code == 130
    assert f"interrupted; what was computed is kept in {tmp_path / 'out'}, and the same command goes on" in done.output
    assert signal.getsignal(signal.SIGTERM) is before
    drawn.before = lambda name: None
    assert call(*SMALL, "--output", tmp_path / "out").exit_code == 0
    assert len(drawn.exported) == len(set(drawn.exported))


def test_ended_from_outside_it_says_the_same(drawn: Any, tmp_path: Path) -> None:
    drawn.before = lambda name: os.kill(os.getpid(), signal.SIGTERM)
    done = call(*SMALL, "--output", tmp_path / "out")
    assert done.exit_code == 128 + signal.SIGTERM
    assert "terminated; what was computed is kept" in done.output
