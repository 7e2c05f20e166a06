"""HiPrune against the official formula, written here in numpy with sets, and its quirks one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.errors import MethodError
from edgeprune.fit import build_method
from edgeprune.pruners import Eager, Selection
from edgeprune.pruners._anchors import surroundings
from edgeprune.pruners.hiprune import Method
from edgeprune.taps import Attention, Taps

Floats = NDArray[np.float64]
GRID, PATCHES, HEADS, WIDTH = (7, 9), 63, 4, 8


def formula(shallow: Floats, deep: Floats, keep: int, alpha: float) -> tuple[set[int], set[int]]:
    """encode_images of Danielement321/HiPrune@6e83a12 for one image: column means [N] -> kept; anchors and buffers."""
    anchors = np.argsort(-shallow, kind="stable")[: round(keep * alpha / 5)]
    around = np.concatenate([anchors, anchors - 1, anchors + 1, anchors - GRID[1], anchors + GRID[1]])
    first = np.unique(np.clip(around, 0, PATCHES - 1)).astype(int)
    left = deep.copy()
    left[first] -= 1
    rest = np.argsort(-left, kind="stable")[: keep - len(first)]
    return set(first.tolist()) | set(rest.tolist()), set(first.tolist())


def layers(seed: int = 0, scale: float = 1.0) -> list[tuple[Floats, Floats]]:
    """Query and key [2, H, 1 + N, d] of five layers."""
    draw = np.random.default_rng(seed)
    shape = (2, HEADS, 1 + PATCHES, WIDTH)
    return [(scale * draw.normal(size=shape), scale * draw.normal(size=shape)) for _ in range(5)]


def dominant() -> list[tuple[Floats, Floats]]:
    """All queries of all layers look at the last patch."""
    found = layers(1)
    for query, key in found:
        query[..., 0], key[..., -1, 0] = 5, 12
    return found


def two_clusters() -> list[tuple[Floats, Floats]]:
    """The patches of each half have nearly the same key."""
    half = 1 + np.arange(PATCHES) % 2
    return [
        (query, np.concatenate([key[:, :, :1], key[:, :, half] + 1e-2 * key[:, :, 1:]], axis=2))
        for query, key in layers(2)
    ]


CASES = {
    "random": layers(),
    "huge norms": layers(3, 6.0),
    "one dominant patch": dominant(),
    "two clusters": two_clusters(),
}
EQUAL = [(np.zeros((2, HEADS, 1 + PATCHES, WIDTH)),) * 2] * 5


def maps(tapped: list[tuple[Floats, Floats]]) -> list[Floats]:
    logits = [query @ key.swapaxes(-1, -2) * WIDTH**-0.5 for query, key in tapped]
    weights = [np.exp(one - one.max(axis=-1, keepdims=True)) for one in logits]
    return [one / one.sum(axis=-1, keepdims=True) for one in weights]


def select(method: Method, tapped: list[tuple[Floats, Floats]]) -> Selection:
    attention = {
        layer: Attention(torch.tensor(query), torch.tensor(key), WIDTH**-0.5)
        for layer, (query, key) in enumerate(tapped)
    }
    return method.select(Taps(attention, torch.empty(0), torch.empty(0), GRID, prefix=1, depth=len(tapped)))


def official(method: Method, tapped: list[tuple[Floats, Floats]]) -> Selection:
    return method.official(Eager([torch.tensor(one) for one in maps(tapped)], torch.empty(0), torch.empty(0), GRID, 1))


@pytest.mark.parametrize("case", CASES)
def test_both_forms_keep_what_the_official_formula_keeps(case: str) -> None:
    shallow, deep = (maps(CASES[case])[layer].mean(axis=(1, 2))[:, 1:] for layer in (1, 4))
    for keep, alpha in ((1, 0.1), (2, 0.1), (29, 0.1), (29, 0.5), (40, 1.0), (62, 0.1), (63, 0.1)):
        method = Method(keep, alpha, object_layer=2)
        for chosen in (select(method, CASES[case]), official(method, CASES[case])):
            assert chosen.indices.dtype == torch.int64
            for image in range(2):
                kept, first = formula(shallow[image], deep[image], keep, alpha)
                assert chosen.indices[image].tolist() == sorted(kept)
                want = deep[image] + 2.0 * np.isin(np.arange(PATCHES), list(first))
                np.testing.assert_allclose(chosen.scores[image].numpy(), want, rtol=1e-5, atol=1e-7)


def test_it_keeps_exactly_that_many_when_all_patches_tie() -> None:
    for chosen in (select(Method(29), EQUAL), official(Method(29), EQUAL)):
        assert chosen.indices.shape == (2, 29)
        assert bool((chosen.indices.diff(dim=1) > 0).all())


def test_the_cls_query_counts_and_the_cls_key_does_not() -> None:
    tapped = layers(3)
    tapped[4][1][:, :, 0] = 9.0  # every query of the last layer looks at [CLS]
    scores = select(Method(10, alpha=0.0), tapped).scores
    np.testing.assert_allclose(scores.numpy(), maps(tapped)[4].mean(axis=(1, 2))[:, 1:], rtol=1e-4, atol=1e-8)
    assert float(scores.sum()) < 2 * 0.999  # not renormalised


@pytest.mark.parametrize(
    ("at", "around"),
    [
        (0, {0, 1, 9}),
        (8, {8, 7, 9, 0, 17}),  # the end of the first row
        (9, {9, 8, 10, 0, 18}),  # the start of the second
        (55, {55, 54, 56, 46, 62}),  # the last row
    ],
)
def test_flat_neighbours_wrap_around_the_row_and_clamp_at_the_border(at: int, around: set[int]) -> None:
    assert set(surroundings(GRID, "flat")[at]) == around


@pytest.mark.parametrize(("at", "around"), [(0, {0, 1, 9}), (8, {8, 7, 17}), (9, {9, 10, 0, 18}), (62, {62, 61, 53})])
def test_grid_neighbours_touch(at: int, around: set[int]) -> None:
    assert set(surroundings(GRID, "grid")[at]) == around


@pytest.mark.parametrize("grid", [(1, 6), (6, 1)], ids=str)
def test_neighbours_on_a_line_stay_on_it(grid: tuple[int, int]) -> None:
    assert [set(one) for one in surroundings(grid, "grid")][:2] == [{0, 1}, {0, 1, 2}]


@pytest.mark.parametrize("neighbours", ["flat", "grid"])
def test_both_forms_have_the_same_neighbours(neighbours: str) -> None:
    method = Method(31, alpha=1.0, object_layer=1, neighbours=neighbours)
    for seed in range(8):
        tapped = layers(seed)
        assert torch.equal(select(method, tapped).indices, official(method, tapped).indices)


@pytest.mark.parametrize(
    ("keep", "anchors"), [(192, 4), (128, 3), (125, 2), (75, 2), (64, 1), (29, 1), (25, 0), (16, 0)]
)
def test_the_number_of_anchors_is_rounded_to_the_even(keep: int, anchors: int) -> None:
    assert Method(keep)._anchors == anchors


def test_without_anchors_only_the_last_layer_is_read() -> None:
    assert Method(16).layers(5) == (4,)
    assert Method(64).layers(5) == (3, 4)
    assert Method(64, object_layer=5).layers(5) == (4,)


@pytest.mark.parametrize(("depth", "layer"), [(23, 8), (24, 8), (31, 15), (32, 15), (5, 3), (6, 3), (11, 6), (1, 0)])
def test_the_object_layer_is_the_published_one_or_the_middle(depth: int, layer: int) -> None:
    assert Method(64).layers(depth)[0] == layer


@pytest.mark.parametrize("layer", [-1, 6, 100])
def test_an_object_layer_that_is_not_there_is_refused(layer: int) -> None:
    tiny = encoders.load(open_checkpoint())
    with pytest.raises(
        MethodError, match=rf"option object_layer of hiprune must be in 1\.\.5 on this encoder, got {layer}"
    ):
        build_method(Method, "hiprune", tiny, 64, {"object_layer": str(layer)})


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(
        MethodError, match=r"13 anchors with 4 buffers each must fit into keep 64; lower option alpha, 1"
    ):
        Method(64, alpha=1.0)
    for alpha in (-0.1, 1.1, float("nan")):
        with pytest.raises(MethodError, match=r"option alpha of hiprune must be in 0\.\.1, got"):
            Method(64, alpha=alpha)
    with pytest.raises(MethodError, match=r"no neighbours 'grit'; have flat, grid\. Did you mean 'grid'"):
        Method(64, neighbours="grit")
