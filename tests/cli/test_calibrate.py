"""`edgeprune calibrate`: what it writes, and what is not in its way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from edgeprune.correction import read_correction
from edgeprune.pruners.hawk import Method

Run = Callable[..., Any]
SHORTENED = ("--method", "fastervlm", "--keep", 32, "--inside", "drop", "--schedule", "2:70,4:40")


@pytest.mark.slow
def test_a_bundle_of_the_same_options_is_not_in_its_way(run: Run, desk: Path) -> None:
    (desk / "tiny-fastervlm-drop-32-cpu").mkdir()  # where `export` with these options writes
    done = run("calibrate", *SHORTENED, "--count", 10, "--kind", "shift")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[-1] == "wrote correction.safetensors"
    assert read_correction(desk / "correction.safetensors").made["images"] == 10


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_a_folder_is_no_file_to_write(run: Run, desk: Path, force: tuple[str, ...]) -> None:
    (desk / "folder").mkdir()
    done = run("calibrate", *SHORTENED, "--output", "folder", *force)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "--output must be a file, folder is a folder" in done.err


def test_heads_are_weighed_for_a_method_that_reads_keys_of_the_language_model(run: Run, desk: Path) -> None:
    done = run("calibrate", "--method", "hawk", "--count", 3)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[-1] == "wrote heads.json"
    weights = json.loads((desk / "heads.json").read_text())["weights"]
    read = Method(9, "heads.json").prepared(torch.nn.Identity()).options()["weights"]
    assert [float(one) for one in read.split(",")] == weights
