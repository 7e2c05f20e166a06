"""What families load with: a transformers model from a checkpoint's tensors, a tower around it, an encoder of both."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune.checkpoint import Checkpoint, not_read
from edgeprune.encoders import Encoder, Tower, family_of, feature_depth
from edgeprune.encoders._settings import pair
from edgeprune.errors import ModelError

__all__ = [
    "PROJECTOR",
    "behind_norm",
    "part_of",
    "pretrained",
    "renamed",
    "settings",
    "spelled",
    "tower_around",
    "with_projector",
    "without",
    "without_projector",
]


PROJECTOR = ("model.multi_modal_projector.", "multi_modal_projector.")
"""the prefixes of what most models call their projector, of transformers 5 and 4"""


def settings(cls: Any, config: Mapping[str, Any], **changes: Any) -> Any:
    """The config in transformers' class. It knows its own model_type."""
    return cls(**{**{name: value for name, value in config.items() if name != "model_type"}, **changes})


def without(checkpoint: Checkpoint, *parts: str) -> Checkpoint:
    """The checkpoint without the tensors that have one of the parts in their dotted name: heads that nobody exports."""
    shards = {name: file for name, file in checkpoint.shards.items() if not set(parts) & set(name.split("."))}
    return replace(checkpoint, shards=shards)


def renamed(tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors with these parts of their names, as some files have them, as transformers' module has them."""

    def own(name: str) -> str:
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        return name

    return {own(name): value for name, value in tensors.items()}


def pretrained(cls: Any, config: Any, tensors: dict[str, Tensor], id: str, **options: Any) -> nn.Module:
    """A transformers model with these tensors, in float32 and evaluation mode.

    Raises ModelError when it is not made of just these, each of the size that the config says.
    """
    from transformers.utils import logging as transformers_logging

    _check_size(cls, config, tensors, id, options)
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)  # its report of missing tensors is ours to give, in one line
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        module, report = cls.from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            dtype="float32",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in its report
            **options,
        )
    finally:
        transformers_logging.set_verbosity(verbosity)
    _check_fit(id, cls.__name__, report["missing_keys"], report["unexpected_keys"], report["mismatched_keys"])
    model: nn.Module = module.eval().requires_grad_(False)
    return model


def part_of(cls: Any, config: Any, stored: dict[str, Tensor], id: str) -> nn.Module:
    """A module of transformers that is no model of its own, such as a projector, with these tensors, in float32.

    Raises ModelError when it is not made of just these, each of the size that the config says.
    """
    with torch.device("meta"):
        module: nn.Module = cls(config)
    own = module.state_dict()
    sizes = [(name, stored[name].shape, own[name].shape) for name in stored.keys() & own.keys()]
    differ = [one for one in sizes if one[1] != one[2]]
    _check_fit(id, cls.__name__, own.keys() - stored.keys(), stored.keys() - own.keys(), differ)
    module.load_state_dict(stored, assign=True)
    return module.float().eval().requires_grad_(False)


def _check_size(cls: Any, config: Any, tensors: Mapping[str, Tensor], id: str, options: dict[str, Any]) -> None:
    """Before there is memory for it: a config that describes much more than the tensors have is not theirs."""
    with torch.device("meta"):
        described = sum(one.numel() for one in cls(config, **options).parameters())
    stored = sum(one.numel() for one in tensors.values())
    if described > 2 * stored + 1_000_000:
        raise ModelError(
            f"{id}: config.json describes a {cls.__name__} of {described:,} weights, and the tensors have {stored:,}; "
            f"check its sizes and its number of layers"
        )


def _check_fit(
    id: str,
    reader: str,
    missing: Collection[str],
    unread: Collection[str],
    mismatched: Collection[tuple[str, Sequence[int], Sequence[int]]],
) -> None:
    """mismatched: (name, its size in the checkpoint, by the config)"""
    if mismatched:
        name, stored, described = min(mismatched)
        raise ModelError(
            f"{id}: tensor {name} is {[*stored]}, and a {reader} of config.json has {[*described]}; "
            f"is it the config of this checkpoint?"
        )
    if missing and unread:
        raise ModelError(
            f"{id} lacks the tensor {min(missing)} of {reader} and has {min(unread)} instead; "
            f"is it the checkpoint that its config.json describes?"
        )
    if missing:
        raise ModelError(f"{id} lacks the tensor {min(missing)} of {reader}; copy the whole checkpoint")
    if unread:
        raise not_read(id, min(unread), reader)


def tower_around(
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


def without_projector(family: str, tower: Tower, layer: int | None) -> Encoder:
    """An encoder without projector: tokens are those of last_hidden_state, or of hidden_states[layer] if one is given.

    So None and -1 differ where the family has a final norm: transformers applies it to last_hidden_state only.
    """
    depth = feature_depth(-1 if layer is None else layer, len(tower.attention))
    return Encoder(family, tower, depth, nn.Identity(), normed=layer is None)


def spelled(name: str, roots: Sequence[str] = ("model.", "")) -> list[str]:
    """The prefixes of a vision tower that the whole model calls so: of transformers 4, which has one part more, and 5.

    >>> spelled("vision_tower", ("model.",))
    ['model.vision_tower.vision_model.', 'model.vision_tower.']
    """
    return [f"{root}{name}{part}" for part in (".vision_model.", ".") for root in roots]


def behind_norm(
    family: str, tower: Tower, projector: nn.Module, layer: int | None, groups: Tensor | None = None
) -> Encoder:
    """An encoder whose projector takes last_hidden_state, or hidden_states[layer] if one is given.

    groups: as in Encoder
    """
    return replace(without_projector(family, tower, layer), projector=projector, groups=groups)


def with_projector(
    family: str,
    checkpoint: Checkpoint,
    config: Any,
    projector: Any,
    layer: int | None,
    tower_name: str = "vision_tower",
    size: tuple[int, int] | None = None,
) -> Encoder:
    """The vision tower and the projector of a vision-language model of the LLaVA kind.

    config: its config in transformers' class; projector: the class of its projector, whose tensors are read here
    tower_name: what the model calls its tower
    size: (height, width) of images, for another than the config's

    Raises ModelError for feature settings that would not give the patches, no more and no less.
    """
    chosen = _feature_layers(checkpoint, config, layer)
    vision = checkpoint.config["vision_config"]
    tower_family = family_of(vision, f"the vision tower of {checkpoint.id}")
    if not hasattr(tower_family, "tower"):
        raise ModelError(f"{checkpoint.id} has a {vision['model_type']} as vision tower, which edgeprune cannot trace")
    tower: Tower = tower_family.tower(
        checkpoint,
        vision,
        *spelled(tower_name),
        size=size,
    )
    # "default" drops the first token whatever it is, "full" drops none
    strategy, wanted = config.vision_feature_select_strategy, "default" if tower.prefix else "full"
    if strategy != wanted:
        what = "patches without [CLS]" if tower.prefix else "all tokens; there is no [CLS] to drop"
        raise ModelError(
            f"{checkpoint.id}: vision_feature_select_strategy must be {wanted!r} ({what}), got {strategy!r}"
        )
    module = part_of(projector, config, checkpoint.tensors(*PROJECTOR), checkpoint.id)
    least = 0 if len(chosen) > 1 else 1  # beside others there may be the embeddings
    depths = tuple(feature_depth(one, len(tower.attention), least) for one in chosen)
    beside, deepest = depths if len(depths) > 1 else (), feature_depth(max(depths), len(tower.attention))
    return Encoder(family, tower, deepest, module, beside=beside)


def _feature_layers(checkpoint: Checkpoint, config: Any, layer: int | None) -> list[int]:
    """The layers whose features the projector takes side by side, as the config has them, or the one that was asked
    for. Raises ModelError where these are no layers."""
    own = config.vision_feature_layer
    chosen: list[int] = [own] if isinstance(own, int) else list(own)
    if not chosen or not all(isinstance(one, int) for one in chosen):
        raise ModelError(f"{checkpoint.id}: vision_feature_layer must be a layer or a list of such, got {own}")
    return chosen if layer is None else [layer]
