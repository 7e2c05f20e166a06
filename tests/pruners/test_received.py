"""Received: attention that patches receive in a layer on the way; everything behind it runs on the kept ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edgeprune.encoders import Encoder
from edgeprune.errors import MethodError
from edgeprune.fit import build_method
from edgeprune.pruners import Eager, Selection, none
from edgeprune.pruners.received import Method
from edgeprune.reference import OfficialEncoder
from edgeprune.taps import Attention, Taps
from edgeprune.trace import PrunedEncoder

HEADS, GRID, PREFIX, SUFFIX, WIDTH = 2, (2, 3), 1, 2, 4
PATCHES, TOKENS = 6, 9
PIXELS = torch.randn(3, 3, 48, 64, generator=torch.Generator().manual_seed(1))


def parts() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(5)
    query, key = (2 * torch.randn(3, HEADS, TOKENS, WIDTH, generator=random) for _ in range(2))
    return query, key


def formula() -> np.ndarray[Any, Any]:
    """[3, 6], in numpy: the mean over heads and all nine queries of what each patch receives."""
    query, key = (part.double().numpy() for part in parts())
    weights = np.exp(query @ key.transpose(0, 1, 3, 2) / 2)
    maps = weights / weights.sum(-1, keepdims=True)
    received: np.ndarray[Any, Any] = maps.mean(axis=(1, 2))[:, PREFIX : PREFIX + PATCHES]
    return received


def select(method: Method) -> Selection:
    features = torch.zeros(3, PATCHES, HEADS * WIDTH)
    attention = {method.layers(4)[0]: Attention(*parts(), WIDTH**-0.5)}
    return method.select(Taps(attention, features, features, GRID, PREFIX, 4, suffix=SUFFIX))


def official(method: Method) -> Selection:
    query, key = parts()
    maps = [torch.full((3, HEADS, TOKENS, TOKENS), torch.nan)] * method.steps(4)[0]
    maps[-1] = (query @ key.mT / 2).softmax(-1)
    features = torch.zeros(3, PATCHES, HEADS * WIDTH)
    return method.official(Eager(maps, features, features, GRID, PREFIX))


@pytest.mark.parametrize("layer", [0, 1, 2, 3])
@pytest.mark.parametrize("keep", [1, 3, 6])
def test_it_keeps_what_receives_most_in_its_layer(layer: int, keep: int) -> None:
    wanted = formula()
    indices = np.sort(np.argsort(-wanted, axis=1)[:, :keep], axis=1)
    for chosen in (select(Method(keep, layer)), official(Method(keep, layer))):
        np.testing.assert_allclose(chosen.scores.numpy(), wanted, rtol=1e-5)
        np.testing.assert_array_equal(chosen.indices.numpy(), indices)


def test_special_tokens_ask_but_are_not_scored() -> None:
    """Attention is shared among all nine tokens, so that the six patches receive less than a ninth each, or more."""
    scores = select(Method(2)).scores
    assert scores.shape == (3, PATCHES)
    query, key = (part.double().numpy() for part in parts())
    weights = np.exp(query @ key.transpose(0, 1, 3, 2) / 2)
    of_patches = (weights / weights.sum(-1, keepdims=True))[:, :, PREFIX : PREFIX + PATCHES].mean(axis=(1, 2))
    assert not np.allclose(scores.numpy(), of_patches[:, PREFIX : PREFIX + PATCHES], rtol=1e-2)


@pytest.mark.parametrize(
    ("depth", "layer"), [(2, 1), (3, 2), (4, 3), (5, 4), (6, 4), (12, 8), (23, 16), (24, 16), (26, 18)]
)
def test_it_drops_two_thirds_of_the_way_up_and_warns_in_front_of_that(depth: int, layer: int) -> None:
    assert Method(4).steps(depth) == (layer,)
    assert Method(4).layers(depth) == (layer - 1,)
    assert Method(4, depth - 1).steps(depth) == (depth - 1,)
    assert Method(4).warnings(depth) == Method(4, layer).warnings(depth) == Method(4, depth - 1).warnings(depth) == ()
    for early in range(1, layer):
        (warning,) = Method(4, early).warnings(depth)
        assert warning.startswith(f"received reads layer {early} of {depth}, where attention can go to what matters")
        assert warning.endswith(f"leave option layer out: {layer}")


@pytest.mark.parametrize("layer", [0, 1, 2, 3])
def test_the_pruned_model_equals_the_dense_one_that_does_not_see_the_dropped_patches(
    detector: Encoder, layer: int
) -> None:
    method = build_method(Method, "received", detector, 20, {"layer": str(layer)})
    with torch.inference_mode():
        found = PrunedEncoder(detector, method).eval()(PIXELS)
        expected = OfficialEncoder(detector, method).eval()(PIXELS)
    assert torch.equal(found[2], expected[2])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_keeping_every_patch_equals_the_unpruned_model_bit_for_bit(detector: Encoder) -> None:
    with torch.inference_mode():
        everything = PrunedEncoder(detector, Method(48)).eval()(PIXELS)
        unpruned = PrunedEncoder(detector, none.Method(48)).eval()(PIXELS)
    assert torch.equal(everything[0], unpruned[0])
    assert torch.equal(everything[1], unpruned[1])


@pytest.mark.parametrize("layer", ["4", "-1", "40"])
def test_a_layer_without_one_behind_it_is_refused(detector: Encoder, layer: str) -> None:
    with pytest.raises(MethodError, match=rf"option layer of received must be in 1\.\.3, got {layer}"):
        build_method(Method, "received", detector, 20, {"layer": layer})


def test_an_encoder_of_one_layer_is_refused() -> None:
    with pytest.raises(MethodError, match="behind a layer and in front of another one; this encoder has 1"):
        Method(4).layers(1)
