"""Encoder families: one file each, found by the `model_type` of config.json.

A family's file declares `MODEL_TYPES` and `load(checkpoint, layer) -> Encoder`. A family that can be the vision tower
of another also declares `tower(checkpoint, config, *prefixes) -> Tower`. Nothing else has to change for a new one.
"""

from __future__ import annotations

import importlib
import logging
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from edgeprune.checkpoint import Checkpoint
from edgeprune.errors import ModelError

__all__ = ["Encoder", "Tower", "families", "family_of", "feature_depth", "load", "pretrained"]


@dataclass(frozen=True)
class Tower:
    """A vision tower of transformers and what a trace must know of it."""

    module: nn.Module
    """(pixel_values [B, 3, H, W], output_hidden_states=True) -> .hidden_states, a tuple of [B, prefix + N, C]"""
    attention: Sequence[nn.Module]
    """the module of each layer that calls transformers' attention interface, first layer first"""
    patch_embedding: nn.Conv2d
    image_size: tuple[int, int]
    grid: tuple[int, int]
    prefix: int
    """special tokens before the patches"""
    has_cls: bool
    """whether token 0 is [CLS]"""
    width: int
    """C"""
    mlp_width: int


@dataclass(frozen=True)
class Encoder:
    """A vision encoder as it is deployed: tower up to the feature layer, then the projector."""

    family: str
    tower: Tower
    layer: int
    """number of layers in front of the features: the index into hidden_states"""
    projector: nn.Module
    """[B, N, C] -> [B, N, D], row by row"""

    @property
    def patches(self) -> int:
        return self.tower.grid[0] * self.tower.grid[1]


def load(checkpoint: Checkpoint, layer: int | None = None) -> Encoder:
    """The encoder of a checkpoint in float32; `layer` indexes hidden_states as in Hugging Face configs (-2, 23).

    Raises ModelError when no family knows the checkpoint, or a tensor of it is missing.
    """
    found: Encoder = family_of(checkpoint.config, checkpoint.id).load(checkpoint, layer)
    return found


def families() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def family_of(config: dict[str, Any], id: str) -> ModuleType:
    """The module of the family whose MODEL_TYPES hold the config's model_type."""
    model_type = config.get("model_type")
    known: list[str] = []
    for name in families():
        module = importlib.import_module(f"{__name__}.{name}")
        if model_type in module.MODEL_TYPES:
            return module
        known += module.MODEL_TYPES
    raise ModelError(f"{id} has model_type {model_type!r}; edgeprune knows {', '.join(sorted(known))}")


def feature_depth(layer: int, layers: int) -> int:
    """hidden_states index, negative or not -> number of layers in front of it.

    >>> feature_depth(-2, 24), feature_depth(23, 24)
    (23, 23)
    """
    depth = layer if layer >= 0 else layers + 1 + layer
    if not 1 <= depth <= layers:
        raise ModelError(f"layer must be in 1..{layers} or -{layers}..-1 for {layers} layers, got {layer}")
    return depth


def pretrained(cls: Any, config: Any, tensors: dict[str, Tensor], id: str) -> nn.Module:
    """A transformers model with these tensors, in float32 and evaluation mode. Raises ModelError for a missing one."""
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)  # its report of missing tensors is ours to give, in one line
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        module, report = cls.from_pretrained(
            None, config=config, state_dict=tensors, dtype="float32", output_loading_info=True
        )
    except RuntimeError as error:  # sizes that differ from the config's
        raise ModelError(f"{id}: tensors do not fit config.json: {' '.join(str(error).split())[:200]}") from None
    finally:
        transformers_logging.set_verbosity(verbosity)
    if report["missing_keys"]:
        raise ModelError(
            f"{id} lacks the tensor {min(report['missing_keys'])} of {cls.__name__}; copy the whole checkpoint"
        )
    model: nn.Module = module.eval().requires_grad_(False)
    return model
