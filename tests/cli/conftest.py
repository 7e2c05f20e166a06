"""A command line to be called, in this process and in one of its own, and a bundle that it made."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

EXPORT = ("export", "--method", "fastervlm")


class Done(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, beside `bundle` if a test asks for one."""
    folder = tmp_path / "desk"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def run(desk: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """(arguments) -> exit code, stdout, stderr; in this process, which has torch loaded already."""
    from edgeprune.cli import main

    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments: object) -> Done:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["edgeprune", *map(str, arguments)])
        before = signal.getsignal(signal.SIGTERM)
        try:
            main()
        except SystemExit as exit:
            return Done(int(exit.code or 0), *capfd.readouterr())
        finally:
            signal.signal(signal.SIGTERM, before)

    return call


def process(*arguments: object, code: str = "from edgeprune.cli import main; main()", **environment: str) -> Done:
    """The same in a process of its own; `code` may change what it needs first."""
    done = subprocess.run(
        [sys.executable, "-B", "-c", code, *map(str, arguments)],
        capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "80"} | environment,
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)


def module(*arguments: object) -> Done:
    command = [sys.executable, "-B", "-m", "edgeprune", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


def said(done: Done, code: int = 2) -> str:
    """The one line of an error, after `edgeprune: `."""
    lines = done.err.splitlines()
    assert (done.code, done.out, len(lines)) == (code, "", 1), done
    assert lines[0].startswith("edgeprune: ")
    assert "unexpected" not in lines[0]
    return lines[0].removeprefix("edgeprune: ")


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """A bundle of the default model, and what its export printed; not to be changed.

    EXPORTED may name one that was made elsewhere: where there is no torch (.ci/lowest).
    """
    if made := os.environ.get("EXPORTED"):
        return Path(made), Done(0, f"wrote {made}\n", "")
    from filelock import FileLock

    own = tmp_path_factory.getbasetemp()
    place = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "exported"
    with FileLock(f"{place}.lock"):  # the first worker that asks makes it
        said = place / "said.json"
        place.mkdir(exist_ok=True)
        if not said.exists():
            done = process(*EXPORT, "--keep", 64, "--no-baselines", "--output", place / "desk" / "out")
            said.write_text(json.dumps(done))
    return place / "desk" / "out", Done(*json.loads(said.read_text()))


@pytest.fixture
def bundle(exported: tuple[Path, Done], tmp_path: Path) -> Path:
    """A copy of it that may be changed."""
    return Path(shutil.copytree(exported[0], tmp_path / "bundle"))


@pytest.fixture(name="process", scope="session")
def process_fixture() -> Callable[..., Done]:
    return process


@pytest.fixture(name="module", scope="session")
def module_fixture() -> Callable[..., Done]:
    return module


@pytest.fixture(name="said", scope="session")
def said_fixture() -> Callable[..., str]:
    return said
