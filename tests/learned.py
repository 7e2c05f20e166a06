"""Scorers of the methods that `edgeprune train` trains, with weights by chance."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from edgeprune import pruners
from edgeprune.encoders import Encoder
from edgeprune.pruners._learned import Learned


def scorer_of(name: str, encoder: Encoder) -> Learned | None:
    """For a method on an encoder; None for one that has nothing to learn."""
    method = pruners.get(name)
    return by_chance(name, *encoder.widths) if method.learns else None


def by_chance(name: str, features: int, tokens: int) -> Learned:
    """features, tokens: in front of the projector and behind it, how wide they are"""
    torch.manual_seed(4)
    scorer: Learned = pruners.get(name).untrained(features, tokens)
    for parameter in scorer.parameters():
        nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 0.3)
    return scorer.eval().requires_grad_(False)


def written(name: str, encoder: Encoder, path: Path) -> Path | None:
    """The same in a file."""
    if (scorer := scorer_of(name, encoder)) is None:
        return None
    path.write_bytes(scorer.packed(name, {}))
    return path
