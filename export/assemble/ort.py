"""The folder of ONNX Runtime alone: encoder, embedding and decoder, which `runtime/generate/loop.py` runs in turn."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from edgeprune.bundle import Bundle
from edgeprune.export.assemble.deepstack import add_deepstack
from edgeprune.export.assemble.parts import Parts, copy_encoder, place_decoder, place_embedding
from edgeprune.runtime.generate.folder import Assembled

__all__ = ["check", "write"]


def check(manifest: Assembled, bundle: Bundle) -> None:
    """Takes every model."""


def write(folder: Path, parts: Parts) -> Assembled:
    copy_encoder(folder, parts.bundle)
    place_decoder(folder, parts.built)
    if parts.manifest.extras:
        path = folder / parts.manifest.decoder.file
        decoder = ir.load(path)
        add_deepstack(decoder, len(parts.manifest.extras))
        ir.save(decoder, path)  # the weights stay where they are, in the file beside it
    place_embedding(folder, parts)
    return parts.manifest
