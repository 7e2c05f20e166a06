"""The seeds of the fuzz targets are taken: what a fuzzer makes of them is a near miss."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from safetensors import safe_open

from edgeprune.bundle import MANIFEST, Manifest, load
from edgeprune.bundle.manifest import digest
from tests.cpp.answers import Ask, asking
from tests.cpp.pictures import Pictures
from tests.cpp.seeds import CORPUS


@pytest.fixture(scope="module")
def ask(cpp: Path) -> Ask:
    return asking(cpp)


def seeds(kind: str) -> list[Path]:
    """Those that were made; what a fuzzer has found since bears another name."""
    found = sorted(path for path in (CORPUS / kind).iterdir() if not path.name.startswith("found-"))
    assert len(found) > 3
    return found


def test_they_are_small() -> None:
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < 100_000


def test_manifests_are_read() -> None:
    methods = [Manifest.from_json(path.read_text(encoding="utf-8")).method for path in seeds("manifest")]
    assert set(methods) == {"brightest", "fastervlm"}


def test_tensors_are_read(ask: Ask) -> None:
    for path in seeds("safetensors"):
        with safe_open(path, "numpy") as opened:
            opened.keys()
    assert set(ask("tensors", [os.fsencode(path) for path in seeds("safetensors")])) == {b""}


def test_images_are_preprocessed(cpp: Path) -> None:
    pictures = Pictures(cpp / "tests" / "pictures")
    for path in seeds("images"):
        given, _, size = path.read_bytes().partition(b"\0")
        width, height = (int.from_bytes(size[at : at + 2], "little") for at in (0, 2))
        assert pictures.raw(json.loads(given), width, height, rows=bytes(3 * width * height))
    pictures.close()


def test_bundles_open(ask: Ask, tmp_path: Path) -> None:
    for path in seeds("bundle"):
        folder = tmp_path / path.name
        folder.mkdir()
        manifest, _, graph = path.read_bytes()[1:].partition(b"\0")
        given = json.loads(manifest)
        given.pop("digest", None)
        (folder / MANIFEST).write_text(json.dumps({**given, "digest": digest(given)}))
        (folder / "encoder.onnx").write_bytes(graph)
        (folder / "w.data").write_bytes(b"data")
        assert load(folder).manifest.method == "brightest"
    assert set(ask("open", [os.fsencode(folder) for folder in tmp_path.iterdir()])) == {b""}
