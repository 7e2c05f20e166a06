"""Graphs on disk: small ones whole, large ones with their weights beside them, once for all of them.

A quantised graph has few weights in common with what it is measured against: those of the first float one then lie
beside that, for all others.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

__all__ = ["file_of", "save_graphs", "weights_nbytes"]

INLINE_NBYTES = 64 << 20
"""weights up to this size stay in the .onnx file; ONNX itself ends at 2 GiB"""
SMALL_NBYTES = 4096
"""tensors up to this size always do, so that tools can fold and print them"""


def file_of(name: str) -> str:
    """The file of a graph.

    >>> file_of("encoder"), file_of("baseline.pool")
    ('encoder.onnx', 'baseline.pool.onnx')
    """
    return f"{name}.onnx"


def weights_nbytes(model: ir.Model) -> int:
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)


def save_graphs(folder: Path, graphs: Mapping[str, ir.Model]) -> None:
    """Write <name>.onnx for each graph; where the weights of the first are large, the others use its file of them, and
    the first whose own outweigh what is there has one more.

    All graphs must come from one set of parameters: an initializer of the same name is taken to be the same tensor.
    """
    (first, main), *others = graphs.items()
    if weights_nbytes(main) > INLINE_NBYTES:
        beside = f"{file_of(first)}.data"
        ir.save(main, folder / file_of(first), external_data=beside, size_threshold_bytes=SMALL_NBYTES)
    else:
        ir.save(main, folder / file_of(first))
    written = {key: value.const_value for key, value in ir.load(folder / file_of(first)).graph.initializers.items()}
    for name, model in others:
        own: list[ir.Value] = []
        there = 0
        for key, value in model.graph.initializers.items():
            shared = written.get(key)
            if isinstance(shared, ir.ExternalTensor):
                value.const_value = shared
                there += shared.nbytes
            elif value.const_value is not None and value.const_value.nbytes > SMALL_NBYTES:
                own.append(value)
        tensors = [value.const_value for value in own if value.const_value is not None]
        if sum(tensor.nbytes for tensor in tensors) > max(INLINE_NBYTES, there):
            external = ir.external_data.convert_tensors_to_external(tensors, folder, f"{file_of(name)}.data")
            for value, tensor in zip(own, external, strict=True):
                value.const_value = tensor
                written[str(value.name)] = tensor
        ir.save(model, folder / file_of(name))
