"""What `edgeprune export` was asked for, and what can be said of it before any weight is read. No torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgeprune.errors import RequestError
from edgeprune.targets import Target

__all__ = ["TRAINED", "Request", "check_flags", "pair"]

TRAINED = Path("bavit-scorer")
"""where `edgeprune bavit train` writes unless it is told otherwise"""


@dataclass(frozen=True)
class Request:
    """What `edgeprune export` was asked for."""

    method: str
    target: str
    keep: int | float | None = None
    """tokens, or a float in (0, 1]: their share of all"""
    scorer: Path | None = None
    """the trained weights of a method that has such; None takes those in TRAINED, where they are"""
    options: Mapping[str, str] = field(default_factory=dict)
    """the method's own, as text"""
    model: str | None = None
    revision: str | None = None
    output: Path | None = None
    precision: str | None = None
    """float32 or float16; None takes the target's"""
    layer: int | None = None
    """index into hidden_states; None takes the checkpoint's"""
    tiles: int = 1
    grid: str | None = None
    """rows x columns of patches, as text, for an encoder that takes any image size"""
    video: bool = False
    size: str | None = None
    """height x width of images in pixels, as text, for a detector"""
    dynamic_batch: bool = False
    uint8: bool = False
    probes: Path | None = None
    baselines: bool = True
    force: bool = False


def check_flags(request: Request, target: Target) -> None:
    if request.precision not in (None, "float32", "float16"):
        raise RequestError(f"--precision must be float32 or float16, got {request.precision}")
    if request.precision == "float32" and not target.onnx.float32_matmul:
        raise RequestError(f"{target.name} computes products in float16 alone, got --precision float32; leave it out")
    if request.tiles < 1:
        raise RequestError(f"--tiles must be at least 1, got {request.tiles}")
    if request.tiles > 1 and request.dynamic_batch:
        raise RequestError(f"--tiles {request.tiles} fixes the batch and --dynamic-batch frees it; give one of them")


def pair(option: str, text: str | None, what: str) -> tuple[int, int] | None:
    if text is None:
        return None
    if not (sides := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)):
        raise RequestError(f"{option} must be {what}, got {text}")
    return int(sides[1]), int(sides[2])
