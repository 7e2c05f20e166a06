"""Manifests of schema 1.x, as 0.1 wrote them, brought into the form of 2.0.

1.x                                          2.0
dtype                                        precision
inputs, outputs                              graphs.encoder, whose file was encoder.onnx
baseline.<name>.onnx among the files         graphs["baseline.<name>"], whose tensors 1.x does not say
engines left out before the first build      {}
no digest, steps, nested, rule               none to check, and nothing that is known of them
"""

from __future__ import annotations

from typing import Any

__all__ = ["upgraded"]

ENCODER_FILE = "encoder.onnx"
WANTED = ("dtype", "inputs", "outputs", "files")


def upgraded(given: dict[str, Any]) -> dict[str, Any]:
    """A manifest of schema 1.x with the fields of 2.0; its schema_version is kept. Raises ValueError."""
    for name in WANTED:
        if name not in given:
            raise ValueError(f"{name} must be given")
    files = given["files"]
    if not isinstance(files, dict):
        raise ValueError(f"files must be an object, got {files!r:.60}")
    graphs: dict[str, Any] = {
        "encoder": {"file": ENCODER_FILE, "inputs": given["inputs"], "outputs": given["outputs"]},
    }
    for name in files:
        if name.startswith("baseline.") and name.endswith(".onnx"):
            graphs[name.removesuffix(".onnx")] = {"file": name, "inputs": {}, "outputs": {}}
    rest = {name: value for name, value in given.items() if name not in ("dtype", "inputs", "outputs")}
    return {**rest, "precision": given["dtype"], "graphs": graphs}
