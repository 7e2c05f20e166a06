"""Which products stay float: asked for, or the fewest of the worst."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import pytest
import torch

from edgeprune.encoders import Encoder
from edgeprune.errors import ParityError, RequestError
from edgeprune.export.quantise.choose import MOST, asked_float, errors_of, fewest_floats
from edgeprune.export.quantise.products import products_of
from edgeprune.export.quantise.scheme import Scheme
from edgeprune.pruners.none import Method
from edgeprune.trace import PrunedEncoder

ERRORS = {f"p{at:02}": at / 100 for at in range(32)}


def needing(*names: str) -> Callable[[Sequence[str]], str]:
    """A judge whom nothing satisfies while one of these is quantised."""
    return lambda quantised: "2 % are allowed" if set(names) & set(quantised) else ""


@pytest.mark.parametrize("count", range(32 // MOST + 1))
def test_the_fewest_of_the_worst_stay_float(count: int) -> None:
    worst = [f"p{at:02}" for at in range(31, 31 - count, -1)]
    assert fewest_floats(ERRORS, {}, needing(*worst[-1:]), "int8") == dict.fromkeys(worst, "measured")


def test_what_was_asked_for_is_not_counted_as_measured() -> None:
    found = fewest_floats(ERRORS, {"q": "asked"}, needing("p31"), "int8")
    assert found == {"q": "asked", "p31": "measured"}


def test_an_encoder_that_needs_more_floats_than_that_is_refused_with_the_figure() -> None:
    with pytest.raises(ParityError, match="2 % are allowed, with 8 of 32 products in float"):
        fewest_floats(ERRORS, {}, needing("p00"), "int8")


def test_products_are_asked_for_by_name_or_pattern(tiny_llava: Callable[..., Encoder]) -> None:
    encoder = tiny_llava()
    products = products_of(PrunedEncoder(encoder, Method(encoder.patches)), encoder)
    named = asked_float(["projector.*", "*layers.0.mlp.fc1"], products)
    assert named == dict.fromkeys(
        ["encoder.encoder.layers.0.mlp.fc1", "projector.linear_1", "projector.linear_2"], "asked"
    )
    with pytest.raises(RequestError, match=r"must name products, .* got 'projector\.linear_3'; there are \d+"):
        asked_float(["projector.linear_3"], products)


def test_the_error_is_that_of_the_layer_with_one_product_quantised(tiny_llava: Callable[..., Encoder]) -> None:
    encoder = copy.deepcopy(tiny_llava())
    module = PrunedEncoder(encoder, Method(encoder.patches)).eval()
    products = products_of(module, encoder)
    pixels = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    ranges = dict.fromkeys(products, (-8.0, 8.0))
    name, layer = "encoder.encoder.layers.1.mlp.fc2", module.get_submodule("encoder.encoder.layers.1")
    ranges[name] = (-1e-6, 1e-6)  # all of its input is clipped to about nothing
    gave = []
    hook = layer.register_forward_hook(lambda _, given, out: gave.append((given[0], out)))
    with torch.inference_mode():
        tokens = module(pixels)[0]
        hook.remove()
        errors = errors_of(module, encoder, products, ranges, Scheme("int8", "s8", "float32"), [pixels])
        assert torch.equal(module(pixels)[0], tokens)
        given, out = gave[0]
        residual = layer.forward(given, None)
        bias = products[name].bias
        attended = given + layer.self_attn(layer.layer_norm1(given), None)[0]  # type: ignore[operator]
    assert torch.equal(residual, out)
    away = (attended + bias - out).norm(dim=-1) / out.norm(dim=-1)
    assert errors[name] == pytest.approx(float(away.median()), rel=1e-3)
    alone = [one for one in errors if one.startswith("encoder.encoder.layers.1.")]
    assert max(alone, key=lambda one: errors[one]) == name
    assert set(errors) == set(products)
