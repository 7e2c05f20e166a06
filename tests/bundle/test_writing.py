"""What `writing` leaves: a bundle under its name, or nothing; and never something else in its place."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeprune.bundle import MANIFEST, load, places, writing
from edgeprune.bundle.writing import sweep
from edgeprune.errors import BundleError

Contents = Callable[[Path], dict[str, "bytes | None"]]
Fill = Callable[..., None]
OTHER = b"\x08\x09"
"""another graph than that of `folder`"""


def fail(scratch: Path, fill: Fill, error: BaseException) -> None:
    fill(scratch, OTHER)
    raise error


@pytest.fixture(params=["renameat2", "without"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A kernel and a file system with renameat2, and one of those without."""
    if request.param == "without":
        monkeypatch.setattr(places, "_renameat2", lambda: None)
    return str(request.param)


def test_what_was_written_appears_under_its_name(tmp_path: Path, fill: Fill) -> None:
    with writing(tmp_path / "deep" / "er" / "out") as scratch:
        fill(scratch)
        assert not (tmp_path / "deep" / "er" / "out").exists()
    assert load(tmp_path / "deep" / "er" / "out").path("encoder.onnx").read_bytes() == b"\x08\x0a"
    assert os.listdir(tmp_path / "deep" / "er") == ["out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, BundleError, MemoryError])
@pytest.mark.parametrize("there", [False, True])
def test_a_failure_leaves_everything_as_it_was(
    tmp_path: Path, there: bool, error: type[BaseException], fill: Fill, contents: Contents
) -> None:
    if there:
        (tmp_path / "out").mkdir()
        fill(tmp_path / "out")
    before = contents(tmp_path)
    with pytest.raises(error), writing(tmp_path / "out", force=there) as scratch:
        fail(scratch, fill, error("on the way"))
    assert contents(tmp_path) == before


def test_a_failure_leaves_no_parent_folders_that_were_not_there(tmp_path: Path, fill: Fill, contents: Contents) -> None:
    (tmp_path / "here").mkdir()
    with pytest.raises(ValueError, match="half"), writing(tmp_path / "here" / "a" / "b" / "out") as scratch:
        fail(scratch, fill, ValueError("half"))
    assert contents(tmp_path) == {"here": None}


def test_an_existing_folder_is_refused_before_anything_is_done(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "dangling").symlink_to("nowhere")
    before = sorted(os.listdir(tmp_path))
    for name in ("out", "file", "empty", "dangling"):
        with (
            pytest.raises(BundleError, match=f"{name} exists; choose another --output or replace it with --force"),
            writing(tmp_path / name),
        ):
            pytest.fail("the block ran")
    assert sorted(os.listdir(tmp_path)) == before


def test_force_replaces_a_bundle(folder: Path, tmp_path: Path, fill: Fill, contents: Contents) -> None:
    (folder / "kept.png").write_bytes(b"picture")
    with writing(folder, force=True) as scratch:
        fill(scratch, OTHER)
    assert (folder / "encoder.onnx").read_bytes() == OTHER
    assert sorted(contents(tmp_path)) == [
        "out",
        "out/encoder.onnx",
        f"out/{MANIFEST}",
        "out/more",
        "out/more/notes.txt",
    ]


def test_force_replaces_a_damaged_bundle(folder: Path, fill: Fill) -> None:
    (folder / "encoder.onnx").unlink()
    with writing(folder, force=True) as scratch:
        fill(scratch)
    assert load(folder)


@pytest.mark.parametrize("text", [None, "", "{}", '{"name": "a browser extension", "manifest_version": 3}', "[1]"])
def test_force_never_replaces_what_is_not_a_bundle(tmp_path: Path, text: str | None, contents: Contents) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    if text is not None:
        (tmp_path / "out" / MANIFEST).write_text(text)
    before = contents(tmp_path)
    with pytest.raises(BundleError, match="not a bundle, so --force does not"), writing(tmp_path / "out", force=True):
        pytest.fail("the block ran")
    assert contents(tmp_path) == before


def test_force_never_replaces_a_file(tmp_path: Path, contents: Contents) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(BundleError, match="not a bundle"), writing(tmp_path / "out", force=True):
        pytest.fail("the block ran")
    assert contents(tmp_path) == {"out": b"mine"}


def test_force_without_anything_to_replace_just_writes(tmp_path: Path, fill: Fill) -> None:
    with writing(tmp_path / "out", force=True) as scratch:
        fill(scratch)
    assert load(tmp_path / "out")


def test_the_working_folder_itself_is_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (".", "", "..", "/"):
        with pytest.raises(BundleError, match="exists"), writing(Path(name)):
            pytest.fail("the block ran")


def test_a_parent_that_is_a_file_is_refused(tmp_path: Path, contents: Contents) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BundleError, match="cannot be written: Not a directory"), writing(tmp_path / "file" / "out"):
        pytest.fail("the block ran")
    assert contents(tmp_path) == {"file": b"mine"}


def test_a_parent_that_takes_nothing_is_refused() -> None:
    """/proc takes no folders, not even from root."""
    with (
        pytest.raises(BundleError, match=r"/proc/out cannot be written: .+; choose another"),
        writing(Path("/proc/out")),
    ):
        pytest.fail("the block ran")


def test_the_files_are_readable_by_whom_the_umask_lets(tmp_path: Path, fill: Fill) -> None:
    for umask, folder_mode, file_mode in ((0o022, 0o755, 0o644), (0o077, 0o700, 0o600), (0o027, 0o750, 0o640)):
        before = os.umask(umask)
        try:
            with writing(tmp_path / f"out{umask}") as scratch:
                fill(scratch)
                (scratch / "encoder.onnx").chmod(0o600)  # as safetensors writes its files
        finally:
            os.umask(before)
        modes = [path.stat().st_mode & 0o777 for path in (scratch.parent / f"out{umask}").rglob("*.*")]
        assert (tmp_path / f"out{umask}").stat().st_mode & 0o777 == folder_mode
        assert set(modes) == {file_mode}


LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)
from edgeprune.cli import main
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "falls_at"),
    [(1000, "reference.safetensors"), (1_500_000, "encoder.onnx")],
)
def test_without_space_an_export_says_so_and_leaves_nothing(
    tmp_path: Path, limit: int, falls_at: str, contents: Contents
) -> None:
    """A real limit on the size of files, under which the write of `falls_at` fails."""
    argv = ["export", "--method", "fastervlm", "--keep", "4", "--no-baselines", "--output", "new/out"]
    done = subprocess.run(
        [sys.executable, "-B", "-c", LIMITED, str(limit), *argv],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    *stages, last = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert last == "edgeprune: new/out cannot be written: File too large; choose another --output"
    assert all(line.startswith(f"[{at}/5] ") for at, line in enumerate(stages, 1))
    assert contents(tmp_path) == {}


# What appears in the meantime.


def test_a_folder_that_appears_in_the_meantime_is_not_replaced(
    tmp_path: Path, system: str, fill: Fill, contents: Contents
) -> None:
    def others(scratch: Path) -> None:
        fill(scratch)
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "thesis.tex").write_text("years of work")

    with pytest.raises(BundleError, match="out exists; choose another --output"), writing(tmp_path / "out") as scratch:
        others(scratch)
    assert contents(tmp_path) == {"out": None, "out/thesis.tex": b"years of work"}


@pytest.mark.parametrize("what", ["file", "empty", "dangling", "bundle"])
def test_nothing_that_appears_in_the_meantime_is_replaced(
    tmp_path: Path, system: str, fill: Fill, contents: Contents, what: str
) -> None:
    place, after = tmp_path / "out", {}

    def others(scratch: Path) -> None:
        nonlocal after
        fill(scratch)
        if what == "file":
            place.write_text("mine")
        elif what == "dangling":
            place.symlink_to("nowhere")
        else:
            place.mkdir()
        if what == "bundle":
            fill(place, OTHER)
        after = contents(place)

    with pytest.raises(BundleError, match="out exists"), writing(place) as scratch:
        others(scratch)
    assert os.path.lexists(place)
    assert contents(place) == after
    assert os.listdir(tmp_path) == ["out"]


def test_force_replaces_a_bundle_that_appears_in_the_meantime(tmp_path: Path, system: str, fill: Fill) -> None:
    with writing(tmp_path / "out", force=True) as scratch:
        fill(scratch)
        (tmp_path / "out").mkdir()
        fill(tmp_path / "out", OTHER)
    assert (tmp_path / "out" / "encoder.onnx").read_bytes() == b"\x08\x0a"
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("when", ["before it is looked at", "behind the look"])
def test_force_does_not_replace_what_is_no_bundle_any_more(
    folder: Path, tmp_path: Path, system: str, fill: Fill, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    def change() -> None:
        (folder / MANIFEST).unlink()
        (folder / "thesis.tex").write_text("years of work")

    def first(*paths: Path) -> None:
        monkeypatch.setattr(places, "swap", swap)
        change()
        swap(*paths)

    def others(scratch: Path) -> None:
        fill(scratch, OTHER)
        if when == "before it is looked at":
            change()
        else:
            monkeypatch.setattr(places, "swap", first)

    swap = places.swap
    with pytest.raises(BundleError, match="not a bundle"), writing(folder, force=True) as scratch:
        others(scratch)
    assert (folder / "thesis.tex").read_text() == "years of work"
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("failing", [1, 2, 3])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(5, "Input/output error")])
def test_a_failure_while_it_takes_its_place_leaves_the_old_bundle(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fill: Fill, contents: Contents,
    failing: int, error: BaseException,
) -> None:  # fmt: skip
    """Without renameat2 there are three renames."""
    monkeypatch.setattr(places, "_renameat2", lambda: None)
    before, rename, calls = contents(folder), Path.rename, iter(range(1, 9))

    def unlucky(path: Path, target: Path) -> Path:
        if next(calls) == failing:
            raise error
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", unlucky)
    with pytest.raises((KeyboardInterrupt, BundleError)), writing(folder, force=True) as scratch:
        fill(scratch, OTHER)
    assert load(folder)
    assert failing == 3 or contents(folder) == before


# Several at once, and what killed ones leave.

EXPORT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from conftest import write
from edgeprune.bundle import writing
from edgeprune.errors import EdgepruneError
try:
    with writing(Path(sys.argv[1]), force="--force" in sys.argv) as scratch:
        write(scratch)
        print("ready", flush=True)
        sys.stdin.readline()
except EdgepruneError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


def start(place: Path, *words: str) -> subprocess.Popen[str]:
    """An export in a process of its own that has written everything, and waits for a line before it takes its name."""
    process = subprocess.Popen(
        [sys.executable, "-B", "-c", EXPORT, str(place), str(Path(__file__).parent), *words],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_of_exports_to_one_name_exactly_one_wins(tmp_path: Path) -> None:
    processes = [start(tmp_path / "out") for _ in range(3)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate()[1] for process in processes]
    assert sorted(process.returncode for process in processes) == [0, 2, 2]
    message = f"{tmp_path / 'out'} exists; choose another --output or replace it with --force\n"
    assert sorted(said) == ["", message, message]
    assert os.listdir(tmp_path) == ["out"]
    assert load(tmp_path / "out")


def test_what_a_killed_export_left_is_swept_by_the_next_one_and_nothing_else(tmp_path: Path, fill: Fill) -> None:
    killed, running = start(tmp_path / "out"), start(tmp_path / "out")
    killed.kill()
    killed.communicate()
    for name in (".out.notes", ".outer.01234567", "out.01234567", ".out.0123456g"):
        (tmp_path / name).mkdir()
    (tmp_path / ".out.01234567").write_text("a file")
    (tmp_path / ".out.76543210").symlink_to(tmp_path / ".out.notes")
    assert len(os.listdir(tmp_path)) == 8
    with writing(tmp_path / "out") as scratch:
        fill(scratch)
    left = set(os.listdir(tmp_path))
    assert left > {"out", ".out.notes", ".outer.01234567", "out.01234567", ".out.0123456g"}
    assert left > {".out.01234567", ".out.76543210"}  # a file and a link
    assert len(left) == 8  # and what the running one writes
    running.communicate("go\n")
    assert running.returncode == 2


def test_a_bundle_that_a_killed_export_had_set_aside_is_put_back(folder: Path, tmp_path: Path) -> None:
    """Only where there is no renameat2."""
    folder.rename(tmp_path / ".out.01234567.old")
    sweep(folder)
    assert load(folder)
    (tmp_path / ".out.01234567.old").mkdir()
    sweep(folder)
    assert os.listdir(tmp_path) == ["out"]
