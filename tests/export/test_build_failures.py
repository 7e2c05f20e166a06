"""`edgeprune build` when something is wrong, as its user meets it: one line, the exit code, and the bundle as it was.

Each build is a process of its own. TensorRT-RTX is the real one, classic TensorRT is absent.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeprune import bundle, targets
from edgeprune.export import Exported
from tests.covering import always

RTX = "rtx-desktop"
PLAN = "encoder.rtx-desktop.plan"
MAIN = "from edgeprune.cli import main; main()"
WITHOUT = "import sys; sys.modules[{!r}] = None; " + MAIN
TELLING = f"""
from edgeprune.export.engine import Compiler
build = Compiler.build
Compiler.build = lambda self, show: build(self, lambda *step: (print("building", flush=True), show(*step)))
{MAIN}
"""
"""says when the builder is at work"""


@pytest.fixture(scope="module")
def exported(exported_once: Callable[..., Exported]) -> Path:
    return exported_once("fastervlm", RTX, keep=64).folder


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


def target(tmp_path: Path, change: Callable[[str], str]) -> Path:
    """The file of rtx-desktop with a change, under a name of its own."""
    text = (Path(targets.__file__).parent / f"{RTX}.toml").read_text(encoding="utf-8")
    assert change(text) != text
    (tmp_path / "own.toml").write_text(change(text), encoding="utf-8")
    return tmp_path / "own.toml"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def build(folder: Path, *arguments: object, code: str = MAIN, limit: int | None = None) -> tuple[int, str]:
    """The exit code, and the one line on stderr after `edgeprune: `. Asserts that nothing of the bundle has changed.

    limit: bytes that a file may have, as on a full disk
    """

    def set_limit() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    before = contents(folder)
    done = subprocess.run(
        [sys.executable, "-B", "-c", code, "build", str(folder), *map(str, arguments)],
        capture_output=True, text=True, check=False, preexec_fn=set_limit,
    )  # fmt: skip
    assert contents(folder) == before
    assert bundle.load(folder)
    assert (done.stdout, len(done.stderr.splitlines())) == ("", 1), done
    assert done.stderr.startswith("edgeprune: ")
    assert "unexpected" not in done.stderr
    return done.returncode, done.stderr.removeprefix("edgeprune: ").rstrip()


# What needs no builder.


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("topk_limit", "topk_limt", r"onnx.topk_limt: no field 'topk_limt'; have "),
        pytest.param("kind          = ", "# ", "engine.kind must be given", marks=pytest.mark.slow),
        pytest.param("kind          = ", "kind          ", "is not a TOML file: ", marks=pytest.mark.slow),
    ],
)
def test_a_target_file_with_a_wrong_field_is_refused(
    folder: Path, tmp_path: Path, old: str, new: str, said: str
) -> None:
    file = target(tmp_path, lambda text: text.replace(old, new))
    code, line = build(folder, "--target", file)
    assert code == 2
    assert said in line
    assert str(file) in line


def test_without_tensorrt_rtx_its_package_is_named(folder: Path) -> None:
    code, line = build(folder, code=WITHOUT.format("tensorrt_rtx"))
    assert (code, line) == (
        2,
        "needs the package tensorrt-rtx-cu13, which is not installed; pip install 'edgeprune[rtx]'",
    )


@pytest.mark.parametrize("name", always([name for name in targets.names() if targets.load(name).jetson], "jetson-orin"))
def test_without_tensorrt_the_jetpack_that_brings_it_is_named(folder: Path, name: str) -> None:
    code, line = build(folder, "--target", name, code=WITHOUT.format("tensorrt"))
    jetson = targets.load(name).jetson
    assert jetson is not None
    assert code == 2
    assert f"(JetPack {jetson.jetpack}) and run `bash build.sh`; the package tensorrt" in line


# The real builder.


@pytest.fixture
def rtx() -> None:
    pytest.importorskip("tensorrt_rtx")


@pytest.mark.slow
@pytest.mark.usefixtures("rtx")
def test_the_gpu_of_an_orin_is_built_for_on_the_device(folder: Path) -> None:
    code, line = build(folder, "--sm", 87)
    assert code == 2
    assert line.endswith("got 87; an engine for another one is built on the device, with TensorRT")


@pytest.mark.slow
@pytest.mark.usefixtures("rtx")
def test_too_little_workspace_fails_with_what_the_builder_says(folder: Path, tmp_path: Path) -> None:
    small = target(tmp_path, lambda text: text.replace('"rtx-desktop"', '"small"').replace("= 2048 ", "= 1 "))
    code, line = build(folder, "--target", small)
    assert code == 1
    assert "cannot build" in line
    assert "no tactics to implement the operation within workspace limit" in line
    assert line.endswith("; raise engine.workspace_mib of the target")


@pytest.mark.slow
@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize(
    "arguments",
    [pytest.param((), id="a first plan"), pytest.param(("--force",), id="another plan", marks=pytest.mark.slow)],
)
def test_a_disk_that_fills_up_is_named_and_what_was_there_stays(folder: Path, arguments: tuple[str, ...]) -> None:
    """The system refuses to let the plan, of 6 MB, grow beyond 1 MB."""
    if arguments:
        found = bundle.load(folder)
        entry = bundle.Plan(PLAN, "tensorrt-rtx", "1.7.1.116", (86,), "Linux x86_64", (), 7)
        bundle.add_engine(found, RTX, entry, b"the plan of before")
    code, line = build(folder, *arguments, limit=1 << 20)
    assert code == 2
    assert (
        line == f"{PLAN} cannot be written to {folder}: File too large; make room there, or copy the bundle elsewhere"
    )


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize(
    ("number", "code", "word"),
    always(
        [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")], (signal.SIGINT, 130, "interrupted")
    ),
)
def test_a_build_that_is_stopped_leaves_the_bundle_as_it_was(
    folder: Path, number: signal.Signals, code: int, word: str
) -> None:
    before = contents(folder)
    with subprocess.Popen(
        [sys.executable, "-B", "-c", TELLING, "build", str(folder)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "building\n"
        os.kill(process.pid, number)
        said = process.stderr.read()
    assert (process.returncode, said) == (code, f"edgeprune: {word}; nothing was written\n")
    assert contents(folder) == before
    assert bundle.load(folder)
