"""Encoder families: one file each, found by the `model_type` of config.json.

A family's file declares `MODEL_TYPES` and `load(checkpoint, layer) -> Encoder`. A family that can be the vision tower
of another also declares `tower(checkpoint, config, *prefixes) -> Tower`; one whose load takes `grid`, `video` or `size`
names them in `OPTIONS`; one that knows why its like are refused says so in `REFUSED`. Nothing else has to change for a
new one.
The parts that families share are below: `bare` and `connected` encoders, `described` towers.
"""

from __future__ import annotations

import importlib
import logging
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from edgeprune.checkpoint import Checkpoint
from edgeprune.errors import ModelError, RequestError, unknown_name

__all__ = ["Encoder", "Tower", "families", "family_of", "feature_depth", "load"]  # the rest is for families


@dataclass(frozen=True)
class Tower:
    """A vision tower of transformers and what a trace must know of it."""

    module: nn.Module
    """(pixel_values [B, 3, H, W], output_hidden_states=True) -> .hidden_states, a tuple of [B, prefix + N, C], and
    .last_hidden_state, the last of them behind the final norm where the family applies one"""
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
    """width that a plain two-layer MLP of as many weights has: 1.5 times its own for a gated one"""
    batched: bool = True
    """whether it takes several images at a time"""
    suffix: int = 0
    """special tokens behind the patches"""
    embeddings: nn.Module | None = None
    """the module that gives [B, prefix + N + suffix, C] in front of the layers, if these take any number of tokens"""
    blocks: Sequence[nn.Module] = ()
    """these layers, each called with the hidden states first"""
    between: nn.Module | None = None
    """the module that gives what is added behind each layer but the last, [L - 1, 1, S, C], where there is such"""


@dataclass(frozen=True)
class Encoder:
    """A vision encoder as it is deployed: tower up to the feature layer, then the projector."""

    family: str
    tower: Tower
    layer: int
    """number of layers in front of the features: the index into hidden_states"""
    projector: nn.Module
    """[B, N, C] -> [B, N, D], row by row"""
    normed: bool = False
    """whether the features are last_hidden_state, behind the final norm, instead of hidden_states[layer]"""
    groups: Tensor | None = None
    """[N, g] int64: the g patches, in the tower's order, whose features side by side are one token in front of the
    projector; None where each patch is a token"""
    pooling: Tensor | None = None
    """[N, P] float32: how the projected patches are averaged to tokens; None where they are not"""
    tiled: bool = False
    """whether the images of a batch are tiles of one image, which share its budget"""
    layout: str = ""
    """how the tokens of tiles or frames are ordered for the language model, and what of the model's own is left out"""
    positions: Tensor | None = None
    """[3, N] int32: the place of each token in the language model's rotary positions (time, row, column)"""
    extras: Mapping[str, tuple[int, nn.Module]] = field(default_factory=dict)
    """further outputs by name: those hidden_states, kept and grouped like the features, behind this projector"""
    labels: tuple[str, ...] | None = None
    """classes of a detector, whose projector is its heads: the last `suffix` tokens -> logits, pred_boxes"""

    @property
    def detects(self) -> bool:
        """Whether it is a detector."""
        return self.labels is not None

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the tokens; each token is of one patch, of a square of them, or of about one."""
        rows, columns = self.tower.grid
        matrix = self.groups if self.pooling is None else self.pooling
        if matrix is None:
            return rows, columns
        side = round((rows * columns / len(matrix)) ** 0.5)
        return -(-rows // side), -(-columns // side)

    @property
    def patches(self) -> int:
        """N, the tokens without pruning."""
        return self.grid[0] * self.grid[1]

    @property
    def areas(self) -> Tensor | None:
        """[N, P] float32: the share that each patch of the tower has in each token; None where they are the same."""
        if self.groups is None:
            return self.pooling
        rows, columns = self.tower.grid
        return nn.functional.one_hot(self.groups, rows * columns).float().mean(dim=1)

    def arrange(self, patches: Tensor) -> Tensor:
        """Patches to tokens, in front of the projector: [B, P, C] -> [B, N, g * C]."""
        if self.groups is None:
            return patches
        return patches.index_select(1, self.groups.flatten()).reshape(
            -1, len(self.groups), self.groups.shape[1] * patches.shape[2]
        )

    def project(self, features: Tensor) -> Tensor:
        """[B, N, g * C] or, where projected patches are averaged, [B, P, C] -> [B, N, D]"""
        projected: Tensor = self.projector(features)
        return projected if self.pooling is None else self.pooling.to(projected.dtype) @ projected

    @property
    def features(self) -> str:
        """The name that transformers has for the features."""
        return "last_hidden_state" if self.normed else f"hidden_states[{self.layer}]"


def load(
    checkpoint: Checkpoint,
    layer: int | None = None,
    *,
    grid: tuple[int, int] | None = None,
    video: bool = False,
    size: tuple[int, int] | None = None,
) -> Encoder:
    """The encoder of a checkpoint in float32.

    layer: index into hidden_states as in Hugging Face configs (-2, 23)
    grid: rows and columns of patches, of a family that takes any image size
    video: the way of a family that treats frames of a video differently
    size: height and width of images, of a detector

    Raises ModelError when no family knows the checkpoint, or a tensor of it is missing; RequestError when the family
    takes no grid or size, or makes no difference between images and frames.
    """
    family = family_of(checkpoint.config, checkpoint.id)
    name, options = family.__name__.rpartition(".")[2], getattr(family, "OPTIONS", ())
    given: dict[str, Any] = {"grid": grid} if grid else {}
    given |= ({"video": True} if video else {}) | ({"size": size} if size else {})
    refusals = {
        "grid": "its image size is fixed" if "size" not in options else "give --size, in pixels",
        "video": "it treats frames as it does images",
        "size": "its image size is fixed" if "grid" not in options else "give --grid, in patches",
    }
    for option, why in refusals.items():
        if option in given and option not in options:
            raise RequestError(f"{name} takes no --{option}: {why}; leave it out")
    found: Encoder = family.load(checkpoint, layer, **given)
    return found


def families() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def family_of(config: dict[str, Any], id: str) -> ModuleType:
    """The module of the family whose MODEL_TYPES hold the config's model_type."""
    model_type = config.get("model_type")
    known: list[str] = []
    for name in families():
        module = importlib.import_module(f"{__name__}.{name}")
        if model_type in module.MODEL_TYPES:
            return module
        if model_type in (refused := getattr(module, "REFUSED", {})):
            raise ModelError(f"{id} is a {model_type}: {refused[model_type]}; have {', '.join(module.MODEL_TYPES)}")
        known += module.MODEL_TYPES
    raise ModelError(
        f"{id} has a model_type that no family knows: {unknown_name('model_type', str(model_type), known)} "
        "A new family is one file in edgeprune/encoders with MODEL_TYPES and load"
    )


def feature_depth(layer: int, layers: int) -> int:
    """hidden_states index, negative or not -> number of layers in front of it.

    >>> feature_depth(-2, 24), feature_depth(23, 24)
    (23, 23)
    """
    depth = layer if layer >= 0 else layers + 1 + layer
    if not 1 <= depth <= layers:
        raise ModelError(f"layer must be in 1..{layers} or -{layers}..-1 for {layers} layers, got {layer}")
    return depth


def bare(family: str, tower: Tower, layer: int | None) -> Encoder:
    """An encoder without projector: tokens are those of last_hidden_state, or of hidden_states[layer] if one is given.

    So None and -1 differ where the family has a final norm: transformers applies it to last_hidden_state only.
    """
    depth = feature_depth(-1 if layer is None else layer, len(tower.attention))
    return Encoder(family, tower, depth, nn.Identity(), normed=layer is None)


def connected(
    family: str,
    checkpoint: Checkpoint,
    config: Any,
    projector: Any,
    layer: int | None,
    tower_name: str = "vision_tower",
) -> Encoder:
    """The vision tower and the projector of a vision-language model of the LLaVA kind.

    config: its config in transformers' class; projector: its projector, whose tensors are read here
    tower_name: what the model calls its tower

    Raises ModelError for feature settings that would not give the patches of one layer, no more and no less.
    """
    chosen = config.vision_feature_layer if layer is None else layer
    if not isinstance(chosen, int):
        raise ModelError(
            f"{checkpoint.id}: vision_feature_layer must be one layer, got {chosen}; choose one with --layer"
        )
    vision = checkpoint.config["vision_config"]
    tower_family = family_of(vision, f"the vision tower of {checkpoint.id}")
    if not hasattr(tower_family, "tower"):
        raise ModelError(f"{checkpoint.id} has a {vision['model_type']} as vision tower, which edgeprune cannot trace")
    tower: Tower = tower_family.tower(
        checkpoint,
        vision,
        f"model.{tower_name}.vision_model.",
        f"{tower_name}.vision_model.",
        f"model.{tower_name}.",
        f"{tower_name}.",
    )
    # "default" drops the first token whatever it is, "full" drops none
    strategy, wanted = config.vision_feature_select_strategy, "default" if tower.prefix else "full"
    if strategy != wanted:
        what = "patches without [CLS]" if tower.prefix else "all tokens; there is no [CLS] to drop"
        raise ModelError(
            f"{checkpoint.id}: vision_feature_select_strategy must be {wanted!r} ({what}), got {strategy!r}"
        )
    try:
        projector.load_state_dict(checkpoint.tensors("model.multi_modal_projector.", "multi_modal_projector."))
    except RuntimeError as error:
        raise ModelError(
            f"{checkpoint.id}: the projector does not fit config.json: {' '.join(str(error).split())}"
        ) from None
    depth = feature_depth(chosen, len(tower.attention))
    return Encoder(family, tower, depth, projector.float().eval().requires_grad_(False))


def described(
    module: nn.Module,
    attention: Sequence[nn.Module],
    mlp: nn.Module,
    patch_embedding: nn.Conv2d,
    image_size: int | Sequence[int],
    *,
    prefix: int,
    has_cls: bool = True,
    embeddings: nn.Module | None = None,
    blocks: Sequence[nn.Module] = (),
) -> Tower:
    """The tower around a transformers model; grid and widths are read off its parts.

    attention: the module of each layer; mlp: that of one layer, all have the same
    embeddings, blocks: as in Tower, of layers that take any number of tokens
    """
    (height, width), (down, right) = pair(image_size), patch_embedding.kernel_size
    features = patch_embedding.out_channels
    weights = sum(part.weight.numel() for part in mlp.modules() if isinstance(part, nn.Linear))
    return Tower(
        module=module,
        attention=attention,
        patch_embedding=patch_embedding,
        image_size=(height, width),
        grid=(height // down, width // right),
        prefix=prefix,
        has_cls=has_cls,
        width=features,
        mlp_width=weights // (2 * features),
        embeddings=embeddings,
        blocks=list(blocks),
    )


def pair(size: int | Sequence[int]) -> tuple[int, int]:
    """
    >>> pair(224), pair([448, 224])
    ((224, 224), (448, 224))
    """
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def input_size(checkpoint: Checkpoint, default: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) in which the image processor hands images over, for families that take any size.

    default: of the config; what it was trained at is often not what it is used at

    Raises ModelError when the image processor's size is of no kind that transformers writes.
    """
    processor = checkpoint.processor
    size = processor.get("crop_size") if processor.get("do_center_crop", True) else None
    size = size or processor.get("size") or default
    if isinstance(size, Mapping):
        size = [size["height"], size["width"]] if {"height", "width"} <= set(size) else default
    try:
        return pair(size)
    except (TypeError, ValueError):
        raise ModelError(f"{checkpoint.id}: its image processor must give height and width, got {size!r}") from None


def settings(cls: Any, config: Mapping[str, Any], **changes: Any) -> Any:
    """The config in transformers' class. It knows its own model_type."""
    return cls(**{**{name: value for name, value in config.items() if name != "model_type"}, **changes})


def without(checkpoint: Checkpoint, *parts: str) -> Checkpoint:
    """The checkpoint without the tensors that have one of the parts in their dotted name: heads that nobody exports."""
    shards = {name: file for name, file in checkpoint.shards.items() if not set(parts) & set(name.split("."))}
    return replace(checkpoint, shards=shards)


def pretrained(cls: Any, config: Any, tensors: dict[str, Tensor], id: str, **options: Any) -> nn.Module:
    """A transformers model with these tensors, in float32 and evaluation mode. Raises ModelError for a missing one."""
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)  # its report of missing tensors is ours to give, in one line
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        module, report = cls.from_pretrained(
            None, config=config, state_dict=tensors, dtype="float32", output_loading_info=True, **options
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
