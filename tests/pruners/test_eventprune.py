"""Ranks of events and of attention: written here in numpy float64, pair by pair."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgeprune.errors import MethodError
from edgeprune.ports import PRIOR
from edgeprune.pruners import Eager, Selection
from edgeprune.pruners.eventprune import Method
from edgeprune.runtime.parity import Verdict
from edgeprune.taps import Attention, Taps
from tests.covering import always

Floats = NDArray[np.float64]
IMAGES, GRID, PATCHES = 36, (5, 8), 40
DRAWN = np.random.default_rng(11)
QUERY, KEY = DRAWN.normal(size=(2, IMAGES, 2, 1 + PATCHES, 8))
EVENTS = np.log1p(DRAWN.poisson(2.0, size=(IMAGES, PATCHES)))
BUDGETS = (2, 9, 38)


def maps() -> Floats:
    logits = QUERY @ KEY.swapaxes(-1, -2) * 8**-0.5
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=-1, keepdims=True))


def formula(attended: Floats, prior: Floats, weight: float) -> Floats:
    """One image: the [CLS] row and the prior -> the score of each patch."""
    score = np.zeros(PATCHES)
    for j in range(PATCHES):
        of_prior = np.mean([1.0 if p < prior[j] else 0.5 if p == prior[j] else 0.0 for p in prior])
        of_attention = np.mean([min(max(np.log(attended[j] / a) / 2 + 0.5, 0), 1) for a in attended])
        score[j] = weight * of_prior + (1 - weight) * of_attention - (prior[j] <= 0)
    return score


def both(method: Method, prior: Floats = EVENTS) -> tuple[Selection, Selection]:
    """The static form and the official one, in float32."""
    rows, given = torch.zeros(IMAGES, PATCHES, 4), {PRIOR: torch.tensor(prior).float()}
    attention = {0: Attention(torch.tensor(QUERY).float(), torch.tensor(KEY).float(), 8**-0.5)}
    static = method.select(Taps(attention, rows, rows, GRID, 1, 1, given=given))
    return static, method.official(Eager([torch.tensor(maps()).float()], rows, rows, GRID, 1, given=given))


@pytest.mark.parametrize("weight", always([0.0, 0.5, 1.0], 0.5))
@pytest.mark.parametrize("keep", BUDGETS)
def test_both_forms_equal_the_formula(keep: int, weight: float, judged: Callable[..., Verdict]) -> None:
    method, attended = Method(keep, weight), maps()[:, :, 0, 1:].mean(axis=1)
    wanted = np.stack([formula(*each, weight) for each in zip(attended, EVENTS, strict=True)])
    static, official = both(method)
    for chosen in (static, official):
        np.testing.assert_allclose(chosen.scores.numpy(), wanted, rtol=1e-4, atol=1e-5)
        if 0 < weight < 1:  # and nothing ties
            assert chosen.indices.tolist() == [sorted(np.argsort(-one)[:keep].tolist()) for one in wanted]
    assert not judged(method, np.zeros((IMAGES, PATCHES, 4)), official, static).reasons


def test_patches_without_events_are_kept_where_no_other_is_left() -> None:
    for chosen in both(Method(30)):
        for image, kept in enumerate(chosen.indices.tolist()):
            active = np.flatnonzero(EVENTS[image] > 0)
            assert set(active.tolist()) <= set(kept) or set(kept) <= set(active.tolist())


def test_without_a_prior_attention_alone_decides() -> None:
    order = maps()[:, :, 0, 1:].mean(axis=1).argsort(axis=1)[:, ::-1][:, :9]
    for chosen in both(Method(9), np.ones_like(EVENTS)):
        assert chosen.indices.tolist() == np.sort(order, axis=1).tolist()


def test_a_weight_out_of_range_is_refused() -> None:
    with pytest.raises(MethodError, match=r"option weight of eventprune must be in 0..1, got 2"):
        Method(9, 2.0)
