"""SmoothQuant: a few large channels behind a norm, moved into the weights of the products that read it.

    norm(x) W.T  =  (norm(x) / s) (W * s).T        s[j] = sqrt(max |X[:, j]| / max |W[:, j]|), a power of two

One range holds all channels of a tensor: where a few reach thirty times as far as the rest, 8 bits leave the rest
three.
1 / s goes into the norm's own weight and bias, so that the graph has no node more; as a power of two, it changes no
digit of the float graph. Each norm gets values of its own, also where several have the same.

Paper   https://arxiv.org/abs/2211.10438, equation 4 with alpha = 0.5
Source  mit-han-lab/smoothquant@main smoothquant/smooth.py, smooth_ln_fcs, whose products of one norm share their s
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from edgeprune.export.quantise.products import Products
from edgeprune.export.ranges import block_of

__all__ = ["OUTLIERS", "behind_norms", "has_outliers", "smooth"]

OUTLIERS = 8.0
"""times as far as half of the channels reach, that one must to be an outlier; norms of trained towers stay below or go
far beyond it"""


@contextlib.contextmanager
def behind_norms(module: nn.Module, products: Products) -> Iterator[dict[str, str]]:
    """While it runs, which norm gives each product its input is gathered: product -> norm, by their names.

    Only norms of the same layer: what another part reads as well must not change.
    """
    gave: dict[str, Tensor] = {}
    behind: dict[str, str] = {}
    hooks = []
    for name, part in module.named_modules():
        if _is_norm(part):

            def gives(_: nn.Module, __: object, out: Tensor, name: str = name) -> None:
                gave[name] = out

            hooks.append(part.register_forward_hook(gives))
    for name, product in products.items():

        def reads(_: nn.Module, given: tuple[Tensor, ...], name: str = name) -> None:
            norm = next((one for one, out in gave.items() if out is given[0]), None)
            if norm is not None and block_of(norm) == block_of(name) != "":
                behind[name] = norm

        hooks.append(product.register_forward_pre_hook(reads))
    try:
        yield behind
    finally:
        for hook in hooks:
            hook.remove()


def has_outliers(largest: Tensor) -> bool:
    """largest: [C], the largest |value| of each channel"""
    return bool(largest.max() > OUTLIERS * largest.median())


def smooth(
    module: nn.Module, products: Products, norms: Mapping[str, str], largest: Mapping[str, Tensor]
) -> tuple[str, ...]:
    """Smooth the inputs that have outliers, in place; returns the products whose input was.

    What two modules own together stays as it is.

    norms: as `behind_norms` gathers them; largest: of the input of each product
    """
    done: list[str] = []
    owners = Counter(id(value) for part in module.modules() for value in part.parameters(recurse=False))
    for norm in dict.fromkeys(norms.values()):
        readers = [name for name, one in norms.items() if one == norm]
        reach = torch.stack([largest[name] for name in readers]).amax(dim=0)
        part = module.get_submodule(norm)
        changed = [*part.parameters(recurse=False), *(products[name].weight for name in readers)]
        if not has_outliers(reach) or any(owners[id(value)] > 1 for value in changed):
            continue
        weights = torch.stack([products[name].weight.detach().abs().amax(dim=0) for name in readers]).amax(dim=0)
        alive = (reach > 0) & (weights > 0)
        scale = torch.where(alive, (reach / weights.clamp_min(1e-30)).sqrt().log2().round().exp2(), 1.0)
        for value in part.parameters(recurse=False):
            value.data = value.data / scale
        for name in readers:
            products[name].weight.data = products[name].weight.data * scale
        done += readers
    return tuple(name for name in products if name in done)


def _is_norm(part: nn.Module) -> bool:
    """A norm over the last dimension with a weight of its own: LayerNorm, and what families call their RMSNorm."""
    weight = getattr(part, "weight", None)
    return type(part).__name__.endswith("Norm") and isinstance(weight, nn.Parameter) and weight.dim() == 1
