"""What a tiny checkpoint of an encoder is made of.

A family's own test declares it, and everything that runs over all encoders finds it there (`declared`):

    KIND = Kind("Aimv2VisionModel", processor("CLIP", **CROPPED), prefix=0, family="aimv2", exported="dpp")

Families that have no test of their own, or several kinds in one, stand in conftest.py.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from torch import nn

__all__ = ["CROPPED", "SQUARE", "Kind", "declared", "processor"]

SQUARE: dict[str, Any] = {"size": {"height": 48, "width": 48}}
CROPPED: dict[str, Any] = {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}}


@dataclass(frozen=True)
class Kind:
    """What to make, and the part of the whole model that an encoder of ours should equal."""

    architecture: str
    processor: dict[str, Any]
    part: str = ""
    prefix: int = 1
    config: dict[str, Any] = field(default_factory=dict)
    grid: tuple[int, int] | None = None
    """the grid that it is loaded at, of a family that takes any"""
    family: str = ""
    """that it stands for in the matrix of methods and encoders"""
    tower: str = ""
    """the kind of tower that it has, where the family has several"""
    exported: str = ""
    """the methods that are exported on it in every run of the tests"""

    def own(self, folder: Path) -> nn.Module:
        import transformers

        model = getattr(transformers, self.architecture).from_pretrained(folder).eval()
        return cast(nn.Module, getattr(model, self.part) if self.part else model)


def processor(name: str, **steps: Any) -> dict[str, Any]:
    return {"image_processor_type": f"{name}ImageProcessor", **steps}


def declared() -> dict[str, Kind]:
    """Family -> the KIND in tests/encoders/test_<family>.py, of those that declare one."""
    files = sorted(Path(__file__).parent.glob("test_*.py"))
    names = [path.stem for path in files if re.search(r"^KIND = ", path.read_text(encoding="utf-8"), re.MULTILINE)]
    kinds: list[Kind] = [importlib.import_module(f"tests.encoders.{name}").KIND for name in names]
    return {kind.family: kind for kind in kinds}
