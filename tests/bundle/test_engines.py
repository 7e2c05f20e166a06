"""An engine joins a bundle: whole, listed, one after the other, and wherever the machine stops, the bundle loads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeprune import bundle
from edgeprune.bundle import MANIFEST, Plan, load, places
from edgeprune.errors import BundleError
from tests.covering import always

Contents = Callable[[Path], dict[str, "bytes | None"]]
Edit = Callable[[Path, Callable[[dict[str, Any]], object]], None]
Fill = Callable[..., None]
Refusal = Callable[[Path], str]

ENTRY = Plan("encoder.x.plan", "tensorrt-rtx", "1.7.1.116", (86,), "Linux x86_64", ("STRONGLY_TYPED",), 7)


def test_an_engine_is_listed_with_its_plan(folder: Path) -> None:
    manifest = bundle.add_engine(load(folder), "x", ENTRY, b"plan")
    assert load(folder).manifest == manifest
    assert load(folder).path("encoder.x.plan").read_bytes() == b"plan"
    assert json.loads((folder / MANIFEST).read_text())["engines"]["x"]["sm"] == [86]
    more = bundle.add_engine(load(folder), "y", replace(ENTRY, plan="encoder.y.plan"), b"other")
    assert set(more.engines) == {"x", "y"}
    assert load(folder).manifest == more


def test_an_engine_of_the_same_target_is_replaced(folder: Path) -> None:
    bundle.add_engine(load(folder), "x", ENTRY, b"plan")
    bundle.add_engine(load(folder), "x", replace(ENTRY, build_ms=8), b"new plan")
    assert load(folder).manifest.engines["x"].build_ms == 8
    assert load(folder).path("encoder.x.plan").read_bytes() == b"new plan"
    assert sorted(os.listdir(folder)) == ["encoder.onnx", "encoder.x.plan", MANIFEST, "more"]


def test_an_engine_without_its_plan_is_refused(folder: Path, edit: Edit, refusal: Refusal) -> None:
    bundle.add_engine(load(folder), "x", ENTRY, b"plan")
    edit(folder, lambda given: given["files"].pop("encoder.x.plan"))
    assert "files must list encoder.x.plan, the plan for x; export the bundle again" in refusal(folder)


def test_an_entry_that_could_not_be_read_again_is_not_written(folder: Path, contents: Contents) -> None:
    before = contents(folder)
    with pytest.raises(BundleError, match="text that can be printed"):
        bundle.add_engine(load(folder), "x", replace(ENTRY, version="\x1b[2J"), b"plan")
    assert contents(folder) == before


@pytest.mark.parametrize("there", always(["nothing", "an engine", "a loose plan"], "an engine"))
@pytest.mark.parametrize("failing", ["rename", "replace", "open"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")], ids=repr)
@pytest.mark.parametrize("at", [0, 1])
def test_a_plan_that_cannot_be_added_leaves_the_bundle_as_it_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch, contents: Contents,
    there: str, failing: str, error: BaseException, at: int,
) -> None:  # fmt: skip
    if there == "an engine":
        bundle.add_engine(load(folder), "x", ENTRY, b"plan")
    elif there == "a loose plan":
        (folder / ENTRY.plan).write_bytes(b"of build.sh")
    found, before, done = load(folder), contents(folder), getattr(Path, failing)
    calls = 0

    def fail(path: Path, *arguments: Any, **options: Any) -> Any:
        nonlocal calls
        if path.parent == folder and path.name != MANIFEST and not (failing == "open" and arguments == ("rb",)):
            calls += 1
            if calls == at + 1:
                raise error
        return done(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, failing, fail)
        said = None
        try:
            bundle.add_engine(found, "x", replace(ENTRY, build_ms=8), b"new plan")
        except (KeyboardInterrupt, BundleError) as raised:
            said = raised
    assert load(folder)
    if said is None:
        assert calls <= at  # there are not so many
        return
    assert contents(folder) == before
    if isinstance(error, OSError):
        assert "cannot be written" in str(said)
        assert "No space left on device; make room" in str(said)


STEPS = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from edgeprune import bundle
from test_engines import ENTRY
from dataclasses import replace
left = int(sys.argv[2])
def step(event, arguments):
    global left
    if event in ("open", "os.rename", "os.remove"):
        if event == "open" and (not isinstance(arguments[2], int) or not arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        left -= 1
        if left < 0:
            os._exit(9)
found = bundle.load(sys.argv[1])
sys.addaudithook(step)
bundle.add_engine(found, "x", replace(ENTRY, build_ms=8), b"new plan")
"""


@pytest.mark.slow
@pytest.mark.parametrize("there", always([False, True], True))
def test_a_build_that_is_killed_at_any_step_leaves_a_bundle_that_loads_and_can_be_built_again(
    tmp_path: Path, fill: Fill, there: bool
) -> None:
    """Killed in front of every write, rename and removal, one after the other, until it comes through."""
    for step in range(30):
        folder = tmp_path / f"out{step}"
        folder.mkdir()
        fill(folder)
        if there:
            bundle.add_engine(load(folder), "x", ENTRY, b"plan")
        words = [sys.executable, "-B", "-c", STEPS, str(folder), str(step), str(Path(__file__).parent)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode in (0, 9), done.stderr
        engines = load(folder).manifest.engines
        assert engines.get("x", ENTRY).build_ms in (7, 8)
        if done.returncode == 0:
            break
        bundle.add_engine(load(folder), "x", ENTRY, b"plan")
        assert load(folder).path("encoder.x.plan").read_bytes() == b"plan"
        assert not [name for name in os.listdir(folder) if name.startswith(".")]
    assert 8 <= step < 29


@pytest.mark.slow
def test_builds_at_the_same_time_lose_no_plan(folder: Path) -> None:
    """Each has loaded the bundle before any of them adds to it; the folder is taken until all wait for it."""
    program = """
import sys
from dataclasses import replace
sys.path.insert(0, sys.argv[3])
from edgeprune import bundle
from test_engines import ENTRY
found = bundle.load(sys.argv[1])
print("ready", flush=True)
name = sys.argv[2]
bundle.add_engine(found, name, replace(ENTRY, plan=f"encoder.{name}.plan"), name.encode())
"""
    names = ["a", "b", "c", "d"]
    with places.locked(folder):
        words = [sys.executable, "-B", "-c", program, str(folder)]
        running = [
            subprocess.Popen([*words, name, str(Path(__file__).parent)], stdout=subprocess.PIPE, text=True)
            for name in names
        ]
        for process in running:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
    for process in running:
        process.communicate()
    assert [process.returncode for process in running] == [0] * 4
    found = load(folder)
    assert {name: found.path(one.plan).read_text() for name, one in found.manifest.engines.items()} == {
        name: name for name in names
    }


def test_a_bundle_that_was_replaced_during_the_build_does_not_get_the_plan(
    folder: Path, fill: Fill, contents: Contents
) -> None:
    found = load(folder)
    with bundle.writing(folder, force=True) as scratch:
        fill(scratch, b"\x08\x09")
    before = contents(folder)
    with pytest.raises(BundleError, match="has changed while the engine was built; build it again"):
        bundle.add_engine(found, "x", ENTRY, b"plan")
    assert contents(folder) == before
