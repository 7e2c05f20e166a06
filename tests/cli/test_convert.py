"""`edgeprune convert`: what it prints, and that the refusal of a checkpoint names a command that works."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

Run = Callable[..., Any]
Said = Callable[..., str]
MakeFolder = Callable[..., Path]
EXPORT = ("export", "--method", "divprune", "--keep", 9, "--no-baselines", "--output", "out", "--model")


def pickled(folder: Path) -> Path:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


@pytest.mark.slow
def test_case_the_advice_for_a_pickled_checkpoint_ends_in_a_bundle(
    run: Run, desk: Path, clip_folder: MakeFolder, said: Said
) -> None:
    pickled(clip_folder(desk / "my model"))
    advice = said(run(*EXPORT, "my model")).partition("trust it: ")[2]
    program, *command = shlex.split(advice)
    assert (program, command) == ("edgeprune", ["convert", "my model"])
    done = run(*command)
    assert (done.code, done.err) == (0, "")
    assert done.out == "wrote my model-safetensors: 71 tensors, 0.2 MB\n"
    assert run(*EXPORT, "my model-safetensors").code == 0
    assert run("verify", "out").code == 0


def test_the_same_in_json(run: Run, desk: Path, clip_folder: MakeFolder) -> None:
    pickled(clip_folder(desk / "clip"))
    done = run("convert", "clip", "--output", "to", "--json")
    assert (done.code, done.err) == (0, "")
    written = json.loads(done.out)
    assert (written["folder"], written["tensors"], written["notes"]) == ("to", 71, [])


def test_a_folder_that_is_there_is_refused(run: Run, desk: Path, clip_folder: MakeFolder, said: Said) -> None:
    pickled(clip_folder(desk / "clip"))
    (desk / "to").mkdir()
    assert said(run("convert", "clip", "--output", "to")) == (
        "to exists; choose another --output or replace it with --force"
    )
    assert "to exists and is not a converted checkpoint" in said(run("convert", "clip", "--output", "to", "--force"))
    assert sorted(path.name for path in desk.iterdir()) == ["clip", "to"]


def test_the_folder_one_is_in_gets_its_name_too(run: Run, desk: Path, clip_folder: MakeFolder) -> None:
    pickled(clip_folder(desk / "x"))
    inside = desk.with_name("desk-safetensors")
    for path in (desk / "x").iterdir():
        path.rename(desk / path.name)
    assert run("convert", ".").out == f"wrote {inside}: 71 tensors, 0.2 MB\n"
    assert inside.is_dir()
