"""The folder of ONNX Runtime alone: encoder, embedding and decoder, which `runtime/generate/loop.py` runs in turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeprune.export.assemble.parts import Parts, copy_encoder, place_decoder, place_embedding

__all__ = ["check", "write"]


def check(parts: Any) -> None:
    """Takes every model."""


def write(folder: Path, parts: Parts) -> None:
    copy_encoder(folder, parts.bundle)
    place_decoder(folder, parts.built)
    place_embedding(folder, parts)
