"""A tower whose weights were adapted to steps inside it: what `edgeprune adapt` wrote, put in place of its own.

adapted.safetensors     the tower's tensors by their names in transformers' class, float16 or float32; what they were
                        made from, and a digest of the tower that they belong to, in the metadata
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from edgeprune.correction import digest_of
from edgeprune.errors import ModelError

__all__ = ["FILE", "packed", "put_adapted"]

FILE = "adapted.safetensors"
METADATA = "edgeprune.adapted"


def packed(tower: nn.Module, made: Mapping[str, Any]) -> bytes:
    """As a file of safetensors. made: from what; `tower` is the digest of the one that it was made of."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in tower.state_dict().items()}
    return save(tensors, metadata={METADATA: json.dumps(dict(made))})


def put_adapted(tower: nn.Module, given: Path) -> dict[str, Any]:
    """Load the adapted weights into the tower, in place -> what they were made from.

    given: the file, or the folder that `edgeprune adapt` wrote

    Raises ModelError when it is none, damaged, or was made for another tower.
    """
    path = given / FILE if given.is_dir() else given
    if not path.is_file():
        raise ModelError(f"--adapted must be what `edgeprune adapt` wrote; there is no {path}")
    try:
        with safe_open(path, framework="pt") as file:
            made: dict[str, Any] = json.loads((file.metadata() or {})[METADATA])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        lacks = isinstance(error, KeyError)  # which says the name alone
        reason = f"it has no {error.args[0]}" if lacks else " ".join(str(error).split())[:100]
        raise ModelError(f"--adapted must be what `edgeprune adapt` wrote; {path} is not: {reason}") from None
    if made.get("tower") != digest_of(tower):
        raise ModelError(
            f"--adapted {given} was made for the tower of {made.get('model')}, whose weights are other ones; adapt "
            "this one, or give that --model"
        )
    if damaged := [name for name, value in tensors.items() if not value.isfinite().all()]:
        raise ModelError(f"{path} is damaged: {damaged[0]} is not finite; adapt again")
    with torch.no_grad():
        tower.load_state_dict({name: value.float() for name, value in tensors.items()})
    return made
