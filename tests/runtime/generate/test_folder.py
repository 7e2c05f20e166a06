"""An assembled folder is opened as it was written, or not at all; and so is whatever should go with it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeprune import bundle as bundles
from edgeprune.bundle.manifest import digest
from edgeprune.errors import BundleError, MissingPackageError, RequestError
from edgeprune.export.assemble import Assembly
from edgeprune.runtime.generate import load_folder, open_model

Change = Callable[[Path], object]


@pytest.fixture
def folder(assembled_once: Callable[..., Assembly], tmp_path: Path) -> Path:
    """A copy."""
    return Path(shutil.copytree(assembled_once().folder, tmp_path / "model"))


def rewritten(folder: Path, *, signed: bool = True, name: str = "manifest.json", **fields: Any) -> None:
    given = {**json.loads((folder / name).read_text()), **fields}
    if signed:
        given["digest"] = digest({key: value for key, value in given.items() if key != "digest"})
    (folder / name).write_text(json.dumps(given))


def test_everything_is_listed_but_what_the_bundle_lists_itself(folder: Path) -> None:
    found = load_folder(folder)
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert there == {"manifest.json", *found.manifest.files, "encoder/manifest.json"} | {
        f"encoder/{name}" for name in found.bundle.manifest.files
    }
    assert (found.manifest.kind, found.manifest.keep, found.manifest.context_length) == ("model", 64, 512)
    assert found.manifest.decoder.architecture == "LlamaForCausalLM"


def test_its_bundle_is_the_one_that_it_was_made_of(
    folder: Path, assembled_once: Callable[..., Assembly], exported_once: Callable[..., Any]
) -> None:
    """Byte for byte; and it is called by the folder, too."""
    source = exported_once("fastervlm", "cpu", keep=64).folder
    for path in source.iterdir():
        assert (folder / "encoder" / path.name).read_bytes() == path.read_bytes()
    assert bundles.find(folder) == folder / "encoder"
    assert bundles.load(folder).folder == folder / "encoder"


DAMAGED: list[tuple[Change, str]] = [
    (lambda f: (f / "manifest.json").unlink(), "is not an assembled model: it has no readable manifest.json"),
    (lambda f: (f / "decoder.onnx.data").unlink(), "decoder.onnx.data is missing"),
    (lambda f: (f / "embedding.onnx").write_bytes(b"x"), "embedding.onnx has 1 bytes, manifest.json says"),
    (lambda f: rewritten(f, signed=False, keep=63), r"has changed since it was assembled \(digest differs\)"),
    (lambda f: rewritten(f, keep=0), "keep must be above 0, got 0"),
    (lambda f: rewritten(f, schema_version="2.0"), "has schema '2.0', this one reads 1.0; upgrade edgeprune"),
    (lambda f: rewritten(f, kind="bundle"), "must be of an assembled model"),
    (lambda f: rewritten(f, files={"../x": {"size": 1, "sha256": ""}}), "which leaves the bundle"),
    (lambda f: rewritten(f, files={}), "manifest.json lists no embedding.onnx"),
    (lambda f: rewritten(f, encoder={"encoder.onnx": "0" * 64}), "encoder.onnx is not what it was assembled with"),
    (lambda f: (f / "encoder/encoder.onnx").write_bytes(b"x"), "encoder.onnx has 1 bytes"),
    (lambda f: shutil.rmtree(f / "encoder"), "encoder is not a bundle"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), DAMAGED, ids=[message[:40] for _, message in DAMAGED])
def test_what_is_damaged_is_not_opened(folder: Path, change: Change, message: str) -> None:
    change(folder)
    with pytest.raises(BundleError, match=message) as caught:
        load_folder(folder)
    assert "\n" not in str(caught.value)


def test_another_release_of_genai_is_refused(folder: Path) -> None:
    versions = json.loads((folder / "manifest.json").read_text())["versions"]
    rewritten(folder, versions={**versions, "onnxruntime-genai": "0.9.1"})
    with pytest.raises(
        RequestError, match=r"must be 0\.9, .* pip install 'onnxruntime-genai==0\.9\.\*', or assemble it"
    ):
        open_model(folder, "cpu")


@pytest.mark.parametrize("name", ["onnxruntime_genai", "tokenizers", "jinja2"])
def test_a_package_that_is_missing_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        MissingPackageError, match=rf"needs the package {name.replace('_', '-')}, .* 'edgeprune\[generate\]'"
    ):
        open_model(folder, "cpu")


def test_a_folder_for_a_browser_is_none_for_python(folder: Path) -> None:
    rewritten(folder, engine="transformersjs")
    with pytest.raises(RequestError, match=r"is for transformers\.js, in a browser or node"):
        open_model(folder, "cpu")
