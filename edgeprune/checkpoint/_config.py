"""What may stand in config.json, checked before anything is built of it, and what of it says only how to load it.

Lists are made as long as a number of layers says, and tensors as large as the sizes do: a number that no model has
would take all memory before it showed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from edgeprune.errors import ModelError

__all__ = ["architecture", "check_numbers", "described", "schemes"]

BOUNDS: dict[str, tuple[int, int]] = {
    r"num_hidden_layers|depth": (1, 512),  # the largest language models have some 130
    r"\w+_(layers|blocks|depth)|layers": (-512, 512),
    r"num_labels": (0, 1_000_000),
    r"(hidden|intermediate|image|patch|temporal_patch|spatial_merge|window|out_hidden)_size|embed_dim": (1, 2**31),
    r"num_(attention_heads|heads|channels|patches|position_embeddings)|vocab_size": (1, 2**31),
    r"num_\w+_tokens": (0, 2**31),
}
"""names of fields -> least and most that they may be; others may be anything"""
LOADING = re.compile(
    r"_?(attn|experts)_implementation\w*|(torch_)?dtype|(quantization|compression)_config|use_return_dict"
)
"""how a model is loaded, for which the trace has ways of its own"""


def check_numbers(config: dict[str, Any], id: str) -> None:
    """Raises ModelError that names the field, for a number that no model has."""
    for path, value in _numbers(config):
        name = re.sub(r"\[\d+\]$", "", path).rpartition(".")[2]
        least, most = next((both for names, both in BOUNDS.items() if re.fullmatch(names, name)), (value, value))
        if not least <= value <= most:  # nor is NaN
            must = f"at least {least}" if value < least else f"at most {most}" if value > most else "a number"
            given = f"{value!r:.40}" if abs(value) < 1e18 else f"{value:.0e}"
            raise ModelError(f"{id}: {path} of config.json must be {must}, got {given}; is the file damaged?")


def described(config: dict[str, Any]) -> dict[str, Any]:
    """The config, at every level without what says how to load it: attention's implementation, dtype, quantisation."""
    return {
        name: described(value) if isinstance(value, dict) else value
        for name, value in config.items()
        if not LOADING.fullmatch(name)
    }


def schemes(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Every quantization_config, that of the model first, then those of its parts."""
    own = [config[name] for name in ("quantization_config", "compression_config") if isinstance(config.get(name), dict)]
    parts = [one for value in config.values() if isinstance(value, dict) for one in schemes(value)]
    return own + parts


def architecture(config: dict[str, Any]) -> str:
    """The class of transformers that the checkpoint was saved from; AutoModel where it does not say."""
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    return name if isinstance(name, str) and name.isidentifier() else "AutoModel"


def _numbers(value: Any, path: str = "") -> Iterator[tuple[str, int | float]]:
    """Every number below, with the names on the way to it."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _numbers(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            yield from _numbers(inner, f"{path}[{at}]")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield path, value
