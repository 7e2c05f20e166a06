"""What `edgeprune adapt` wrote: weights that a tower has in place of its own, or thresholds that become its steps.

adapted.safetensors     the tower's tensors by their names in transformers' class, float16 or float32; what they were
                        made from, and a digest of the tower that they belong to, in the metadata
thresholds.json         what was made from what: `thresholds` and, in the mean over images, the rows that `pass` them,
                        both by layer; `reducer` and `options`; `tower`, that digest, `layer` and `patches`
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from edgeprune.correction import digest_of
from edgeprune.errors import ModelError

__all__ = ["FILE", "THRESHOLDS", "file_of", "made_of", "packed", "put_adapted", "thresholds_of"]

FILE, THRESHOLDS = "adapted.safetensors", "thresholds.json"
METADATA = "edgeprune.adapted"


def packed(tower: nn.Module, made: Mapping[str, Any]) -> bytes:
    """As a file of safetensors. made: from what; `tower` is the digest of the one that it was made of."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in tower.state_dict().items()}
    return save(tensors, metadata={METADATA: json.dumps(dict(made))})


def file_of(given: Path) -> Path:
    """given: the file, or the folder that `edgeprune adapt` wrote. Raises ModelError where there is none."""
    path = given
    if given.is_dir():
        path = given / (THRESHOLDS if (given / THRESHOLDS).is_file() else FILE)
    if not path.is_file():
        raise ModelError(f"--adapted must be what `edgeprune adapt` wrote; there is no {path}")
    return path


def made_of(given: Path) -> dict[str, Any]:
    """What they were made from. Raises ModelError when they are none."""
    if (thresholds := thresholds_of(given)) is not None:
        return thresholds
    made, _ = _read(file_of(given), weights=False)
    return made


def thresholds_of(given: Path) -> dict[str, Any] | None:
    """What a file of thresholds holds; None of weights. Raises ModelError when it is neither, or damaged."""
    if (path := file_of(given)).suffix != ".json":
        return None
    try:
        made: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        passing = [(int(layer), int(rows)) for layer, rows in made["pass"].items()]
        rising = all(one[0] < other[0] and one[1] >= other[1] for one, other in itertools.pairwise(passing))
        if not rising or {"reducer", "options", "tower", "layer", "patches", "thresholds"} - made.keys():
            raise ValueError("its layers or what it was made for are not as they must be")
        if not all(0 < layer < made["layer"] and 0 < rows <= made["patches"] for layer, rows in passing):
            raise ValueError("a layer or a number of rows is out of range")
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"it has no {error.args[0]}" if isinstance(error, KeyError) else " ".join(str(error).split())[:100]
        raise ModelError(f"--adapted must be what `edgeprune adapt` wrote; {path} is not: {reason}") from None
    return made


def _read(path: Path, weights: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            made: dict[str, Any] = json.loads((file.metadata() or {})[METADATA])
            names = file.keys() if weights else ()
            return made, {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        lacks = isinstance(error, KeyError)  # which says the name alone
        reason = f"it has no {error.args[0]}" if lacks else " ".join(str(error).split())[:100]
        raise ModelError(f"--adapted must be what `edgeprune adapt` wrote; {path} is not: {reason}") from None


def put_adapted(tower: nn.Module, given: Path) -> dict[str, Any]:
    """Load the adapted weights into the tower, in place -> what they were made from.

    given: the file, or the folder that `edgeprune adapt` wrote

    Raises ModelError when it is none, damaged, or was made for another tower.
    """
    path = file_of(given)
    made, tensors = _read(path, weights=True)
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
