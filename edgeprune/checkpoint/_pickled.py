"""A pickled state dict, read without running any code of it."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from edgeprune.errors import ModelError

__all__ = ["unpickled"]

WITHIN = ("state_dict", "model_state_dict", "model", "module")
"""where training loops put the tensors of the model, beside those of the optimizer"""


def unpickled(path: Path) -> dict[str, Tensor]:
    """Name -> tensor, on the disk still where the file allows it.

    Raises ModelError when the file has more than tensors, for which code would have to run, or is damaged.
    """
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        if called := re.search(r"GLOBAL (\S+)", str(error)):
            raise ModelError(
                f"{path} must hold nothing but tensors, and reading it would run {called[1]}; it was not read"
            ) from None
        raise ModelError(f"{path} must be what torch.save() writes: it cannot be unpickled; copy it again") from None
    except Exception as error:  # of many types, by where it is damaged
        said = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(f"{path} must be what torch.save() writes: {said:.100}; copy it again") from None
    if isinstance(loaded, dict):
        loaded = next((loaded[name] for name in WITHIN if isinstance(loaded.get(name), dict)), loaded)
    values = loaded.items() if isinstance(loaded, dict) else ()
    tensors = {name: value for name, value in values if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors:
        raise ModelError(f"{path} must be a state dict, from names to tensors, got {type(loaded).__name__} without any")
    return tensors
