"""What `load` refuses: files that are not those of the manifest, and what would be read without being listed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from edgeprune.bundle import MANIFEST, load, reading
from edgeprune.errors import BundleError

Edit = Callable[[Path, Callable[[dict[str, Any]], object]], None]
Fill = Callable[..., None]
Refusal = Callable[[Path], str]


def test_a_bundle_loads_and_finds_its_files_and_graphs(folder: Path) -> None:
    found = load(str(folder))
    assert found.path("more/notes.txt").read_bytes() == b"notes"
    assert found.graph("encoder") == folder / "encoder.onnx"
    with pytest.raises(BundleError, match=r"no file baseline\.pool\.onnx; it has encoder\.onnx, more/notes\.txt"):
        found.path("baseline.pool.onnx")
    with pytest.raises(BundleError, match="no graph decoder; it has encoder"):
        found.graph("decoder")


def test_the_encoder_may_have_any_file_name(folder: Path, edit: Edit) -> None:
    (folder / "encoder.onnx").rename(folder / "vision.onnx")

    def change(given: dict[str, Any]) -> None:
        given["files"]["vision.onnx"] = given["files"].pop("encoder.onnx")
        given["graphs"]["encoder"]["file"] = "vision.onnx"

    edit(folder, change)
    assert load(folder).graph("encoder") == folder / "vision.onnx"


# The manifest, before it is JSON.


@pytest.mark.parametrize("text", [b"\xff\xfe{", "{}".encode("utf-16")])
def test_a_manifest_that_is_not_utf_8_is_refused(folder: Path, refusal: Refusal, text: bytes) -> None:
    (folder / MANIFEST).write_bytes(text)
    assert "is not a bundle" in refusal(folder)


def test_what_has_no_manifest_is_not_a_bundle(folder: Path, refusal: Refusal, tmp_path: Path) -> None:
    (folder / MANIFEST).unlink()
    for path in (folder, tmp_path / "nowhere", folder / "encoder.onnx", tmp_path / ("x" * 300)):
        assert "is not a bundle" in refusal(path)


def test_a_manifest_that_is_a_pipe_is_not_waited_for(folder: Path, refusal: Refusal) -> None:
    (folder / MANIFEST).unlink()
    os.mkfifo(folder / MANIFEST)
    assert "is not a bundle: its manifest.json is not a file" in refusal(folder)


def test_a_manifest_that_never_ends_is_not_read(folder: Path, refusal: Refusal) -> None:
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).symlink_to("/dev/zero")
    assert "is not a bundle: its manifest.json is not a file" in refusal(folder)


def test_a_manifest_that_is_far_too_long_is_not_read_to_its_end(folder: Path, refusal: Refusal) -> None:
    with (folder / MANIFEST).open("r+b") as file:
        file.truncate(1 << 40)  # of which the disk holds nothing
    assert "is not a bundle: its manifest.json is longer than 16 MiB" in refusal(folder)


# The files.


def test_a_changed_byte_is_refused(folder: Path, refusal: Refusal) -> None:
    (folder / "encoder.onnx").write_bytes(b"\x08\x0b")
    assert "encoder.onnx has changed since the export" in refusal(folder)


def test_a_truncated_file_is_refused(folder: Path, refusal: Refusal) -> None:
    (folder / "more" / "notes.txt").write_bytes(b"not")
    assert "more/notes.txt has 3 bytes, manifest.json says 5" in refusal(folder)


def test_a_missing_file_is_refused(folder: Path, refusal: Refusal) -> None:
    (folder / "encoder.onnx").unlink()
    assert "encoder.onnx is missing; copy the whole bundle" in refusal(folder)


def test_a_pipe_or_a_folder_in_the_place_of_a_file_is_refused(folder: Path, refusal: Refusal) -> None:
    (folder / "encoder.onnx").unlink()
    os.mkfifo(folder / "encoder.onnx")
    assert "encoder.onnx is missing" in refusal(folder)
    (folder / "encoder.onnx").unlink()
    (folder / "encoder.onnx").mkdir()
    assert "encoder.onnx is missing" in refusal(folder)


def test_a_manifest_without_files_is_refused(folder: Path, edit: Edit, refusal: Refusal) -> None:
    edit(folder, lambda given: given.update(files={}))
    assert "lists no encoder.onnx, the graph encoder; export" in refusal(folder)


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../out/encoder.onnx", "more/../../out/encoder.onnx", "..", "more\\notes.txt", "C:notes.txt",
     "C:/notes.txt", "//host/share"],
    ids=ascii,
)  # fmt: skip
def test_a_name_that_leaves_the_folder_is_refused(folder: Path, edit: Edit, refusal: Refusal, name: str) -> None:
    edit(folder, lambda given: given["files"].update({name: given["files"]["encoder.onnx"]}))
    assert "which leaves the bundle; do not use it" in refusal(folder)


@pytest.mark.parametrize("name", ["", ".", "more", "x" * 300, "encoder.onnx/x"])
def test_a_name_of_no_file_is_refused(folder: Path, edit: Edit, refusal: Refusal, name: str) -> None:
    edit(folder, lambda given: given["files"].update({name: given["files"]["encoder.onnx"]}))
    assert "is missing" in refusal(folder)


@pytest.mark.parametrize("name", ["encoder.onnx", MANIFEST, "more"])
def test_links_to_what_is_hashed_are_followed(folder: Path, refusal: Refusal, tmp_path: Path, name: str) -> None:
    """As the cache of Hugging Face has them: snapshots/<commit>/encoder.onnx -> ../../blobs/<sha256>."""
    (folder / name).rename(tmp_path / "blob")
    (folder / name).symlink_to(Path("..", "blob"))
    (tmp_path / "alias").symlink_to(folder)
    assert load(tmp_path / "alias").manifest == load(folder).manifest
    content = tmp_path / "blob" if name != "more" else tmp_path / "blob" / "notes.txt"
    content.write_bytes(content.read_bytes().replace(b"o", b"0").replace(b"\x0a", b"\x0b"))
    refusal(folder)


def test_a_link_to_itself_is_missing(folder: Path, refusal: Refusal) -> None:
    (folder / "encoder.onnx").unlink()
    (folder / "encoder.onnx").symlink_to("encoder.onnx")
    assert "encoder.onnx is missing" in refusal(folder)


def test_a_file_that_cannot_be_read_is_refused(folder: Path, refusal: Refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path, nbytes: int) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(reading, "hash_file", denied)  # root may read everything
    assert "encoder.onnx cannot be read: Permission denied" in refusal(folder)


# Weights beside a graph.


def model(location: str) -> bytes:
    """A graph with one weight, which lies in another file."""
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=location)
    graph = helper.make_graph([], "g", [], [], [weight])
    content: bytes = helper.make_model(graph).SerializeToString()
    return content


@pytest.mark.parametrize("location", ["w.data", "../w.data", "/etc/passwd", "more/../w.data", "more/w.data", "\x1b[2J"])
def test_weights_in_a_file_that_is_not_listed_are_refused(
    tmp_path: Path, fill: Fill, refusal: Refusal, location: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    fill(out, model(location))
    (out / "w.data").write_bytes(bytes(4))  # it lies there, but nothing says what it must be
    assert f"encoder.onnx reads {location!r}, which manifest.json does not list; do not use it" in refusal(out)


@pytest.mark.parametrize("location", ["more/notes.txt", "./more/notes.txt"])
def test_weights_in_a_file_that_is_listed_are_fine(tmp_path: Path, fill: Fill, location: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    fill(out, model(location))
    assert onnx.load(load(out).graph("encoder"), load_external_data=False).graph.initializer[0].name == "w"


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path, fill: Fill, refusal: Refusal) -> None:
    out = tmp_path / "out"
    out.mkdir()
    fill(out, b"graph")
    assert "encoder.onnx is not an ONNX graph (a field of wire type 7 at byte 1); export" in refusal(out)
