"""What a bundle may be called by, and a Hugging Face cache, where every file is a link to a blob."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeprune.bundle import MANIFEST, find, load
from edgeprune.errors import BundleError

COMMIT = "0123456789abcdef" * 2 + "01234567"
Refusal = Callable[[Path], str]
Publish = Callable[[Path], Path]


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Publish:
    """(bundle) -> its snapshot, as `hf download me/bundle` lays it out: snapshots/<commit>/* are links into blobs/."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def lay_out(folder: Path) -> Path:
        repository = tmp_path / "hub" / "models--me--bundle"
        snapshot = repository / "snapshots" / COMMIT
        for path in (path for path in folder.rglob("*") if path.is_file()):
            blob = repository / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
            blob.parent.mkdir(parents=True, exist_ok=True)
            blob.write_bytes(path.read_bytes())
            link = snapshot / path.relative_to(folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            up = Path(*[".."] * len(link.parent.relative_to(repository).parts))
            link.symlink_to(up / "blobs" / blob.name)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(COMMIT)
        return snapshot

    return lay_out


@pytest.mark.parametrize("name", ["", "encoder.onnx", MANIFEST], ids=["folder", "graph", "manifest"])
def test_a_bundle_is_its_folder_or_a_file_in_it(folder: Path, name: str) -> None:
    assert load(folder / name).folder == folder


def test_what_is_on_the_disk_comes_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent.parent)
    assert find(f"{folder.parent.name}/{folder.name}") == Path(folder.parent.name, folder.name)


@pytest.mark.parametrize("name", ["me/bundle", "me/bundle@main", f"me/bundle@{COMMIT}"])
def test_case_a_bundle_in_a_hugging_face_cache_opens(folder: Path, publish: Publish, name: str) -> None:
    snapshot = publish(folder)
    assert all(path.is_symlink() for path in snapshot.iterdir() if path.is_file())
    found = load(name)
    assert found.folder == snapshot
    assert found.manifest == load(folder).manifest
    assert found.path("more/notes.txt").read_bytes() == b"notes"


def test_a_link_to_what_was_not_hashed_is_refused(folder: Path, publish: Publish, refusal: Refusal) -> None:
    snapshot = publish(folder)
    (folder / "other").write_bytes(b"\x08\x0b")
    (snapshot / "encoder.onnx").unlink()
    (snapshot / "encoder.onnx").symlink_to(folder / "other")
    assert "encoder.onnx has changed since the export" in refusal(snapshot)


def test_weights_behind_a_link_must_be_listed(tmp_path: Path, fill: Callable[..., None], publish: Publish) -> None:
    """ONNX Runtime would follow the link, whatever it leads to."""
    onnx = pytest.importorskip("onnx")
    weight = onnx.TensorProto(name="w", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value="w.data")
    graph = onnx.helper.make_graph([], "g", [], [], [weight])
    out = tmp_path / "out"
    out.mkdir()
    fill(out, onnx.helper.make_model(graph).SerializeToString())
    snapshot = publish(out)
    (snapshot / "w.data").symlink_to("/etc/hostname")
    with pytest.raises(BundleError, match=r"reads 'w\.data', which manifest\.json does not list"):
        load("me/bundle")


@pytest.mark.parametrize(
    ("name", "fetch"),
    [("me/other", "hf download me/other"), ("me/bundle@v2", "hf download me/bundle --revision v2")],
)
def test_what_is_not_in_the_cache_says_how_to_fetch_it(folder: Path, publish: Publish, name: str, fetch: str) -> None:
    publish(folder)
    with pytest.raises(BundleError) as refused:
        load(name)
    assert str(refused.value) == (
        f"{name} is neither a folder nor a bundle in the Hugging Face cache; make one with `edgeprune export`, "
        f"or fetch it with `{fetch}`"
    )


@pytest.mark.parametrize("name", ["out--a/b", "a/b..c", "a/b.git"])
def test_what_no_repository_can_be_called_is_not_there(publish: Publish, name: str) -> None:
    with pytest.raises(BundleError, match="is neither a folder nor a bundle in the Hugging Face cache"):
        find(name)


def test_without_huggingface_hub_the_cache_is_not_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(BundleError, match=r"me/bundle is no folder, .* pip install 'edgeprune\[hub\]'"):
        find("me/bundle")


def test_what_is_not_in_a_folder_that_is_there_is_no_repository(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert find(f"{folder.name}/encoder.plan") == Path(folder.name, "encoder.plan")


@pytest.mark.parametrize("name", ["nowhere", "/no/where", "a/b/c", "../b", "a/"])
def test_other_names_are_folders(name: str) -> None:
    assert find(name) == Path(name)


def test_an_assembled_model_without_a_bundle_in_it_is_named_so(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(json.dumps({"kind": "model", "engine": "transformersjs"}))
    with pytest.raises(BundleError, match="without a bundle in it, as for a browser; name the bundle"):
        find(tmp_path)
