"""The folder of ONNX Runtime alone: encoder, embedding and decoder, which `runtime/generate/loop.py` runs in turn.

The builder's graph for CUDA in float16 runs on the CPU as well. Its graph for the CPU in float16 has another attention,
which copies its cache with every token, so it is not taken.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir

from edgeprune.export.assemble.deepstack import add_deepstack
from edgeprune.export.assemble.parts import Parts, copy_encoder, place_decoder, place_embedding
from edgeprune.runtime.generate.folder import Assembled

__all__ = ["check", "options", "write"]


def check(manifest: Assembled) -> None:
    """Takes every model."""


def options(precision: str) -> dict[str, Any]:
    """What the builder is told beside the precision."""
    return {"provider": "cuda" if precision == "float16" else "cpu"}


def write(folder: Path, parts: Parts) -> None:
    copy_encoder(folder, parts.bundle)
    place_decoder(folder, parts.built)
    if parts.manifest.extras:
        path = folder / parts.manifest.decoder.file
        decoder = ir.load(path)
        add_deepstack(decoder, len(parts.manifest.extras))
        ir.save(decoder, path)  # the weights stay where they are, in the file beside it
    place_embedding(folder, parts)
