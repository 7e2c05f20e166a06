"""PruneSID against its formula, written here in numpy float64, group by group; and what a device may do wrong in it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeprune.pruners import Eager, Selection
from edgeprune.pruners import prunesid as source
from edgeprune.pruners.prunesid import Method
from edgeprune.runtime.parity import Verdict
from edgeprune.runtime.parity.groups import shares
from edgeprune.taps import Attention, Taps
from tests.covering import always

Floats = NDArray[np.float64]
PATCHES, WIDTH = 40, 24
DRAWN = np.random.default_rng(0)
X = DRAWN.normal(size=(36, PATCHES, WIDTH)) + 0.7 * DRAWN.normal(size=(36, 1, WIDTH))
QUERY, KEY = (DRAWN.normal(size=(36, 2, 1 + PATCHES, 4)) for _ in range(2))
LOGITS = QUERY @ KEY.swapaxes(-1, -2)
MAPS = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=-1, keepdims=True)
ALIKE = X[:2, np.arange(PATCHES) % 5] + 0.02 * X[:2]
CASES = {
    "random": X[:2],
    "five clusters": ALIKE,
    "one dominant": np.where(np.arange(PATCHES)[:, None] == 7, 9 * X[:2], 1 + 0.1 * X[:2]),
    "huge norms": 1e4 * X[:2],
    "three directions": 0.1 * X[:2, :, :3] @ X[:2, :3],
    "all equal": np.ones_like(X[:2]),
}


def directions(h: Floats, groups: int) -> Floats:
    """|V| [N, groups], the strongest first."""
    sigmoid = 1 / (1 + np.exp(-h))
    x, drawn = sigmoid - sigmoid.mean(axis=1, keepdims=True), random.Random(0)
    start = np.array([[2 * drawn.random() - 1 for _ in range(groups)] for _ in range(len(h))])
    q = np.linalg.qr(x.T @ start)[0]
    for _ in range(2):
        q = np.linalg.qr(x.T @ np.linalg.qr(x @ q)[0])[0]
    return np.asarray(np.abs(np.linalg.svd(q.T @ x.T, full_matrices=False)[2].T))


def formula(h: Floats, attended: Floats, keep: int) -> tuple[list[int], list[int], list[int]]:
    """One image -> picks, those that stand, the group of each patch."""
    groups = max(1, keep // 4)
    group = directions(h, groups).argmax(axis=1)
    unit = h / np.linalg.norm(h, axis=1, keepdims=True)
    cosine = unit @ unit.T
    threshold = keep / 32 * cosine[np.triu_indices(len(h), 1)].mean()
    falling = sorted(range(len(h)), key=lambda j: -attended[j])
    stands: list[int] = []
    for j in falling:
        if not any(group[i] == group[j] and cosine[i, j] > threshold for i in stands):
            stands.append(j)
    n = [int((group == one).sum()) for one in range(groups)]
    m = [sum(group[j] == one for j in stands) for one in range(groups)]
    most = [min(n[one], m[one], 5 * math.ceil(keep / 64)) for one in range(groups)]
    while sum(most) < keep:
        most = [min(n[one], most[one] + 1) for one in range(groups)]
    others = keep - sum(size > 0 for size in n)
    ends = [0, *(round(sum(m[: one + 1]) * others / sum(m)) for one in range(groups))]
    share = [min((n[one] > 0) + ends[one + 1] - ends[one], most[one]) for one in range(groups)]
    for one in sorted(range(groups), key=lambda one: -m[one]):
        share[one] += min(most[one] - share[one], keep - sum(share))
    kept: list[int] = []
    for one in range(groups):
        inside = [j for j in falling if group[j] == one]
        kept += sorted(inside, key=lambda j: j not in stands)[: share[one]]
    picks = sorted(kept, key=lambda j: (j not in stands, falling.index(j)))
    return picks, sorted(stands), group.tolist()


def both(x: Floats, method: Method) -> tuple[Selection, Selection]:
    """The static form and the official one, in float32."""
    features, grid, nothing, images = torch.tensor(x).float(), (5, 8), torch.empty(0), len(x)
    seen = {0: Attention(torch.tensor(QUERY[:images]).float(), torch.tensor(KEY[:images]).float(), 1.0)}
    static = method.select(Taps(seen, features, nothing, grid, prefix=1, depth=1))
    maps = torch.tensor(MAPS[:images]).float()
    return static, method.official(Eager([maps], features, nothing, grid, prefix=1))


@pytest.mark.parametrize("keep", always([1, 9, 16, 30, 38, PATCHES], 9, 38))
def test_both_forms_equal_the_formula_on_36_inputs(keep: int, judged: Callable[..., Verdict]) -> None:
    method = Method(keep)
    static, official = both(X, method)
    assert not judged(method, X, official, static).reasons
    for chosen in (static, official):
        assert chosen.picks is not None
        assert chosen.order is not None
        for image in range(36):
            picks, stands, group = formula(X[image], MAPS[image, :, 0, 1:].mean(axis=0), keep)
            assert sorted(chosen.picks[image].tolist()) == sorted(picks)  # in order, ties apart, says the verdict
            marked = (chosen.scores[image] / 2).floor().int() % 2 == 1
            assert marked.nonzero().flatten().tolist() == stands
            assert chosen.order[image].tolist() == group


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("keep", [1, 9, 24, PATCHES])
def test_the_forms_differ_only_by_what_rounding_explains(case: str, keep: int, judged: Callable[..., Verdict]) -> None:
    static, official = both(CASES[case], Method(keep))
    assert not judged(Method(keep), CASES[case], official, static).reasons


def test_of_patches_that_are_alike_one_stands() -> None:
    static, _ = both(ALIKE, Method(32))  # whatever is more alike than the mean
    assert static.order is not None
    for image in range(2):
        stands = (static.scores[image] / 2).floor().int() % 2 == 1
        clusters = torch.arange(PATCHES) % 5
        pairs = [(int(static.order[image, at]), int(clusters[at])) for at in stands.nonzero().flatten()]
        assert len(pairs) == len(set(pairs))


@pytest.mark.parametrize("keep", [4, 12, 17, 40, 64, 96, 130])
def test_shares_are_the_same_in_all_three_forms(keep: int) -> None:
    drawn = np.random.default_rng(keep)
    for _ in range(40):
        groups = max(1, keep // 4)
        size = drawn.multinomial(144, drawn.dirichlet(np.full(groups, 0.7)))
        standing = np.minimum(size, 1 + drawn.integers(0, size + 1))
        many, stood = (torch.tensor(one).float().unsqueeze(0) for one in (size, standing))
        wanted = source._official_shares(size.tolist(), standing.tolist(), keep)
        assert sum(wanted) == keep
        assert Method(keep)._shares(many, stood, patches=144)[0].tolist() == wanted
        assert shares(size, standing, keep, 5 * math.ceil(keep / 64)).tolist() == wanted


# --- planted faults -------------------------------------------------------------------------------------------------


def otherwise(monkeypatch: pytest.MonkeyPatch, **instead: Any) -> None:
    for name, value in instead.items():
        monkeypatch.setattr(source if hasattr(source, name) else Method, name, value)


def without_signs_taken_off(h: Tensor, groups: int) -> Tensor:
    strength = STRENGTH(h, groups)
    return strength * torch.where(torch.arange(strength.shape[1]).unsqueeze(-1) % 2 == 0, 1.0, -1.0)


STRENGTH, SHARES, BEFORE = source._strength, Method._shares, source._before
FAULTS: dict[str, dict[str, Any]] = {
    "signs_are_not_taken_off": {"_strength": without_signs_taken_off},
    "half_as_many_groups": {"_groups": lambda self, width: self.keep // 8},
    "the_weakest_direction": {"_strength": lambda h, groups: -STRENGTH(h, groups)},
    "two_groups_swapped": {"_strength": lambda h, groups: STRENGTH(h, groups).roll(1, dims=2)},
    "as_good_as_no_sigmoid": {"_strength": lambda h, groups: STRENGTH(0.01 * h, groups)},
    "one_round": {"ROUNDS": 1},
    "the_lowest_first": {"_before": lambda value, number: BEFORE(-value, number)},
    "as_many_of_each_group": {
        "_shares": lambda self, size, standing, patches: SHARES(self, size, standing * 0 + 1, patches)
    },
    "by_size_in_place_of_who_stands": {
        "_shares": lambda self, size, standing, patches: SHARES(self, size, size, patches)
    },
    "another_most": {"_most": property(lambda self: 3)},
}


@pytest.mark.parametrize("fault", always(FAULTS, "the_weakest_direction", "one_round", "as_many_of_each_group"))
def test_a_fault_in_how_it_chooses_is_caught(
    fault: str, judged: Callable[..., Verdict], monkeypatch: pytest.MonkeyPatch
) -> None:
    method = Method(24)
    _, official = both(X[:8], method)
    with monkeypatch.context() as planted:
        otherwise(planted, **FAULTS[fault])
        static, _ = both(X[:8], method)
    assert not judged(method, X[:8], official, both(X[:8], method)[0]).reasons
    assert judged(method, X[:8], official, static).reasons
