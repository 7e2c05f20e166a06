"""`edgeprune export` from its words to its bundle."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

EXPORT = ("export", "--method", "fastervlm")
Done = Any
Run = Callable[..., Any]
Process = Callable[..., Any]
Said = Callable[..., str]


def test_an_export_says_what_it_wrote(exported: tuple[Path, Done]) -> None:
    folder, done = exported
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0].strip() == "fastervlm keeps 64 of 144 tokens (44%)"
    assert "parity on cpu: 100% decided, 0 wrong" in done.out
    assert lines[-1] == f"wrote {folder}"
    assert sorted(os.listdir(folder.parent)) == ["out"]


@pytest.mark.slow
def test_a_second_export_to_the_same_place_needs_force(run: Run, bundle: Path, said: Said) -> None:
    assert said(run(*EXPORT, "--keep", 9, "--output", bundle)) == (
        f"{bundle} exists; choose another --output or replace it with --force"
    )
    assert run(*EXPORT, "--keep", 9, "--no-baselines", "--output", bundle, "--force").code == 0
    assert json.loads(run("inspect", bundle, "--json").out)["keep"] == 9


@pytest.mark.slow
def test_an_export_prints_json_alone(desk: Path, run: Run) -> None:
    done = run(*EXPORT, "--keep", 9, "--no-baselines", "--json")
    assert (done.code, done.err) == (0, "")
    given = json.loads(done.out)
    assert given.keys() == {"bundle", "manifest", "parity"}
    assert (given["bundle"], given["manifest"]["keep"]) == ("tiny-fastervlm-9-cpu", 9)
    assert [report["passed"] for report in given["parity"]] == [True]
    assert os.listdir(desk) == ["tiny-fastervlm-9-cpu"]


def test_a_method_that_needs_cls_is_refused_without_it(
    run: Run, desk: Path, monkeypatch: pytest.MonkeyPatch, said: Said
) -> None:
    from edgeprune import encoders

    load = encoders.load

    def without_cls(*arguments: Any, **options: Any) -> encoders.Encoder:
        encoder = load(*arguments, **options)
        return replace(encoder, tower=replace(encoder.tower, has_cls=False))

    monkeypatch.setattr(encoders, "load", without_cls)
    assert re.search(r"fastervlm .* has no \[CLS\] token\. Use ", said(run(*EXPORT, "--keep", 4)))
    assert os.listdir(desk) == []


def test_a_missing_shard_is_refused(
    run: Run, desk: Path, tmp_path: Path, llava_folder: Callable[..., Path], said: Said
) -> None:
    folder = llava_folder(tmp_path / "llava", max_shard_size="60KB")
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    gone = next(file for name, file in index.items() if name.startswith("vision_tower."))
    (folder / gone).unlink()
    assert f"has no {gone}" in said(run(*EXPORT, "--keep", 4, "--model", folder))
    assert os.listdir(desk) == []


def test_a_probe_that_is_no_image_is_named(run: Run, desk: Path, tmp_path: Path, said: Said) -> None:
    (tmp_path / "probes").mkdir()
    (tmp_path / "probes" / "photo.jpg").write_bytes(b"not a photo")
    assert "photo.jpg" in said(run(*EXPORT, "--keep", 4, "--probes", tmp_path / "probes"))
    assert os.listdir(desk) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "code", "word"),
    [
        ("SIGINT", 130, "interrupted"),
        ("SIGTERM", 143, "terminated"),
        ("SIGHUP", 129, "terminated"),
    ],
    ids=str,
)
def test_a_signal_in_the_middle_of_an_export_leaves_nothing(
    desk: Path, name: str, code: int, word: str, process: Process
) -> None:
    """It arrives when the reference is written already, and the graphs are about to be made."""
    interrupted = f"""
import os, signal
from pathlib import Path
from edgeprune.export import job
if "{name}" == "SIGHUP":
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, and stays so
def trace(*_):
    assert [*Path("new").glob("*/reference.safetensors")]
    signal.raise_signal(signal.{name})
job._trace = trace
from edgeprune.cli import main
main()
"""
    done = process(*EXPORT, "--keep", 4, "--no-baselines", "--output", "new/out", code=interrupted)
    assert (done.code, done.out) == (code, "")
    assert done.err.splitlines()[-1] == f"edgeprune: {word}; nothing was written"
    assert os.listdir(desk) == []


def test_a_piped_export_says_each_stage_on_a_line(exported: tuple[Path, Done]) -> None:
    from edgeprune.export.job import BASELINES, STEPS

    steps = [step for step in STEPS if step != BASELINES]  # asked for without
    lines = [line.rpartition(" (")[0] for line in exported[1].err.splitlines()]
    assert lines == [f"[{at}/{len(steps)}] {step}" for at, step in enumerate(steps, start=1)]
