"""agilepruner against its formula, written here in numpy float64, patch by patch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from edgeprune.errors import MethodError
from edgeprune.pruners import Eager, Selection
from edgeprune.pruners.agilepruner import Method
from edgeprune.runtime.parity import Verdict
from edgeprune.taps import Attention, Taps
from tests.covering import always

PATCHES = 36
BUDGETS = (4, 12, 30)


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One of 36 inputs: features [2, N, C], of few directions or of many; query and key [2, H, 1 + N, d]."""
    rng = np.random.default_rng(seed)
    rank = (2, 4, 8, 32)[seed % 4]
    features = rng.normal(size=(2, PATCHES, rank)) @ rng.normal(size=(2, rank, 32)) + (0, 1, 3)[seed % 3]
    query, key = rng.normal(size=(2, 2, 2, PATCHES + 1, 4))
    return features, query, key


def attention(query: np.ndarray, key: np.ndarray) -> np.ndarray:
    weights = np.exp(query @ key.swapaxes(-1, -2) / 2)
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def formula(x: np.ndarray, row: np.ndarray, keep: int, average: float, most: float) -> tuple[list[int], list[int]]:
    """[N, C], [N] -> the picks that had room, and those that filled up"""
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    near = unit @ unit.T
    singular = np.linalg.svd(unit, compute_uv=False) ** 2
    rank = singular.sum() ** 2 / (singular**2).sum()
    share = rank / average if average else 1.0
    had: list[int] = []
    while len(had) < keep:
        room = [
            at
            for at in range(len(x))
            if at not in had
            and all(1 - near[one, at] >= min(most, 0.01 * (t + 1) * share) for t, one in enumerate(had))
        ]
        if not room:
            break
        had.append(max(room, key=lambda at: row[at]))
    rest = sorted((at for at in range(len(x)) if at not in had), key=lambda at: -row[at])
    return had, rest[: keep - len(had)]


def both(seed: int, method: Method) -> tuple[Selection, Selection]:
    features, query, key = (torch.tensor(one).float() for one in drawn(seed))
    taps = Taps({0: Attention(query, key, 0.5)}, features, features, (6, 6), prefix=1, depth=1)
    maps = torch.tensor(attention(*drawn(seed)[1:])).float()
    return method.select(taps), method.official(Eager([maps], features, features, (6, 6), prefix=1))


@pytest.mark.parametrize("seed", always(range(36), *range(6)))
def test_both_forms_equal_the_formula(seed: int) -> None:
    features, query, key = drawn(seed)
    rows = attention(query, key)[:, :, 0, 1:].mean(axis=1)
    average, most = ((0.0, 0.95), (6.0, 0.95), (2.0, 0.3))[seed % 3]
    for keep in BUDGETS:
        for chosen in both(seed, Method(keep, average, most)):
            assert chosen.picks is not None
            for image in range(2):
                had, filled = formula(features[image], rows[image], keep, average, most)
                assert chosen.picks[image].tolist() == had + filled
                wanted = rows[image].copy()
                wanted[had] += 4
                wanted[filled] += 2
                np.testing.assert_allclose(chosen.scores[image], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("keep", BUDGETS)
@pytest.mark.parametrize("average", [0.0, 3.0])
def test_of_equal_patches_one_has_room_and_attention_fills_up(
    keep: int, average: float, judged: Callable[..., Verdict]
) -> None:
    _, query, key = (torch.tensor(one).float() for one in drawn(0))
    features = torch.ones(2, PATCHES, 8)
    seen, method = Attention(query, key, 0.5), Method(keep, average)
    static = method.select(Taps({0: seen}, features, features, (6, 6), prefix=1, depth=1))
    official = method.official(Eager([seen.weights()], features, features, (6, 6), prefix=1))
    assert (static.scores > 4).sum(dim=1).tolist() == [1, 1]
    assert not judged(method, features, official, static).reasons


def test_the_richer_an_image_is_the_more_room_each_pick_wants() -> None:
    counts = [int((both(3, Method(30, average))[0].scores > 4).sum()) for average in (1.0, 4.0, 16.0, 64.0)]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]


@pytest.mark.parametrize("keep", [4, 12])
def test_a_smaller_budget_keeps_the_first_picks(keep: int) -> None:
    for many, few in zip(both(5, Method(30)), both(5, Method(keep)), strict=True):
        assert many.picks is not None
        assert few.picks is not None
        assert torch.equal(many.picks[:, :keep], few.picks)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"average": -1.0}, "option average of agilepruner must be 0 or more, got -1"),
        ({"most": 0.0}, "option most of agilepruner must be above 0 and at most 2, got 0"),
        ({"most": 2.5}, "option most of agilepruner must be above 0 and at most 2, got 2.5"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, float], said: str) -> None:
    with pytest.raises(MethodError, match=said):
        Method(4, **options)
