"""What a model is assembled from, for the files of the engines: one file for each, with `write(folder, parts)`."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from edgeprune.bundle import Bundle
from edgeprune.export.assemble.decoder import BUILT, Causal
from edgeprune.export.assemble.embedding import text_and_images, write_graph
from edgeprune.export.assemble.texts import Texts
from edgeprune.runtime.generate.folder import ENCODER, Assembled

__all__ = ["Parts", "copy_encoder", "place_decoder", "place_embedding"]


@dataclass(frozen=True)
class Parts:
    bundle: Bundle
    texts: Texts
    causal: Causal
    built: Path
    """folder with what the builder wrote (BUILT)"""
    genai_config: dict[str, Any]
    """the builder's"""
    table: Tensor
    """[V, D], the embedding as the checkpoint stores it"""
    manifest: Assembled
    """without its files"""


def copy_encoder(folder: Path, bundle: Bundle) -> None:
    """The bundle as it is: what its manifest lists, and nothing that lies beside."""
    for name in ("manifest.json", *bundle.manifest.files):
        place = folder / ENCODER / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.folder / name, place)


def place_decoder(folder: Path, built: Path) -> None:
    """The graph and its weights as the builder wrote them."""
    for name in BUILT:
        shutil.move(built / name, folder / name)


def place_embedding(folder: Path, parts: Parts) -> None:
    features = parts.bundle.manifest.outputs["tokens"].dtype
    dtype, scale = parts.manifest.decoder.dtype, parts.causal.embedding_scale
    model = text_and_images(parts.table, parts.manifest.prompt.image, scale, features, dtype)
    write_graph(model, folder / parts.manifest.embedding)
