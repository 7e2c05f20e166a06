"""The folder of onnxruntime-genai.

genai_config.json is the builder's, with the encoder's graph as the vision model and embedding.onnx behind it. Its type
is `gemma3`: a pipeline that takes an image's features as they come, whatever the decoder is. `tokens.onnx` is what
`edgeprune ask` puts in the encoder's place (`runtime/generate/genai.py` says why).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeprune.bundle import Bundle, json_text
from edgeprune.errors import RequestError
from edgeprune.export.assemble.embedding import identity, write_graph
from edgeprune.export.assemble.parts import Parts, copy_encoder, place_decoder, place_embedding
from edgeprune.runtime.generate.folder import ENCODER, Assembled
from edgeprune.runtime.generate.genai import TOKENS

__all__ = ["check", "write"]

PIPELINE = "gemma3"
CONFIG = "genai_config.json"


def check(manifest: Assembled, bundle: Bundle) -> None:
    """Raises RequestError for a model that genai cannot run with fewer tokens than its grid has."""
    if manifest.axes != 1:
        raise RequestError(
            f"onnxruntime-genai counts the tokens of {manifest.family} from the image's grid and refuses fewer; "
            "use --engine onnxruntime"
        )


def write(folder: Path, parts: Parts) -> Assembled:
    copy_encoder(folder, parts.bundle)
    place_decoder(folder, parts.built)
    place_embedding(folder, parts)
    encoder = parts.bundle.manifest.encoder
    write_graph(identity(parts.causal.width, encoder.outputs["tokens"].dtype), folder / TOKENS)
    (folder / CONFIG).write_text(json_text(_config(parts, encoder.file)), encoding="utf-8")
    return parts.manifest


def _config(parts: Parts, encoder: str) -> dict[str, Any]:
    config = {**parts.genai_config, "model": {**parts.genai_config["model"]}}
    model = config["model"]
    model |= {
        "type": PIPELINE,
        "eos_token_id": list(parts.manifest.stop) or model["eos_token_id"],
        "vision": {
            "filename": f"{ENCODER}/{encoder}",
            "inputs": {"pixel_values": "pixel_values"},
            "outputs": {"image_features": "tokens"},
        },
        "embedding": {
            "filename": parts.manifest.embedding,
            "inputs": {"input_ids": "input_ids", "image_features": "image_features"},
            "outputs": {"inputs_embeds": "inputs_embeds"},
        },
    }
    return config
