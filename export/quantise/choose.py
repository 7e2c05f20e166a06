"""Which products stay float: the worst few, one quantised at a time, until what the encoder gives is within its bounds.

    error[p] = median over tokens of |layer(x; p quantised) - layer(x)| / |layer(x)|     x: what the layer is given
                                                                                         in float, on calibration images
    floats   = asked for | the n products of the largest error        n: the fewest of which all probes are judged well

The layer's output is taken, not the encoder's: all products of a layer are tried on its one input, so that one run of
the encoder and some eight of each layer tell them all, and an error of 1 % here is one of about 1 % behind.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune.encoders import Encoder
from edgeprune.errors import ParityError, RequestError
from edgeprune.export.quantise.products import Products, quantising
from edgeprune.export.quantise.scheme import Scheme
from edgeprune.export.ranges import block_of

__all__ = ["asked_float", "errors_of", "fewest_floats"]

MOST = 4
"""one in so many products may stay float; beyond it the precision is not for this encoder"""


def asked_float(patterns: Sequence[str], products: Products) -> dict[str, str]:
    """Product -> "asked", of all that a name or pattern fits. Raises RequestError where one fits none."""
    asked: set[str] = set()
    for pattern in patterns:
        fitting = fnmatch.filter(products, pattern)
        if not fitting:
            some = ", ".join([*products][:2])
            raise RequestError(
                f"--keep-float must name products, or patterns as '*.mlp.fc1' and 'projector.*', got {pattern!r}; "
                f"there are {len(products)}, such as {some}"
            )
        asked |= set(fitting)
    return {name: "asked" for name in products if name in asked}


def errors_of(
    module: nn.Module,
    encoder: Encoder,
    products: Products,
    ranges: Mapping[str, tuple[float, float]],
    scheme: Scheme,
    batches: Sequence[Tensor],
    told: Callable[[str], None] = lambda what: None,
) -> dict[str, float]:
    """The error that each product makes alone, the mean over batches of [B, 3, H, W] float32."""
    layers = _layers(module, encoder, products)
    apart: dict[str, list[float]] = {name: [] for name in products}
    again = False  # a layer that holds another one runs it, too: only what the encoder runs is tried on

    def tries(names: Sequence[str]) -> Callable[..., None]:
        def hook(layer: nn.Module, given: tuple[Any, ...], named: dict[str, Any], gave: Any) -> None:
            nonlocal again
            if again:
                return
            again = True
            for name in names:
                with quantising(products, [name], ranges, scheme):
                    apart[name].append(_apart(layer.forward(*given, **named), gave))
            layer.forward(*given, **named)  # once more, so that what was recorded of this layer is that of floats
            again = False

        return hook

    hooks = [
        module.get_submodule(layer).register_forward_hook(tries(names), with_kwargs=True)
        for layer, names in layers.items()
    ]
    try:
        with torch.inference_mode():
            for at, batch in enumerate(batches):
                told(f"products one by one, image {at + 1} of {len(batches)}")
                module(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: sum(each) / len(each) for name, each in apart.items() if each}


def fewest_floats(
    errors: Mapping[str, float],
    asked: Mapping[str, str],
    judge: Callable[[Sequence[str]], str],
    precision: str,
    told: Callable[[str], None] = lambda what: None,
) -> dict[str, str]:
    """Product -> why it stays float.

    errors: of those that may be quantised; asked: those that may not
    judge: the products that are quantised -> what is beyond the bounds, or nothing

    Raises ParityError where so many as MOST allows are not enough.
    """
    ranked = sorted(errors, key=lambda name: (-errors[name], name))
    most = len(errors) // MOST

    def failing(count: int) -> str:
        told(f"{count} of {len(errors)} products in float")
        return judge([name for name in errors if name not in ranked[:count]])

    failed, count, why = -1, 0, failing(0)
    while why:
        if count == most:
            raise ParityError(
                f"--precision {precision} must keep what this encoder gives within its bounds: {why}, with {most} of "
                f"{len(errors)} products in float; name more of them with --keep-float, or leave it out"
            )
        failed, count = count, min(most, max(1, 2 * count))
        why = failing(count)
    while count - failed > 1:
        middle = (failed + count) // 2
        failed, count = (middle, count) if failing(middle) else (failed, middle)
    return {**asked, **dict.fromkeys(ranked[:count], "measured")}


def _layers(module: nn.Module, encoder: Encoder, products: Products) -> dict[str, list[str]]:
    """Layer -> its products, by their names; of what is in none, the part of the module that it is in."""
    named = {part: name for name, part in module.named_modules()}
    blocks = [named[block] for block in encoder.tower.blocks if block in named]
    layers: dict[str, list[str]] = {}
    for name in products:
        own = next((block for block in blocks if name.startswith(f"{block}.")), "")
        if not own:
            own = block_of(name) if name.startswith("encoder.") else name.partition(".")[0]
        if own == "extras":
            own = block_of(name)
        layers.setdefault(own or name, []).append(name)
    return layers


def _apart(got: Any, gave: Any) -> float:
    """Two outputs of a layer, the first where there are several."""
    theirs, ours = (one[0] if isinstance(one, tuple) else one for one in (got, gave))
    away = (theirs - ours).norm(dim=-1) / ours.norm(dim=-1).clamp_min(1e-30)
    return float(away.median())
