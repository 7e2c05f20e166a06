"""What a method has learned of one encoder: a module of few tensors that scores patches, and its file.

One file of safetensors holds it: the tensors, and in the metadata, as JSON, whose they are, their sizes, and what they
were made from. `tower` there is the digest of the tower whose features they were trained on, `layer` the one that gives
these: on others what was learned says nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from edgeprune.errors import MethodError, ModelError

__all__ = ["FILE", "Learned", "check_width", "digest_of", "read_learned"]

METADATA = "edgeprune.learned"
FILE = "scorer.safetensors"
"""in the folder that a training wrote"""

Module = TypeVar("Module", bound="Learned")


class Learned(nn.Module):
    """sizes: the numbers that it is built with, by name. made: from what; empty where nothing was trained."""

    sizes: Mapping[str, int]
    made: Mapping[str, Any] = MappingProxyType({})
    first: nn.Linear
    """what reads the features"""
    mean: Tensor | None
    spread: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", None)
        self.register_buffer("spread", None)

    def half(self: Module) -> Module:
        """Scores are float32 in every precision, and so is what gives them."""
        return self

    @property
    def digest(self) -> str:
        """Which one it is."""
        return digest_of(self)

    def normalised(self, mean: Tensor, spread: Tensor) -> None:
        """From here on it reads features as they would be with mean 0 and spread 1. [C] twice"""
        self.mean, self.spread = mean.float(), spread.float()

    def as_read(self, features: Tensor) -> Tensor:
        """[B, N, C] -> the same in float32, as it reads them."""
        rows = features.float()
        return rows if self.mean is None or self.spread is None else (rows - self.mean) / self.spread

    def folded(self) -> None:
        """Takes features as they are again, and gives what it gave of those with mean 0 and spread 1."""
        if self.mean is not None and self.spread is not None:
            first, mean, spread = self.first, self.mean, self.spread
            first.weight = nn.Parameter(first.weight / spread, requires_grad=False)
            first.bias = nn.Parameter(first.bias - first.weight @ mean, requires_grad=False)
        self.mean = self.spread = None

    def packed(self, method: str, made: Mapping[str, Any]) -> bytes:
        """As a file of safetensors, in float32. made: from what, as JSON takes it"""
        tensors = {name: value.detach().cpu().float().contiguous() for name, value in self.state_dict().items()}
        said = {"method": method, "sizes": dict(self.sizes), "made": dict(made)}
        return save(tensors, metadata={METADATA: json.dumps(said)})


def digest_of(module: nn.Module) -> str:
    """sha256 of the tensors, in the order of their names."""
    state = sorted(module.state_dict().items())
    return hashlib.sha256(b"".join(value.cpu().contiguous().numpy().tobytes() for _, value in state)).hexdigest()


def read_learned(path: Path, method: str, make: Callable[..., Module]) -> Module:
    """From a file, or from the folder that `edgeprune train` wrote. make: called with the sizes

    Raises ModelError when there is none, it is damaged, or another method's.
    """
    path, remedy = path / FILE if path.is_dir() else path, f"train one with `edgeprune train {method}`"
    if not path.is_file():
        raise ModelError(f"--scorer must be what `edgeprune train` wrote, got {path}, which is none; {remedy}")
    try:
        with safe_open(path, framework="pt") as file:
            said = json.loads((file.metadata() or {})[METADATA])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        if said["method"] != method:
            raise ModelError(f"--scorer {path} was trained for {said['method']}, got --method {method}; {remedy}")
        module = make(**said["sizes"])
        module.load_state_dict(tensors)
        module.made = dict(said["made"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = f"it has no {error.args[0]}" if isinstance(error, KeyError) else " ".join(str(error).split())[:120]
        raise ModelError(f"--scorer must be what `edgeprune train` wrote; {path} is not: {reason}; {remedy}") from None
    if damaged := [name for name, value in tensors.items() if not torch.isfinite(value).all()]:
        raise ModelError(f"{path} is damaged: {damaged[0]} is not finite; {remedy}")
    return module.eval().requires_grad_(False)


def check_width(method: str, what: str, learned: int, given: int) -> None:
    """Raises MethodError where it was learned of an encoder of another width. what: has that width, in words"""
    if learned != given:
        raise MethodError(
            f"the scorer of {method} reads {what} {learned} wide, this encoder has {given}; train one on it: "
            f"edgeprune train {method} --model"
        )
