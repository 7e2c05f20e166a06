"""What makes features behind steps more like those of the whole encoder: one affine map in front of the projector.

    f' = W f + b            affine: by ridge regression; shift: W = 1
    W1 (W f + b) + b1 = (W1 W) f + (W1 b + b1)          folded into a projector that begins with a linear layer

Folded, it costs nothing at run time. In front of a projector that begins otherwise, and where there is none, it stands
as a linear layer of its own. It is fitted by `edgeprune calibrate` (`edgeprune.train.calibrate`).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from edgeprune.errors import ModelError, RequestError

__all__ = ["Correction", "digest_of", "folded", "read_correction"]

METADATA = "edgeprune.correction"
CLOSE = 1e-3
"""relative; a folded projector that differs by more does something else to its input first"""


@dataclass(frozen=True)
class Correction:
    weight: Tensor
    """[C, C] float32, W"""
    bias: Tensor
    """[C] float32, b"""
    made: Mapping[str, Any]
    """for what (`fits`), and from what: kind, images, residual in front of it and behind it"""

    def packed(self) -> bytes:
        """As a file of safetensors."""
        tensors = {"weight": self.weight.contiguous(), "bias": self.bias.contiguous()}
        return save(tensors, metadata={METADATA: json.dumps(dict(self.made))})

    def check(self, wanted: Mapping[str, Any], path: Path) -> None:
        """Raises RequestError, naming what differs, where it was fitted for something else.

        wanted: what `made["fits"]` must be
        """
        fits = self.made.get("fits", {})
        given = json.loads(json.dumps(dict(wanted)))
        if apart := [name for name in given if fits.get(name) != given[name]]:
            name = apart[0]
            raise RequestError(
                f"--correction {path} was fitted for {name} {fits.get(name)}, this export has {given[name]}; run "
                "`edgeprune calibrate` with the options of the export"
            )


def read_correction(path: Path) -> Correction:
    """What `edgeprune calibrate` wrote. Raises ModelError when it is none, or damaged."""
    if not path.is_file():
        raise ModelError(f"--correction must be what `edgeprune calibrate` wrote; there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            made = json.loads((file.metadata() or {})[METADATA])
            weight, bias = file.get_tensor("weight"), file.get_tensor("bias")
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        lacks = isinstance(error, KeyError)  # which says the name alone
        reason = f"it has no {error.args[0]}" if lacks else " ".join(str(error).split())[:100]
        raise ModelError(f"--correction must be what `edgeprune calibrate` wrote; {path} is not: {reason}") from None
    square = weight.dim() == 2 and weight.shape[0] == weight.shape[1] == bias.numel()
    if not isinstance(made, dict) or not square or not (weight.isfinite().all() and bias.isfinite().all()):
        raise ModelError(f"{path} is damaged: it must hold a finite weight [C, C] and bias [C]; calibrate again")
    return Correction(weight.float(), bias.float(), made)


def folded(projector: nn.Module, correction: Correction) -> nn.Module:
    """A projector that does to features what the given one does to corrected ones; the given one stays as it is."""
    weight, bias = correction.weight, correction.bias
    own = copy.deepcopy(projector)
    first = next((part for part in own.modules() if list(part.parameters(recurse=False))), None)
    if isinstance(first, nn.Linear) and first.in_features == len(bias):
        shifted = first.weight @ bias
        first.bias = nn.Parameter(shifted if first.bias is None else first.bias + shifted, requires_grad=False)
        first.weight = nn.Parameter(first.weight @ weight, requires_grad=False)
        probe = torch.randn(1, 8, len(bias), generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            wanted, got = projector(probe @ weight.mT + bias), own(probe)
        if (got - wanted).norm() <= CLOSE * wanted.norm():
            return own
    layer = nn.Linear(len(bias), len(bias), device="meta")
    layer.weight, layer.bias = (nn.Parameter(one, requires_grad=False) for one in (weight, bias))
    return nn.Sequential(layer, projector).eval()


def digest_of(module: nn.Module) -> str:
    """sha256 over the weights of a module, by name, as float32."""
    import hashlib

    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
