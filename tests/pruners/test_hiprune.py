"""HiPrune against the official formula, written here in numpy with sets, and its quirks one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.errors import MethodError
from edgeprune.pruners import Eager
from edgeprune.pruners.hiprune import Method, _surroundings
from edgeprune.taps import Attention, Taps
from edgeprune.trace import build_method

GRID, PATCHES, HEADS, WIDTH = (7, 9), 63, 4, 8


def golden(
    shallow: NDArray[np.float64], deep: NDArray[np.float64], keep: int, alpha: float, columns: int = GRID[1]
) -> tuple[set[int], set[int]]:
    """encode_images of Danielement321/HiPrune@6e83a12 for one image: column means [N] -> kept set, S."""
    last = len(deep) - 1
    anchors = np.argsort(-shallow, kind="stable")[: round(keep * alpha / 5)]
    around = np.concatenate([anchors, anchors - 1, anchors + 1, anchors - columns, anchors + columns])
    first = np.unique(np.clip(around, 0, last)).astype(int)
    left = deep.copy()
    left[first] -= 1
    rest = np.argsort(-left, kind="stable")[: keep - len(first)]
    return set(first.tolist()) | set(rest.tolist()), set(first.tolist())


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def layers(seed: int = 0, scale: float = 1.0) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Query and key [2, H, 1 + N, d] of five layers."""
    draw = np.random.default_rng(seed)
    shape = (2, HEADS, 1 + PATCHES, WIDTH)
    return [(scale * draw.normal(size=shape), scale * draw.normal(size=shape)) for _ in range(5)]


def dominant() -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """All queries of all layers look at the last patch."""
    found = layers(1)
    for query, key in found:
        query[..., 0] = 5
        key[..., -1, 0] = 12
    return found


CASES = {"random": layers(), "huge norms": layers(2, 6.0), "one dominant patch": dominant()}


def taps_of(tapped: list[tuple[NDArray[np.float64], NDArray[np.float64]]], grid: tuple[int, int] = GRID) -> Taps:
    attention = {
        layer: Attention(torch.tensor(query), torch.tensor(key), WIDTH**-0.5)
        for layer, (query, key) in enumerate(tapped)
    }
    patches = tapped[0][0].shape[2] - 1
    return Taps(attention, torch.zeros(2, patches, 4), torch.zeros(2, patches, 4), grid, prefix=1, depth=len(tapped))


def maps_of(tapped: list[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> list[NDArray[np.float64]]:
    return [softmax(query @ key.swapaxes(-1, -2) * WIDTH**-0.5) for query, key in tapped]


def eager_of(tapped: list[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> Eager:
    return Eager([torch.tensor(one) for one in maps_of(tapped)], torch.empty(0), torch.empty(0), GRID, 1)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("keep", "alpha"), [(1, 0.1), (2, 0.1), (29, 0.1), (29, 0.5), (40, 1.0), (62, 0.1), (63, 0.1)])
@pytest.mark.parametrize("form", ["static", "official"])
def test_it_keeps_what_the_official_formula_keeps(case: str, keep: int, alpha: float, form: str) -> None:
    tapped = CASES[case]
    method = Method(keep, alpha, object_layer=2)
    chosen = method.select(taps_of(tapped)) if form == "static" else method.official(eager_of(tapped))
    maps = maps_of(tapped)
    shallow, deep = (one.mean(axis=1).mean(axis=1)[:, 1:] for one in (maps[1], maps[4]))
    assert chosen.indices.dtype == torch.int64
    for image in range(2):
        kept, first = golden(shallow[image], deep[image], keep, alpha)
        assert chosen.indices[image].tolist() == sorted(kept)
        boosted = deep[image] + 2.0 * np.isin(np.arange(PATCHES), list(first))
        np.testing.assert_allclose(chosen.scores[image].numpy(), boosted, rtol=1e-5, atol=1e-7)


def test_the_cls_query_counts_and_the_cls_key_does_not() -> None:
    tapped = layers(3)
    tapped[4][1][:, :, 0] = 9.0  # every query of the last layer looks at [CLS]
    deep = maps_of(tapped)[4].mean(axis=(1, 2))[:, 1:]
    scores = Method(10, alpha=0).select(taps_of(tapped)).scores
    np.testing.assert_allclose(scores.numpy(), deep, rtol=1e-4, atol=1e-8)
    assert float(scores.sum()) < 2  # not renormalised


@pytest.mark.parametrize(("at", "around"), [(0, {0, 1, 9}), (8, {8, 7, 9, 0, 17}), (9, {9, 8, 10, 0, 18})])
def test_flat_neighbours_wrap_around_the_row_and_clamp_at_the_border(at: int, around: set[int]) -> None:
    assert set(_surroundings(GRID, "flat")[at]) == around  # 8 is the end of the first row, 9 the start of the second


def test_the_last_row_clamps_to_the_last_patch() -> None:
    assert set(_surroundings(GRID, "flat")[55]) == {55, 54, 56, 46, 62}


@pytest.mark.parametrize(("at", "around"), [(0, {0, 1, 9}), (8, {8, 7, 17}), (9, {9, 10, 0, 18}), (62, {62, 61, 53})])
def test_grid_neighbours_touch(at: int, around: set[int]) -> None:
    assert set(_surroundings(GRID, "grid")[at]) == around


@pytest.mark.parametrize("grid", [(1, 6), (6, 1)], ids=str)
def test_neighbours_on_a_line_stay_on_it(grid: tuple[int, int]) -> None:
    assert [set(one) for one in _surroundings(grid, "grid")][:2] == [{0, 1}, {0, 1, 2}]


@pytest.mark.parametrize("neighbours", ["flat", "grid"])
def test_both_forms_have_the_same_neighbours(neighbours: str) -> None:
    for seed in range(20):
        tapped = layers(seed)
        method = Method(31, alpha=1.0, object_layer=1, neighbours=neighbours)
        static, official = method.select(taps_of(tapped)), method.official(eager_of(tapped))
        assert torch.equal(static.indices, official.indices)
        torch.testing.assert_close(static.scores.double(), official.scores, rtol=1e-4, atol=1e-6)


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


def test_it_keeps_exactly_that_many_when_all_patches_tie() -> None:
    flat = [(np.zeros((2, HEADS, 1 + PATCHES, WIDTH)),) * 2] * 5
    for chosen in (Method(29).select(taps_of(flat)), Method(29).official(eager_of(flat))):
        assert chosen.indices.shape == (2, 29)
        assert bool((chosen.indices.diff(dim=1) > 0).all())


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
