"""`edgeprune train`: what it prints, what it writes, and what it refuses in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeprune.pruners.learnpruner import Method
from tests.cli.conftest import Run

TRAIN = ("train", "learnpruner", "--count", "4", "--epochs", "1", "--batch", "4")


def test_it_trains_into_a_folder_of_its_name_which_export_takes(run: Run, desk: Path) -> None:
    done = run(*TRAIN, "--json")
    assert done.code == 0
    made = json.loads(done.out)
    assert (made["output"], made["data"]) == ("learnpruner-scorer", "drawn scenes of seed 47")
    assert Method.read(desk / "learnpruner-scorer").made["loss"] == made["loss"]
    again = run(*TRAIN)
    assert (again.code, again.err.strip()) == (
        2,
        "edgeprune: learnpruner-scorer exists; choose another --output, go on with --resume, or replace it with "
        "--force",
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("train", "fastervlm"),
            "`edgeprune train` trains covipal, focusui, learnpruner; got fastervlm: it has nothing to learn",
        ),
        (("train", "bavit"), "got bavit: train it with `edgeprune bavit train`"),
        (("train", "lernpruner"), "no method 'lernpruner'"),
        ((*TRAIN, "--images", "."), "--images and --questions go together"),
        ((*TRAIN, "--resume", "--force"), "--resume and --force exclude each other"),
    ],
)
def test_what_cannot_be_met_is_one_line(run: Run, desk: Path, arguments: tuple[str, ...], said: str) -> None:
    done = run(*arguments)
    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") == 1
    assert not [*desk.iterdir()]
