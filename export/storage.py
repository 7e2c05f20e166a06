"""Graphs on disk: small ones whole, large ones with their weights beside them, once for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

__all__ = ["ENCODER", "save_graphs", "weights_nbytes"]

ENCODER = "encoder.onnx"
DATA = "encoder.onnx.data"
INLINE_NBYTES = 64 << 20
"""weights up to this size stay in the .onnx file; ONNX itself ends at 2 GiB"""
SMALL_NBYTES = 4096
"""tensors up to this size always do, so that tools can fold and print them"""


def weights_nbytes(model: ir.Model) -> int:
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)


def save_graphs(folder: Path, encoder: ir.Model, baselines: Mapping[str, ir.Model]) -> None:
    """Write encoder.onnx and baseline.<name>.onnx; where the weights are large, the baselines use the encoder's file.

    All graphs must come from one set of parameters: an initializer of the same name is taken to be the same tensor.
    """
    names = {f"baseline.{name}.onnx": model for name, model in baselines.items()}
    if weights_nbytes(encoder) <= INLINE_NBYTES:
        for name, model in {ENCODER: encoder, **names}.items():
            ir.save(model, folder / name)
        return
    ir.save(encoder, folder / ENCODER, external_data=DATA, size_threshold_bytes=SMALL_NBYTES)
    written = ir.load(folder / ENCODER).graph.initializers
    for name, model in names.items():
        for key, value in model.graph.initializers.items():
            shared = written[key].const_value if key in written else None
            if isinstance(shared, ir.ExternalTensor):
                value.const_value = shared
        ir.save(model, folder / name)
