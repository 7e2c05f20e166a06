"""A reducer and its steps made to fit an encoder and the method behind them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from edgeprune import catalog, pruners
from edgeprune.encoders import Encoder
from edgeprune.encoders._attention import WINDOWS
from edgeprune.errors import MethodError, RequestError
from edgeprune.pruners import Method, inside
from edgeprune.pruners.inside import Reducer
from edgeprune.schedule import Inside, Step

__all__ = ["build_reducer", "check_steps", "parse_steps", "with_inside"]


def parse_steps(text: str) -> tuple[Step, ...]:
    """`8:288,16:144` -> behind 8 layers 288 rows, behind 16 layers 144. Raises RequestError when it is none.

    >>> parse_steps("8:288,16:144")
    (Step(layer=8, keep=288), Step(layer=16, keep=144))
    """
    if not re.fullmatch(r"\d+:\d+(,\d+:\d+)*", text):
        raise RequestError(
            f"--schedule must be layers:tokens for each step, such as 8:288,16:144 (behind 8 layers 288 tokens are "
            f"left), or official, got {text!r}"
        )
    return tuple(Step(*map(int, one.split(":"))) for one in text.split(","))


def build_reducer(
    encoder: Encoder,
    name: str,
    method: Method,
    method_name: str,
    options: Mapping[str, str] | None = None,
    pooled: int = 1,
) -> Reducer:
    """The reducer with its options, as text, checked against the encoder and the method behind it.

    pooled: how many tiles are one pool of candidates for the method

    Raises MethodError when there is no such reducer or option, or encoder or method cannot go with steps inside.
    """
    reducer = inside.get(name)
    able = [one for one in pruners.names() if pruners.get(one).traits.behind_steps]
    if not method.traits.behind_steps:
        why = "drops tokens inside the encoder itself" if method.traits.inside else "needs every patch in its place"
        raise MethodError(
            f"{method_name} {why}, and --inside {name} merges or drops some on the way; use {', '.join(able)}"
        )
    if encoder.headed and not method.traits.keeps_all:
        raise MethodError(
            f"the head of {encoder.family} reads what the steps leave, and no tokens are handed out for {method_name} "
            "to choose; use --method none, whose --keep is what the last step leaves"
        )
    if pooled > 1:
        apart = [one for one in able if not pruners.get(one).traits.pools_tiles]
        raise MethodError(
            f"{method_name} chooses of all tiles of an image together, and --inside shortens each by itself; use "
            f"{', '.join(apart)}"
        )
    kinds = next(one.options for one in catalog.reducers() if one.name == name)
    make: Any = reducer
    built: Reducer = make(
        **{option: catalog.option_value(name, option, text, kinds) for option, text in (options or {}).items()}
    )
    _check_encoder(encoder, name, built)
    return built.prepared(encoder.tower.has_cls, encoder.layer)


def with_inside(
    encoder: Encoder, name: str, reducer: Reducer, steps: Sequence[Step], method: Method, origin: bool = False
) -> Encoder:
    """The encoder with the reducer's steps in it. A method that keeps all must be made for what the last one leaves.

    origin: whether the graph hands out where each patch went

    Raises RequestError when the steps do not fit, MethodError when the method reads a layer in front of the last one.
    """
    check_steps(steps, encoder, method.keep)
    rows = encoder.patches
    for step in steps:
        if rows - step.keep > reducer.most * rows:
            raise RequestError(
                f"{name} merges up to {reducer.most:.0%} of the rows at a step, {rows} to "
                f"{rows - int(reducer.most * rows)} or more, got {step.keep} behind layer {step.layer}; take more "
                "steps, or keep more"
            )
        rows = step.keep
    last = steps[-1].layer
    for layer in method.layers(encoder.layer):
        if layer < last:
            raise MethodError(
                f"the method reads the attention of layer {layer + 1}, and a step behind layer {last} shortens the "
                f"sequence after that; the last step must stand behind at most {layer} layers"
            )
    return dataclasses.replace(encoder, inside=Inside(name, reducer, tuple(steps), origin))


def check_steps(steps: Sequence[Step], encoder: Encoder, keep: int) -> None:
    """Raises RequestError when the sequence would grow, end below K, or a layer is not there."""
    layers, rows, before = encoder.layer, encoder.patches, 0
    for step in steps:
        if not 0 < step.layer < layers:
            raise RequestError(
                f"a step of --schedule must stand behind 1..{layers - 1} of the {layers} layers, got {step.layer}"
            )
        if step.layer <= before:
            raise RequestError(f"the layers of --schedule must rise, got {step.layer} behind {before}")
        if step.keep >= rows:
            raise RequestError(
                f"--schedule must shorten the sequence at every step, got {step.keep} tokens behind layer "
                f"{step.layer}, where there are {rows} already"
            )
        before, rows = step.layer, step.keep
    if rows < keep:
        raise RequestError(f"--schedule must leave at least the {keep} tokens that --keep asks for, got {rows}")


def _contiguous(encoder: Encoder) -> bool:
    """Whether the patches of each token stand side by side in the tower, tokens in raster order."""
    groups = encoder.groups
    return groups is None or bool((groups.flatten() == torch.arange(groups.numel())).all())


def _check_encoder(encoder: Encoder, name: str, reducer: Reducer) -> None:
    tower = encoder.tower
    windowed = any(len(getattr(module, WINDOWS, [1])) > 1 for module in tower.attention)
    if windowed or not tower.blocks or not _contiguous(encoder) or encoder.pooling is not None:
        raise MethodError(
            f"--inside needs layers that take any number of tokens; those of {encoder.family} do not; leave it out"
        )
    if tower.between is not None:
        raise MethodError(
            f"--inside needs layers with nothing between them; this {encoder.family} adds positions of its patches in "
            "front of each; use --method bavit or received"
        )
    if encoder.unit > 1 and reducer.by_patch:
        able = [one for one in inside.names() if not inside.get(one).by_patch]
        raise MethodError(
            f"{name} reads attention between tokens, and a token of {encoder.family} is {encoder.unit} patches; use "
            f"{', '.join(able)}"
        )
    if encoder.kind == "detections" and reducer.merges:
        raise MethodError(
            f"{encoder.family} detects worse on merged tokens than on fewer of them; use --method bavit or received"
        )
    if reducer.needs_cls and not tower.has_cls:
        able = [one for one in inside.names() if not inside.get(one)().needs_cls]
        raise MethodError(
            f"{name} reads the [CLS] row of the attention; {encoder.family} has no [CLS] token. Use {', '.join(able)}"
        )
