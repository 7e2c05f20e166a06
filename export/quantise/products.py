"""The products with weights that may be quantised, by the name that their nodes have in the graph.

    of each layer   q, k, v, out and the MLP, whatever the family calls them
    of the rest     the Linears of the projector, and of the projectors of extras

What scores stays float, and so do heads, whose scores are an output, and the patch embedding: it is under 1 % of the
multiply-adds, and of pixels, of which 8 bits less than 8 would be left.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from edgeprune.encoders import Encoder
from edgeprune.export.quantise.arithmetic import Affine, affine_of, fake, fake_weight
from edgeprune.export.quantise.scheme import Scheme
from edgeprune.export.ranges import block_of
from edgeprune.trace import PrunedEncoder

__all__ = ["Products", "products_of", "quantising", "watching"]

Products = Mapping[str, nn.Linear]
"""name -> product, in the order of the modules"""


def products_of(module: PrunedEncoder, encoder: Encoder) -> dict[str, nn.Linear]:
    """Of what is exported: nothing behind the feature layer."""
    named = {part: name for name, part in module.named_modules()}
    behind = tuple(f"{block_of(named[part])}." for part in encoder.tower.attention[encoder.layer :])
    within = ("encoder.", "extras.") if encoder.headed else ("encoder.", "extras.", "projector")
    return {
        name: part
        for part, name in named.items()
        if isinstance(part, nn.Linear) and name.startswith(within) and not name.startswith(behind or ("\0",))
    }


@contextlib.contextmanager
def watching(products: Products, seen: Callable[[str, Tensor], None]) -> Iterator[None]:
    """While it runs, what each product is given is shown, by its name."""

    def hook(name: str) -> Callable[..., None]:
        return lambda _, given: seen(name, given[0])

    hooks = [part.register_forward_pre_hook(hook(name)) for name, part in products.items()]
    try:
        yield
    finally:
        for one in hooks:
            one.remove()


@contextlib.contextmanager
def quantising(
    products: Products, names: Iterable[str], ranges: Mapping[str, tuple[float, float]], scheme: Scheme
) -> Iterator[None]:
    """While it runs, these products are computed as the graph will compute them: weights once, inputs at every run.

    ranges: of the input of each by its name; a dynamic scheme needs none
    """
    dtype, changed = getattr(torch, scheme.rest), []

    def computed(part: nn.Linear, affine: Affine | None) -> Callable[[Tensor], Tensor]:
        weight = fake_weight(part.weight, scheme.weights, dtype)

        def forward(x: Tensor) -> Tensor:
            low, high = (float(one) for one in torch.aminmax(x)) if affine is None else (0.0, 0.0)
            own = affine or affine_of(low, high, scheme.activations, dtype)
            return nn.functional.linear(fake(x, own), weight, part.bias)

        return forward

    try:
        for name in names:
            affine = None if scheme.dynamic else affine_of(*ranges[name], scheme.activations, dtype)
            setattr(products[name], "forward", computed(products[name], affine))  # noqa: B010 - it is a method
            changed.append(products[name])
        yield
    finally:
        for part in changed:
            del part.forward  # the class's own is seen again
