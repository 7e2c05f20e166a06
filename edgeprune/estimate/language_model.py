"""The language model behind an encoder: its sizes, off its config.json, and what they cost. No weights are read.

    parameters   L*(2*C*d*(h + g) + 3*C*M) + V*C, and V*C again unless they are tied; norms and biases
    prefill      S*L*(2*C*d*(h + g) + 3*C*M) + S*(S + 1)*L*h*d + V*C       multiply-adds of S tokens
    KV cache     2*L*g*d values for each token

C width, L layers, h heads and g key-value heads of width d, M width of the gated MLP, V vocabulary. Attention is
causal; only the last token goes through the vocabulary. Weights and cache are float16.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.errors import MissingPackageError, ModelError

__all__ = ["FLOAT16_NBYTES", "LanguageModel", "read_language_model"]

FLOAT16_NBYTES = 2


@dataclass(frozen=True)
class LanguageModel:
    """The sizes of a dense decoder with a gated MLP (Llama, Mistral, Qwen)."""

    name: str
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    mlp_width: int
    vocabulary: int
    tied: bool
    """whether the embedding is the last matrix too"""
    biases: int = 0
    """values that one layer adds to its queries, keys, values and attention output"""

    @property
    def parameters(self) -> int:
        """Without the vision encoder and the projector."""
        norms = (2 * self.layers + 1) * self.width
        embeddings = self.vocabulary * self.width * (1 if self.tied else 2)
        return self._in_layers + self.layers * self.biases + norms + embeddings

    @property
    def read_nbytes(self) -> int:
        """Bytes of weights that one pass reads: every matrix; of the embedding no more than the rows of the prompt."""
        return FLOAT16_NBYTES * (self._in_layers + self.vocabulary * self.width)

    def prefill(self, tokens: int) -> int:
        """Multiply-adds of a prompt of so many image and text tokens."""
        attention = tokens * (tokens + 1) * self.layers * self.heads * self.head_width
        return tokens * self._in_layers + attention + self.vocabulary * self.width

    def kv_nbytes(self, tokens: int) -> int:
        return FLOAT16_NBYTES * 2 * tokens * self.layers * self.kv_heads * self.head_width

    @property
    def _in_layers(self) -> int:
        """Parameters in the matrices of the layers: each is a multiply-add for each token."""
        attention = 2 * self.width * self.head_width * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.width * self.mlp_width)


def read_language_model(given: str | os.PathLike[str]) -> LanguageModel:
    """The sizes that a config.json says: its path, its folder, or a Hugging Face id in the local cache.

    Of a vision-language model the language model is taken. Nothing is fetched.

    Raises ModelError when there is no such file, it is not that of a dense decoder, or it lacks a size;
    MissingPackageError for an id without huggingface_hub.
    """
    path, name = _config(os.fspath(given))
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} must be readable JSON: {str(error).splitlines()[0]}; copy it again") from None
    try:
        if not isinstance(config, dict):
            raise ValueError(f"it must be a JSON object, got {type(config).__name__}")
        text = next((config[key] for key in _NESTED if config.get(key) is not None), config)
        if not isinstance(text, dict):
            raise ValueError(f"its language model must be a JSON object, got {type(text).__name__}")
        return _sizes(name, text, tied=bool(config.get("tie_word_embeddings", False)))
    except ValueError as error:
        raise ModelError(f"{path}: {error}; give the config.json of a dense language model") from None


_NESTED = ("text_config", "llm_config")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_LLAMA = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 32000}
_DEFAULTS: dict[str, dict[str, int]] = {
    "llama": _LLAMA | {"intermediate_size": 11008},
    "mistral": _LLAMA | {"intermediate_size": 14336, "num_key_value_heads": 8},
}
"""what a file leaves out is the default of its class, as transformers has it: LLaVA-1.5-7B says only its vocabulary"""


def _sizes(name: str, text: Mapping[str, Any], tied: bool) -> LanguageModel:
    """Raises ValueError that names the field."""
    kind = str(text.get("model_type", ""))
    defaults = _DEFAULTS.get(kind, {})
    if experts := next((key for key in _EXPERTS if text.get(key)), None):
        raise ValueError(f"the estimate is for dense models, this one has {experts} {text[experts]!r:.40}")

    def size(key: str, default: int | None = None) -> int:
        value = text.get(key)
        value = defaults.get(key, default) if value is None else value
        if value is None:
            raise ValueError(f"it must say {key}, and does not")
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{key} must be a positive integer, got {value!r:.40}")
        return value

    width, heads = size("hidden_size"), size("num_attention_heads")
    kv_heads, head_width = size("num_key_value_heads", heads), size("head_dim", max(width // heads, 1))
    biases = (heads + 2 * kv_heads) * head_width
    if not kind.startswith("qwen2"):  # whose queries, keys and values have biases always, and the output none
        biases = biases + width if text.get("attention_bias") else 0
    return LanguageModel(
        name=name,
        width=width,
        layers=size("num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_width=head_width,
        mlp_width=size("intermediate_size"),
        vocabulary=size("vocab_size"),
        tied=bool(text.get("tie_word_embeddings", tied)),
        biases=biases,
    )


def _config(given: str) -> tuple[Path, str]:
    """The file, and the name of the model."""
    path = Path(given)
    if given and path.is_dir():
        return path / "config.json", path.resolve().name
    if path.is_file():
        return path, path.resolve().parent.name if path.name == "config.json" else path.stem
    if not _HUB_ID.fullmatch(given):
        raise ModelError(
            f"--language-model must be a config.json, its folder or a Hugging Face id (owner/name), got {given!r:.80}"
        )
    try:
        from huggingface_hub import errors, try_to_load_from_cache
    except ImportError:
        raise MissingPackageError("huggingface_hub", "export") from None
    try:
        cached = try_to_load_from_cache(given, "config.json")
    except errors.HFValidationError:
        cached = None
    if not isinstance(cached, str):
        raise ModelError(
            f"{given} has no config.json in the local cache; run `hf download {given} config.json`, or give its path"
        )
    return Path(cached), given
