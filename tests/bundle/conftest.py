"""A small bundle: encoder.onnx, which is the shortest ONNX model, more/notes.txt, manifest.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeprune.bundle import MANIFEST, Graph, Manifest, Model, TensorSpec, describe_files, load
from edgeprune.bundle.manifest import digest
from edgeprune.errors import BundleError

Change = Callable[[dict[str, Any]], object]

GRAPH, OTHER = b"\x08\x0a", b"\x08\x09"
"""a ModelProto that says its IR version, 10 or 9, and no more"""
INPUTS = {"pixel_values": TensorSpec(("batch", 3, 32, 48), "float16")}
OUTPUTS = {
    "tokens": TensorSpec(("batch", 5, 7), "float16"),
    "indices": TensorSpec(("batch", 5), "int32"),
    "scores": TensorSpec(("batch", 24), "float32"),
}


def make(**changes: Any) -> Manifest:
    graph = Graph("encoder.onnx", changes.pop("inputs", INPUTS), changes.pop("outputs", OUTPUTS))
    fields: dict[str, Any] = {
        "method": "fastervlm",
        "options": {"layers": [1, 2], "mode": None, "share": 0.25},
        "keep": 5,
        "grid": (4, 6),
        "tiles": 2,
        "model": Model(id="owner/name", revision="0123abc", family="clip", layer=3, features="hidden_states[3]"),
        "precision": "float16",
        "graphs": {"encoder": graph, **changes.pop("baselines", {})},
        "preprocessing": {"size": [32, 48], "crop": None, "mean": [0.46, 0.5, 0.5]},
        "target": "cpu",
        "cost": {"formula": 3, "graph": 4, "unpruned_formula": 9},
        "deviations": ("scores are float32",),
        "versions": {"edgeprune": "0"},
        "steps": ((2, 12), (3, 5)),
        "layers": ((25, 90, 90), (25, 80, 90), (13, 40, 90)),
        "nested": True,
        "rule": {"name": "topk"},
    }
    return Manifest(**(fields | changes))


def write(folder: Path, content: bytes = GRAPH, **changes: Any) -> None:
    (folder / "encoder.onnx").write_bytes(content)
    (folder / "more").mkdir()
    (folder / "more" / "notes.txt").write_bytes(b"notes")
    (folder / MANIFEST).write_text(make(files=describe_files(folder), **changes).to_json(), encoding="utf-8")


@pytest.fixture
def manifest() -> Callable[..., Manifest]:
    """(**fields, and inputs, outputs of the encoder, baselines) -> a manifest without files."""
    return make


@pytest.fixture
def fill() -> Callable[..., None]:
    """(folder, content of the graph, **as for `manifest`): make a bundle of it."""
    return write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "out"
    made.mkdir()
    write(made)
    return made


@pytest.fixture
def edit() -> Callable[[Path, Change], None]:
    """(folder, change): change the JSON of its manifest, whose digest is then right again."""

    def apply(folder: Path, change: Change) -> None:
        given = json.loads((folder / MANIFEST).read_text())
        change(given)
        given.pop("digest", None)
        (folder / MANIFEST).write_text(json.dumps({**given, "digest": digest(given)}))

    return apply


@pytest.fixture
def contents() -> Callable[[Path], dict[str, bytes | None]]:
    """(folder) -> everything below it, byte for byte; None for folders."""

    def read(folder: Path) -> dict[str, bytes | None]:
        paths = sorted(folder.rglob("*"))
        return {path.relative_to(folder).as_posix(): None if path.is_dir() else path.read_bytes() for path in paths}

    return read


@pytest.fixture
def refusal() -> Callable[[Path], str]:
    """(folder) -> the message of `load`, which must be one line that names the folder and a remedy."""

    def message(folder: Path) -> str:
        with pytest.raises(BundleError) as refused:
            load(folder)
        said = str(refused.value)
        assert said.startswith(str(folder))
        assert len(said.splitlines()) == 1
        assert said.isprintable()
        assert any(remedy in said for remedy in ("copy", "export", "upgrade", "do not use")), said
        return said

    return message
