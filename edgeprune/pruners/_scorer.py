"""The background classifier of BAViT: a ViT without [CLS] and a linear head, two logits for every patch.

    z = head(norm(blocks(conv(image) + positions)))        [B, n, 2], background and foreground
    front    its patches are those of the model behind it; coarse: m x m of them are one of its own
    trunk    z = head(norm(hidden)), the hidden states of the model itself behind its first layers

One file holds everything: the tensors, and in the metadata of the safetensors the `ScorerConfig` as JSON.

Paper   https://arxiv.org/abs/2410.09324
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from edgeprune.errors import ModelError
from edgeprune.pruners._learned import digest_of

__all__ = ["BACKGROUND", "FOREGROUND", "Scorer", "ScorerConfig", "load_scorer"]

BACKGROUND, FOREGROUND = 0, 1
"""places of the two logits"""
METADATA = "edgeprune.pruners._scorer"
SCORER = "scorer.safetensors"
KINDS = ("front", "coarse", "trunk")


@dataclass(frozen=True)
class ScorerConfig:
    """What a scorer is. Of `trunk`, layers are those of the model in front of the head, and the rest is the model's."""

    kind: Literal["front", "coarse", "trunk"]
    layers: int
    width: int
    heads: int
    mlp_width: int
    patch_size: int
    """pixels; of coarse, its own"""
    grid: tuple[int, int]
    """rows and columns of patches that it was trained at; positions are resampled for another one"""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """of the pixels, in 0..1, that it was trained on"""
    foreground: Mapping[str, float] = field(default_factory=dict)
    """share of foreground in the calibration images: mean, p50, p90, p99; empty when unknown"""


class Scorer(nn.Module):
    """pixel_values [B, 3, H, W], or of trunk hidden states [B, N, C] -> logits [B, n, 2] float32, in raster order.

    The head and what follows are float32 whatever the precision of the layers.
    """

    def __init__(self, config: ScorerConfig) -> None:
        super().__init__()
        self.config = config
        if config.kind != "trunk":
            self.patch_embedding = nn.Conv2d(3, config.width, config.patch_size, config.patch_size)
            self.positions = nn.Parameter(torch.zeros(1, math.prod(config.grid), config.width))
            self.blocks = nn.Sequential(*(_Block(config) for _ in range(config.layers)))
            nn.init.trunc_normal_(self.positions, std=0.02)
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, 2)

    def forward(self, x: Tensor) -> Tensor:
        if self.config.kind != "trunk":
            x = self.blocks(self.patch_embedding(x).flatten(2).transpose(1, 2) + self.positions)
        logits: Tensor = self.head(self.norm(x).float())
        return logits

    def half(self) -> Scorer:
        """float16, but for the head."""
        super().half()
        self.head.float()
        return self

    def fitted(self, grid: tuple[int, int], mean: tuple[float, ...], std: tuple[float, ...]) -> Scorer:
        """The same scorer for another grid and for pixels of another normalisation; float32, and detached.

        Positions are resampled (bicubic), as detectors do with theirs. (x * std + mean - own mean) / own std goes into
        the patch embedding, exactly.
        """
        config = dataclasses.replace(self.config, grid=grid, mean=tuple(mean), std=tuple(std))  # type: ignore[arg-type]
        scorer = Scorer(config).eval().requires_grad_(False)
        state = {name: value.detach().clone() for name, value in self.state_dict().items()}
        if config.kind != "trunk":
            state["positions"] = _resampled(state["positions"], self.config.grid, grid)
            weight, own = state["patch_embedding.weight"], self.config
            scale, shift = (
                torch.tensor([a / b for a, b in zip(std, own.std, strict=True)]),
                torch.tensor([(a - b) / c for a, b, c in zip(mean, own.mean, own.std, strict=True)]),
            )
            state["patch_embedding.bias"] += (weight * shift.view(1, -1, 1, 1)).sum(dim=(1, 2, 3))
            state["patch_embedding.weight"] = weight * scale.view(1, -1, 1, 1)
        scorer.load_state_dict(state)
        return scorer

    @property
    def digest(self) -> str:
        """Which scorer it is."""
        return digest_of(self)

    def save(self, path: Path) -> None:
        """One safetensors file. Raises OSError."""
        tensors = {name: value.detach().float().contiguous() for name, value in self.state_dict().items()}
        save_file(tensors, path, metadata={METADATA: json.dumps(dataclasses.asdict(self.config))})


def load_scorer(path: Path) -> Scorer:
    """From a file, or from the folder that a training wrote. Raises ModelError when there is none, or a damaged one."""
    remedy = "train one with `edgeprune bavit train`"
    path = path / SCORER if path.is_dir() else path
    if not path.is_file():
        raise ModelError(f"--scorer must be a safetensors file of a scorer, got {path}, which is none; {remedy}")
    try:
        with safe_open(path, framework="pt") as file:
            given = json.loads((file.metadata() or {})[METADATA])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        scorer = Scorer(_config(given))
        scorer.load_state_dict(tensors)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:120]
        raise ModelError(f"{path} must be a safetensors file of a scorer: {reason}; {remedy}") from None
    return scorer.eval().requires_grad_(False)


def _config(given: dict[str, Any]) -> ScorerConfig:
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    config = ScorerConfig(**values)
    if config.kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {config.kind!r}")
    if config.kind != "trunk" and (config.heads < 1 or config.width % config.heads):
        raise ValueError(f"width must be a multiple of heads, got {config.width} and {config.heads}")
    if len(config.mean) != 3 or len(config.std) != 3 or not all(config.std):
        raise ValueError(f"mean and std must be 3 numbers, std not zero, got {config.mean} and {config.std}")
    return config


def _resampled(positions: Tensor, before: tuple[int, int], after: tuple[int, int]) -> Tensor:
    """[1, n, C] -> [1, n', C]"""
    if before == after:
        return positions
    table = positions.transpose(1, 2).reshape(1, -1, *before)
    sized: Tensor = nn.functional.interpolate(table, size=after, mode="bicubic", align_corners=False)
    return sized.flatten(2).transpose(1, 2)


class _Block(nn.Module):
    """A pre-norm transformer layer. Three products for q, k, v: one for all of them with a split behind it was slower
    in ONNX Runtime."""

    def __init__(self, config: ScorerConfig) -> None:
        super().__init__()
        width, self._heads = config.width, config.heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))
        self.mlp = nn.Sequential(nn.Linear(width, config.mlp_width), nn.GELU(), nn.Linear(config.mlp_width, width))

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        parts = (part(normed).unflatten(-1, (self._heads, -1)) for part in (self.query, self.key, self.value))
        query, key, value = (part.transpose(1, 2) for part in parts)
        attended = nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x = x + self.output(attended)
        return x + cast(Tensor, self.mlp(self.norm2(x)))
