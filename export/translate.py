"""torch.onnx.export without the work that it repeats: the same model, byte for byte, in about half of the time.

- It reads the source of some 500 translations anew for every graph. Here they are read once per opset and process, and
  every export is given a registry of its own that lists them.
- It decomposes a program that was decomposed for it. Here our decompositions join its table, and one run does both.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import onnx_ir as ir
import torch
from torch.export import ExportedProgram

__all__ = ["translate"]

Decompositions = Mapping[Any, Any]


def translate(program: ExportedProgram, decompositions: Decompositions, **options: Any) -> ir.Model:
    """The ONNX model of a program.

    decompositions: operator -> the function that stands for it; taken before the exporter's own translation of it
    options: those of torch.onnx.export
    """
    runs: list[ExportedProgram] = []
    run = program.run_decompositions

    def run_with_ours(table: Decompositions | None = None, *rest: Any) -> ExportedProgram:
        own = torch.export.default_decompositions() if table is None else table
        runs.append(run({**own, **decompositions}, *rest))
        return runs[-1]

    program.run_decompositions = run_with_ours
    try:
        with _registry_kept():
            exported = torch.onnx.export(program, dynamo=True, **options)
    finally:
        del program.run_decompositions
    assert runs, "torch.onnx decomposes a program by its run_decompositions; this release of torch does not"
    assert exported is not None
    model: ir.Model = exported.model
    return model


@contextlib.contextmanager
def _registry_kept() -> Iterator[None]:
    """Let the exporter take its translations from before; as it is, where a release of torch keeps them elsewhere."""
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        build, restored = ONNXRegistry.from_torchlib, vars(ONNXRegistry)["from_torchlib"]
    except (ImportError, AttributeError, KeyError):
        yield
        return

    def fresh(opset_version: int) -> ONNXRegistry:
        """May be added to, and nothing of that is there the next time."""
        whole, registry = _read(build, opset_version), ONNXRegistry()
        registry._opset_version = whole._opset_version
        registry.functions = {target: [*translations] for target, translations in whole.functions.items()}
        return registry

    ONNXRegistry.from_torchlib = staticmethod(fresh)  # type: ignore[assignment]
    try:
        yield
    finally:
        ONNXRegistry.from_torchlib = restored  # type: ignore[method-assign]


@cache
def _read(build: Callable[..., Any], opset_version: int) -> Any:
    return build(opset_version=opset_version)
