"""Weights must be plain floats: of a quantised one, the file has codes whose values only its scheme knows.

Which tensors are quantised is read off the tensors, not off the config: AWQ and GPTQ of a language model leave the
vision tower as it was, and such a checkpoint is as good as any.
"""

from __future__ import annotations

import shlex
from json import dumps
from typing import Any

import torch
from torch import Tensor

from edgeprune.checkpoint._config import architecture, schemes
from edgeprune.checkpoint._layout import beside
from edgeprune.errors import ModelError

__all__ = ["check_plain"]

PLAIN = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
DEQUANTISED = ("bitsandbytes", "higgs")
"""the schemes that model.dequantize() of transformers 5 takes back"""


def check_plain(tensors: dict[str, Tensor], config: dict[str, Any], place: str, id: str) -> None:
    """Raises ModelError for a tensor that is no plain float, or has a value that is not finite.

    place: the checkpoint's folder, or its id on the hub
    """
    for name, value in tensors.items():
        if value.dtype not in PLAIN:
            kind = str(value.dtype).removeprefix("torch.")
            raise ModelError(
                f"{id}: weights must be plain floats, and {name} is {kind}{_scheme(config)}, whose values only the "
                f"quantised model knows; give the checkpoint that was quantised{_remedy(config, place)}"
            )
        if not torch.isfinite(value).all():
            raise ModelError(f"{id}: tensor {name} has values that are not finite; the checkpoint is damaged")


def _scheme(config: dict[str, Any]) -> str:
    """What the config calls it, in brackets."""
    said = [
        " ".join([str(one.get("quant_method")), *(name for name in ("load_in_8bit", "load_in_4bit") if one.get(name))])
        for one in schemes(config)
    ]
    return f" ({', '.join(dict.fromkeys(said))})" if said else ""


def _remedy(config: dict[str, Any], place: str) -> str:
    if not any(one.get("quant_method") in DEQUANTISED for one in schemes(config)):
        return ""
    plain = beside(place, "-plain")
    code = (
        f"from transformers import AutoImageProcessor as P, {architecture(config)} as M; "
        f"M.from_pretrained({dumps(place)}).dequantize().save_pretrained({dumps(plain)}); "
        f"P.from_pretrained({dumps(place)}).save_pretrained({dumps(plain)})"
    )
    return f", or dequantise this one once: python -c {shlex.quote(code)}"
