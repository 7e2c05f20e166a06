"""docs/ci.md does what it says: the commands of its workflow are run word for word, one after the other."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import click
import pytest

from edgeprune.cli import cli

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
EXTRAS = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), flags=re.MULTILINE)


def steps() -> list[dict[str, Any]]:
    yaml: Any = pytest.importorskip("yaml")  # transformers brings it
    (block,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    found: list[dict[str, Any]] = yaml.safe_load(block)["jobs"]["bundle"]["steps"]
    return found


def test_every_verb_and_option_that_it_uses_exists() -> None:
    """Without running them, which takes a minute."""
    lines = re.findall(r"run: edgeprune (.+)$", PAGE, flags=re.MULTILINE)
    assert [line.split()[0] for line in lines] == ["doctor", "export", "verify", "audit", "diff"]
    for line in lines:
        command = cli.get_command(click.Context(cli, **cli.context_settings), line.split()[0])
        assert command is not None
        options = {name for parameter in command.params for name in parameter.opts}
        assert {word for word in line.split() if word.startswith("--")} <= options


def test_what_is_installed_are_extras_that_there_are() -> None:
    (extras,) = re.findall(r"edgeprune\[([\w,]+)\]", PAGE)
    assert {*extras.split(",")} <= {*EXTRAS}


def program(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.mark.slow
def test_the_workflow_runs_word_for_word(tmp_path: Path) -> None:
    """In a fresh folder; `pip` is played, and so is the cache, which brings the same bundle back as the last one."""
    pytest.importorskip("tensorrt_rtx")
    programs, desk = tmp_path / "bin", tmp_path / "desk"
    programs.mkdir()
    desk.mkdir()
    program(programs, "pip", "exit 0")
    program(programs, "edgeprune", f'exec "{sys.executable}" -B -m edgeprune "$@"')
    environment = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    said = {}
    for step in steps():
        if step.get("uses", "").startswith("actions/cache/restore"):
            shutil.copytree(desk / "bundle", desk / step["with"]["path"])
        if "run" not in step:
            continue
        done = subprocess.run(
            ["bash", "-e", "-c", step["run"]], cwd=desk, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (step["run"], done.stderr)
        said[step["name"]] = done.stdout
    assert said["Compare"].splitlines()[-1].startswith("kept sets change by up to 0.0%, tokens differ by up to 0.0e+00")
    report = ElementTree.parse(desk / "parity.xml").getroot()
    assert int(report.get("tests", "0")) > 0
    assert report.get("failures") == "0"
    assert (desk / "released" / "manifest.json").is_file()
