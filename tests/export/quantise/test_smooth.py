"""SmoothQuant on a tower of transformers whose norms have outlier channels: what it computes stays the same."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from edgeprune.encoders import Encoder
from edgeprune.export.quantise.histogram import Histogram
from edgeprune.export.quantise.products import products_of, quantising, watching
from edgeprune.export.quantise.scheme import Scheme
from edgeprune.export.quantise.smooth import OUTLIERS, behind_norms, has_outliers, smooth
from edgeprune.pruners.none import Method
from edgeprune.trace import PrunedEncoder

S8 = Scheme("int8", "s8", "float32")
CHANNEL, TIMES = 5, 64.0
NORM = "encoder.encoder.layers.1.layer_norm2"


@pytest.fixture
def module(tiny_llava: Callable[..., Encoder]) -> tuple[PrunedEncoder, Encoder]:
    """Of which one norm makes one channel far larger than the others, with a product that reads little of it."""
    encoder = copy.deepcopy(tiny_llava())
    module = PrunedEncoder(encoder, Method(encoder.patches)).eval()
    norm: Any = module.get_submodule(NORM)
    product: Any = module.get_submodule(NORM.replace("layer_norm2", "mlp.fc1"))
    norm.weight.data[CHANNEL] = TIMES
    product.weight.data[:, CHANNEL] /= TIMES
    return module, encoder


def inputs(module: nn.Module, products: dict[str, nn.Linear]) -> tuple[dict[str, Histogram], dict[str, str], Tensor]:
    histograms = {name: Histogram() for name in products}
    pixels = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    seen = watching(products, lambda name, x: histograms[name].add(x))
    with torch.inference_mode(), behind_norms(module, products) as norms, seen:
        tokens = module(pixels)[0]
    return histograms, norms, tokens


def test_a_norm_is_found_in_front_of_the_products_of_its_layer(module: tuple[PrunedEncoder, Encoder]) -> None:
    _, norms, _ = inputs(module[0], products_of(*module))
    layer = "encoder.encoder.layers.1"
    own = {name: norm for name, norm in norms.items() if name.startswith(layer)}
    first, second = f"{layer}.layer_norm1", f"{layer}.layer_norm2"
    assert own == {
        **{f"{layer}.self_attn.{one}_proj": first for one in ("k", "v", "q")},
        f"{layer}.mlp.fc1": second,
    }


def test_only_what_has_outliers_is_smoothed_and_no_digit_of_the_tokens_changes(
    module: tuple[PrunedEncoder, Encoder],
) -> None:
    products = products_of(*module)
    histograms, norms, before = inputs(module[0], products)
    largest = {name: one.largest for name, one in histograms.items()}
    norm: Any = module[0].get_submodule(NORM)
    shared = norm.weight
    assert smooth(module[0], products, norms, largest) == (NORM.replace("layer_norm2", "mlp.fc1"),)
    after_histograms, _, after = inputs(module[0], products)
    assert torch.equal(before, after)
    assert shared is norm.weight  # the module's own, with values of its own
    assert not has_outliers(after_histograms[NORM.replace("layer_norm2", "mlp.fc1")].largest)


def test_norms_of_one_tensor_get_values_of_their_own(module: tuple[PrunedEncoder, Encoder]) -> None:
    other, norm = (cast(Any, module[0].get_submodule(name)) for name in (NORM.replace("1.layer", "0.layer"), NORM))
    other.weight.data = norm.weight.data
    products = products_of(*module)
    histograms, norms, before = inputs(module[0], products)
    few = {name: one for name, one in norms.items() if one == NORM}
    smooth(module[0], products, few, {name: one.largest for name, one in histograms.items()})
    assert torch.equal(inputs(module[0], products)[2], before)


def test_a_norm_that_two_layers_own_together_stays_as_it_is(module: tuple[PrunedEncoder, Encoder]) -> None:
    other, norm = (cast(Any, module[0].get_submodule(name)) for name in (NORM.replace("1.layer", "0.layer"), NORM))
    other.weight = norm.weight
    products = products_of(*module)
    histograms, norms, before = inputs(module[0], products)
    assert smooth(module[0], products, norms, {name: one.largest for name, one in histograms.items()}) == ()
    assert torch.equal(inputs(module[0], products)[2], before)


def test_the_product_behind_outliers_is_nearer_to_itself_once_it_is_smoothed(
    module: tuple[PrunedEncoder, Encoder],
) -> None:
    products, name = products_of(*module), NORM.replace("layer_norm2", "mlp.fc1")
    product = products[name]
    histograms, norms, _ = inputs(module[0], products)
    x = torch.randn(64, product.in_features, generator=torch.Generator().manual_seed(1))
    x[:, CHANNEL] *= TIMES

    def off(x: Tensor) -> float:
        ranges = {name: (float(x.min()), float(x.max()))}
        with torch.inference_mode():
            wanted = product(x)
            with quantising(products, [name], ranges, S8):
                return float((product(x) - wanted).norm() / wanted.norm())

    before, weight = off(x), product.weight.detach().clone()
    smooth(module[0], products, norms, {name: one.largest for name, one in histograms.items()})
    scale = (product.weight / weight).nanmean(dim=0)
    assert off(x / scale) < before / 4


def test_outliers_reach_further_than_half_of_the_channels() -> None:
    assert not has_outliers(torch.ones(16))
    assert has_outliers(torch.tensor([1.0] * 15 + [OUTLIERS + 1]))
