"""What a bundle's manifest may say, what `load` refuses, and what `writing` leaves when it fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeprune import bundle
from edgeprune.bundle import MANIFEST, Manifest, Model, TensorSpec, describe_files, load, writing
from edgeprune.errors import BundleError

Change = Callable[[dict[str, Any]], object]


def manifest(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "method": "fastervlm",
        "options": {"layers": [1, 2], "mode": None},
        "keep": 5,
        "grid": (4, 6),
        "tiles": 2,
        "model": Model(id="owner/name", revision="0123abc", family="clip", layer=3, features="hidden_states[3]"),
        "dtype": "float16",
        "inputs": {"pixel_values": TensorSpec(("batch", 3, 32, 48), "float16")},
        "outputs": {"tokens": TensorSpec(("batch", 5, 7), "float16"), "scores": TensorSpec(("batch", 24), "float32")},
        "preprocessing": {"size": [32, 48], "crop": None},
        "target": "cpu",
        "cost": {"formula": 3, "graph": 4, "unpruned_formula": 9},
        "deviations": ("scores are float32",),
        "versions": {"edgeprune": "0"},
    }
    return Manifest(**(fields | changes))


def fill(folder: Path, content: bytes = b"graph") -> None:
    (folder / "encoder.onnx").write_bytes(content)
    (folder / "more").mkdir()
    (folder / "more" / "notes.txt").write_bytes(b"notes")
    (folder / MANIFEST).write_text(manifest(files=describe_files(folder)).to_json(), encoding="utf-8")


def fail(scratch: Path, error: BaseException) -> None:
    fill(scratch, b"other graph")
    raise error


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle: encoder.onnx, more/notes.txt, manifest.json."""
    made = tmp_path / "out"
    made.mkdir()
    fill(made)
    return made


def contents(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder, byte for byte; None for folders."""
    paths = sorted(folder.rglob("*"))
    return {path.relative_to(folder).as_posix(): None if path.is_dir() else path.read_bytes() for path in paths}


def edit(folder: Path, change: Change) -> None:
    given = json.loads((folder / MANIFEST).read_text())
    change(given)
    (folder / MANIFEST).write_text(json.dumps(given))


def refusal(folder: Path) -> str:
    """The message of `load`, which must be one line that names the folder and a remedy."""
    with pytest.raises(BundleError) as refused:
        load(folder)
    message = str(refused.value)
    assert message.startswith(str(folder))
    assert len(message.splitlines()) == 1
    assert any(remedy in message for remedy in ("copy", "export", "upgrade", "do not use")), message
    return message


# The manifest.


def test_a_manifest_survives_the_way_through_json() -> None:
    for one in (manifest(), manifest(files={"a": bundle.File(1, "f")}), manifest(deviations=(), options={})):
        assert Manifest.from_json(one.to_json()) == one


def test_a_manifest_counts_its_patches_and_knows_a_free_batch() -> None:
    assert (manifest().patches, manifest().dynamic_batch) == (24, True)
    assert not manifest(inputs={"pixel_values": TensorSpec((1, 3, 32, 48), "float32")}).dynamic_batch


def test_a_bundle_loads_and_finds_its_files(folder: Path) -> None:
    found = load(str(folder))
    assert found.path("more/notes.txt").read_bytes() == b"notes"
    with pytest.raises(BundleError, match=r"no file baseline\.pool\.onnx; it has encoder\.onnx, more/notes\.txt"):
        found.path("baseline.pool.onnx")


def test_baselines_are_found_by_their_names(folder: Path) -> None:
    (folder / "baseline.pool.onnx").write_bytes(b"pool")
    (folder / MANIFEST).write_text(manifest(files=describe_files(folder)).to_json())
    assert load(folder).baselines == {"pool": folder / "baseline.pool.onnx"}


@pytest.mark.parametrize("version", ["1.0", "1.7", "1.0.3"])
def test_a_newer_minor_with_fields_that_are_not_known_loads(folder: Path, version: str) -> None:
    def change(given: dict[str, Any]) -> None:
        given |= {"schema_version": version, "mood": "good"}
        given["model"]["licence"] = "MIT"
        given["files"]["encoder.onnx"]["crc"] = 7
        given["inputs"]["pixel_values"]["layout"] = "NCHW"

    edit(folder, change)
    assert load(folder).manifest.keep == 5


@pytest.mark.parametrize("version", ["2.0", "0.9", "11.0", "x", "", None, 2, "2.0\nand more"])
def test_an_unknown_major_is_refused(folder: Path, version: object) -> None:
    edit(folder, lambda given: given.update(schema_version=version))
    assert "manifest.json has schema" in refusal(folder)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"7", b"null", b'"schema_version"', b"{}", b'{"schema": 1}', b"[" * 100_000, b"\x00"],
    ids=lambda text: repr(text[:20]),
)
def test_a_garbled_manifest_is_refused(folder: Path, text: bytes) -> None:
    (folder / MANIFEST).write_bytes(text)
    assert "manifest.json must be a JSON object with a schema_version" in refusal(folder)


@pytest.mark.parametrize("text", [b"\xff\xfe{", "{}".encode("utf-16")])
def test_a_manifest_that_is_not_utf_8_is_refused(folder: Path, text: bytes) -> None:
    (folder / MANIFEST).write_bytes(text)
    assert "is not a bundle" in refusal(folder)


def test_what_has_no_manifest_is_not_a_bundle(folder: Path, tmp_path: Path) -> None:
    (folder / MANIFEST).unlink()
    for path in (folder, tmp_path / "nowhere", folder / "encoder.onnx", tmp_path / ("x" * 300)):
        assert "is not a bundle" in refusal(path)


@pytest.mark.parametrize("field", sorted(set(json.loads(manifest().to_json())) - {"schema_version"}))
def test_a_missing_field_is_named(folder: Path, field: str) -> None:
    edit(folder, lambda given: given.pop(field))
    assert f"manifest.json: it lacks {field};" in refusal(folder)


def test_a_missing_field_of_a_part_is_named(folder: Path) -> None:
    edit(folder, lambda given: given["model"].pop("family"))
    assert "it lacks model.family;" in refusal(folder)


WRONG: dict[str, Change] = {
    "method must be a string, got 7": lambda given: given.update(method=7),
    "keep must be an integer, got '5'": lambda given: given.update(keep="5"),
    "keep must be an integer, got True": lambda given: given.update(keep=True),
    "tiles must be an integer, got 1.5": lambda given: given.update(tiles=1.5),
    "grid must be an array of 2, got 'a'": lambda given: given.update(grid="a"),
    "grid must be an array of 2, got '46'": lambda given: given.update(grid="46"),
    "grid must be an array of 2, got [4, 6, 1]": lambda given: given.update(grid=[4, 6, 1]),
    "grid[1] must be an integer, got None": lambda given: given.update(grid=[4, None]),
    "model must be an object, got 'x'": lambda given: given.update(model="x"),
    "model.layer must be an integer, got '3'": lambda given: given["model"].update(layer="3"),
    "files must be an object, got []": lambda given: given.update(files=[]),
    "files['encoder.onnx'] must be an object, got 5": lambda given: given["files"].update({"encoder.onnx": 5}),
    "files['encoder.onnx'].size must be an integer": lambda given: given["files"]["encoder.onnx"].update(size="5"),
    "inputs must be an object, got None": lambda given: given.update(inputs=None),
    "inputs['x'].shape must be an array, got 3": lambda given: given["inputs"].update(x={"shape": 3, "dtype": "f"}),
    "inputs['x'].shape must be an array, got 'abc'": lambda given: given["inputs"].update(
        x={"shape": "abc", "dtype": "f"}
    ),
    "inputs['x'].shape[0] must be an integer or a string, got [1]": lambda given: given["inputs"].update(
        x={"shape": [[1]], "dtype": "f"}
    ),
    "cost['graph'] must be an integer, got 'much'": lambda given: given["cost"].update(graph="much"),
    "deviations must be an array, got 'none'": lambda given: given.update(deviations="none"),
    "preprocessing must be an object, got [1]": lambda given: given.update(preprocessing=[1]),
}


@pytest.mark.parametrize("message", WRONG)
def test_a_field_of_the_wrong_type_is_named(folder: Path, message: str) -> None:
    edit(folder, WRONG[message])
    assert message in refusal(folder)


# The files.


def test_a_changed_byte_is_refused(folder: Path) -> None:
    (folder / "encoder.onnx").write_bytes(b"grapH")
    assert "encoder.onnx has changed since the export" in refusal(folder)


def test_a_truncated_file_is_refused(folder: Path) -> None:
    (folder / "more" / "notes.txt").write_bytes(b"not")
    assert "more/notes.txt has 3 bytes, manifest.json says 5" in refusal(folder)


def test_a_missing_file_is_refused(folder: Path) -> None:
    (folder / "encoder.onnx").unlink()
    assert "encoder.onnx is missing; copy the whole bundle" in refusal(folder)


def test_a_folder_in_the_place_of_a_file_is_refused(folder: Path) -> None:
    (folder / "encoder.onnx").unlink()
    (folder / "encoder.onnx").mkdir()
    assert "encoder.onnx is missing" in refusal(folder)


def test_a_manifest_without_an_encoder_is_refused(folder: Path) -> None:
    edit(folder, lambda given: given["files"].pop("encoder.onnx"))
    assert "lists no encoder.onnx" in refusal(folder)


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../out/encoder.onnx", "more/../../out/encoder.onnx", "..", "more\\notes.txt", "C:notes.txt",
     "C:/notes.txt", "//host/share", "notes\n.txt", "notes\x00.txt", "\ud800"],
    ids=ascii,
)  # fmt: skip
def test_a_name_that_leaves_the_folder_is_refused(folder: Path, name: str) -> None:
    edit(folder, lambda given: given["files"].update({name: given["files"]["encoder.onnx"]}))
    assert "which leaves the bundle; do not use it" in refusal(folder)


@pytest.mark.parametrize("name", ["", ".", "more", "x" * 300, "encoder.onnx/x"])
def test_a_name_of_no_file_is_refused(folder: Path, name: str) -> None:
    edit(folder, lambda given: given["files"].update({name: given["files"]["encoder.onnx"]}))
    assert "is missing" in refusal(folder)


@pytest.mark.parametrize("name", ["encoder.onnx", MANIFEST])
def test_a_file_that_links_out_of_the_folder_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    assert f"{name} is a link out of the bundle" in refusal(folder)


def test_a_directory_that_links_out_of_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "more").rename(tmp_path / "elsewhere")
    (folder / "more").symlink_to(tmp_path / "elsewhere")
    assert "more/notes.txt is a link out of the bundle" in refusal(folder)


def test_a_link_within_the_folder_and_one_to_the_folder_are_fine(folder: Path, tmp_path: Path) -> None:
    (folder / "encoder.onnx").rename(folder / "stored")
    (folder / "encoder.onnx").symlink_to("stored")
    (tmp_path / "alias").symlink_to(folder)
    assert load(tmp_path / "alias").manifest == load(folder).manifest


def test_a_link_to_itself_is_missing(folder: Path) -> None:
    (folder / "encoder.onnx").unlink()
    (folder / "encoder.onnx").symlink_to("encoder.onnx")
    assert "encoder.onnx is missing" in refusal(folder)


def test_a_file_that_cannot_be_read_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(bundle, "_sha256", denied)  # root may read everything
    assert "encoder.onnx cannot be read: Permission denied" in refusal(folder)


# Writing.


def test_what_was_written_appears_under_its_name(tmp_path: Path) -> None:
    with writing(tmp_path / "deep" / "er" / "out") as scratch:
        fill(scratch)
        assert not (tmp_path / "deep" / "er" / "out").exists()
    assert load(tmp_path / "deep" / "er" / "out").path("encoder.onnx").read_bytes() == b"graph"
    assert os.listdir(tmp_path / "deep" / "er") == ["out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, BundleError, MemoryError])
@pytest.mark.parametrize("there", [False, True])
def test_a_failure_leaves_everything_as_it_was(tmp_path: Path, there: bool, error: type[BaseException]) -> None:
    if there:
        (tmp_path / "out").mkdir()
        fill(tmp_path / "out")
    before = contents(tmp_path)
    with pytest.raises(error), writing(tmp_path / "out", force=there) as scratch:
        fail(scratch, error("on the way"))
    assert contents(tmp_path) == before


def test_a_failure_leaves_no_parent_folders_that_were_not_there(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    with pytest.raises(ValueError, match="half"), writing(tmp_path / "here" / "a" / "b" / "out") as scratch:
        fail(scratch, ValueError("half"))
    assert contents(tmp_path) == {"here": None}


@pytest.mark.parametrize("failing", [1, 2])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(5, "Input/output error")])
def test_a_failure_while_it_takes_its_place_leaves_the_old_bundle(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int, error: BaseException
) -> None:
    before, rename, calls = contents(tmp_path), Path.rename, iter(range(1, 9))

    def unlucky(path: Path, target: Path) -> Path:
        if next(calls) == failing:
            raise error
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", unlucky)
    with pytest.raises((KeyboardInterrupt, BundleError)), writing(folder, force=True) as scratch:
        fill(scratch, b"other graph")
    assert contents(tmp_path) == before


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


def test_force_replaces_a_bundle(folder: Path, tmp_path: Path) -> None:
    (folder / "kept.png").write_bytes(b"picture")
    with writing(folder, force=True) as scratch:
        fill(scratch, b"other graph")
    assert (folder / "encoder.onnx").read_bytes() == b"other graph"
    assert sorted(contents(tmp_path)) == [
        "out",
        "out/encoder.onnx",
        f"out/{MANIFEST}",
        "out/more",
        "out/more/notes.txt",
    ]


def test_force_replaces_a_damaged_bundle(folder: Path) -> None:
    (folder / "encoder.onnx").unlink()
    with writing(folder, force=True) as scratch:
        fill(scratch)
    assert load(folder)


@pytest.mark.parametrize("text", [None, "", "{}", '{"name": "a browser extension", "manifest_version": 3}', "[1]"])
def test_force_never_replaces_what_is_not_a_bundle(tmp_path: Path, text: str | None) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    if text is not None:
        (tmp_path / "out" / MANIFEST).write_text(text)
    before = contents(tmp_path)
    with pytest.raises(BundleError, match="not a bundle, so --force does not"), writing(tmp_path / "out", force=True):
        pytest.fail("the block ran")
    assert contents(tmp_path) == before


def test_force_never_replaces_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(BundleError, match="not a bundle"), writing(tmp_path / "out", force=True):
        pytest.fail("the block ran")
    assert contents(tmp_path) == {"out": b"mine"}


def test_force_without_anything_to_replace_just_writes(tmp_path: Path) -> None:
    with writing(tmp_path / "out", force=True) as scratch:
        fill(scratch)
    assert load(tmp_path / "out")


def test_the_working_folder_itself_is_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (".", "", "..", "/"):
        with pytest.raises(BundleError, match="exists"), writing(Path(name)):
            pytest.fail("the block ran")


def test_a_parent_that_is_a_file_is_refused(tmp_path: Path) -> None:
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


def test_the_files_are_readable_by_whom_the_umask_lets(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(("limit", "falls_at"), [(1000, "reference.safetensors"), (1_500_000, "encoder.onnx")])
def test_without_space_an_export_says_so_and_leaves_nothing(tmp_path: Path, limit: int, falls_at: str) -> None:
    """A real limit on the size of files, under which the write of `falls_at` fails."""
    argv = ["export", "--method", "fastervlm", "--keep", "4", "--no-baselines", "--output", "new/out"]
    done = subprocess.run(
        [sys.executable, "-B", "-c", LIMITED, str(limit), *argv],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    message = "edgeprune: new/out cannot be written: File too large; choose another --output\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", message)
    assert contents(tmp_path) == {}
