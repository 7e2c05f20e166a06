"""What a tiny checkpoint of an encoder is made of.

A family's own test declares it, and everything that runs over all encoders finds it there (`declared`): one by the
family's name, or several by names of their own.

    KIND = Kind("Aimv2VisionModel", processor("CLIP", **CROPPED), prefix=0, family="aimv2", exported="dpp")
    KINDS = {"vit": Kind("ViTModel", ...), "vit classifier": Kind("ViTForImageClassification", ...)}

Parts that several families' checkpoints are made of stand here.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

__all__ = [
    "COVERING",
    "CROPPED",
    "LANGUAGE",
    "LLAVA_CLIP",
    "LLAVA_SIGLIP",
    "SIGLIP",
    "SIZES",
    "SQUARE",
    "TEXT",
    "TILES",
    "Kind",
    "declared",
    "processor",
]

SQUARE: dict[str, Any] = {"size": {"height": 48, "width": 48}}
CROPPED: dict[str, Any] = {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}}

SIZES: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
TEXT: dict[str, Any] = {**SIZES, "num_hidden_layers": 1, "vocab_size": 64}
LANGUAGE: dict[str, Any] = {**TEXT, "hidden_size": 48, "num_key_value_heads": 2}
SIGLIP: dict[str, Any] = {
    **SIZES,
    "model_type": "siglip_vision_model",
    "num_hidden_layers": 2,
    "image_size": 48,
    "patch_size": 8,
}
LLAVA_SIGLIP: dict[str, Any] = {
    "vision_config": {**SIGLIP, "vision_use_head": False, "num_hidden_layers": 3},
    "text_config": {"model_type": "llama", **LANGUAGE},
    "image_token_index": 3,
    "vision_feature_select_strategy": "full",
}
LLAVA_CLIP: dict[str, Any] = {
    "vision_config": {**SIGLIP, "model_type": "clip_vision_model"},
    "text_config": {"model_type": "llama", **LANGUAGE},
    "image_token_index": 3,
    "vision_feature_layer": -1,
}
TILES: dict[str, Any] = {"image_grid_pinpoints": [[48, 96], [96, 48]]}
COVERING = (
    *("clip", "siglip vision", "dinov2 registers", "deit with teacher", "dinov3 gated", "siglip2"),
    *("llava next", "internvl", "qwen2.5 vl", "qwen3 vl", "gemma4 both ways", "llava pixtral"),
)
"""of all kinds, those that what runs over all encoders always runs on: with [CLS], without, with further rows, with two
that a head reads, angles and gates, positions of any size; tiles, squares of patches, windows, features of deeper
layers, masks and per-layer inputs of the language model, rows and columns of any number"""


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
    ours: bool = False
    """whether its tower is ours around the layers of transformers, though it is loaded at its own size"""
    family: str = ""
    """that it stands for in the matrix of methods and encoders, if it does"""
    tower: str = ""
    """the kind of tower that it has, where the family has several"""
    exported: str = ""
    """the methods that are exported on it by `make test-slow`, all others in `cells`"""
    unread: tuple[str, ...] = ()
    """how the names of those of its tensors begin that are never read"""
    given: Callable[[Tensor], dict[str, Any]] | None = None
    """pixels [1, 3, H, W] of that grid -> what get_image_features of its whole model is given; of one whose language
    model is asked, from a bundle of the first method of `exported`, which must choose tokens and not merge them"""

    @property
    def detects(self) -> bool:
        """It has logits and pred_boxes instead of tokens."""
        return self.architecture.endswith("ForObjectDetection")

    @property
    def own_tower(self) -> bool:
        """Its tower is transformers' own, not ours around the layers of transformers."""
        return self.grid is None and not self.detects and not self.ours

    @property
    def bare(self) -> bool:
        """It is such a tower, without a projector."""
        return self.own_tower and not self.architecture.endswith("ForConditionalGeneration")

    def own(self, folder: Path) -> nn.Module:
        import transformers

        model = getattr(transformers, self.architecture).from_pretrained(folder).eval()
        return cast(nn.Module, getattr(model, self.part) if self.part else model)


def processor(name: str, **steps: Any) -> dict[str, Any]:
    return {"image_processor_type": f"{name}ImageProcessor", **steps}


@cache
def declared() -> dict[str, Kind]:
    """Name -> what the tests of the families (test_<family>.py) declare as their KIND or KINDS."""
    kinds: dict[str, Kind] = {}
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        if re.search(r"^KINDS? = ", path.read_text(encoding="utf-8"), re.MULTILINE):
            module = importlib.import_module(f"tests.encoders.{path.stem}")
            kinds |= getattr(module, "KINDS", None) or {module.KIND.family: module.KIND}
    return kinds
