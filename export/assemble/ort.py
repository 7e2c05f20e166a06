"""The folder of ONNX Runtime alone: encoder, embedding and decoder, which `runtime/generate/loop.py` runs in turn."""

from __future__ import annotations

from pathlib import Path

from edgeprune.bundle import Bundle
from edgeprune.export.assemble.parts import Parts, copy_encoder, place_decoder, place_embedding
from edgeprune.runtime.generate.folder import Assembled

__all__ = ["check", "write"]


def check(manifest: Assembled, bundle: Bundle) -> None:
    """Takes every model."""


def write(folder: Path, parts: Parts) -> Assembled:
    copy_encoder(folder, parts.bundle)
    place_decoder(folder, parts.built)
    place_embedding(folder, parts)
    return parts.manifest
