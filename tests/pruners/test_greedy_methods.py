"""Every greedy method against its formula, written here in numpy float64, each step from scratch.

A new one adds its gains to FORMULAS; the cases, the comparison and the pick order are the same for all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgeprune import pruners
from edgeprune.errors import MethodError
from edgeprune.pruners import Eager, Selection, scope, score
from edgeprune.pruners import idselection as idselect
from edgeprune.runtime.parity import Verdict
from edgeprune.taps import Attention, Taps
from tests.covering import always

Floats = NDArray[np.float64]
RANDOM = np.random.default_rng(0).normal(size=(2, 40, 32))
CASES = {
    "random": RANDOM,
    "all equal": np.ones((2, 40, 32)),
    "two clusters": RANDOM[:, np.arange(40) % 2] + 1e-2 * RANDOM,
    "one dominant": np.where(np.arange(40)[:, None] == 7, 50 * RANDOM, 1 + 0.1 * RANDOM),
    "460 of 576 alike": np.random.default_rng(1).normal(size=(1, 576, 8))[:, np.maximum(np.arange(576) - 459, 0)],
    "huge norms": 1e6 * RANDOM,
    "thirty-six": np.random.default_rng(4).normal(size=(36, 40, 32)),
}
CLEAR = ("random", "one dominant", "huge norms", "thirty-six")
"""where no two gains are as near as rounding"""


def unit(x: Floats) -> Floats:
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))


def cosines(x: Floats) -> Floats:
    return np.asarray(unit(x) @ unit(x).T)


def divprune(x: Floats, row: Floats, chosen: list[int]) -> Floats:
    """The distance to the nearest chosen patch; at first, to the nearest other one."""
    distance = 1 - cosines(x)
    if not chosen:
        return np.array([np.delete(distance[:, j], j).min() for j in range(len(x))])
    return np.asarray(distance[chosen].min(axis=0))


def dpp(x: Floats, row: Floats, chosen: list[int]) -> Floats:
    """What projecting onto the chosen patches leaves of each, squared: its factor in the determinant."""
    if not chosen:
        return np.ones(len(x))
    span = unit(x)[chosen]
    rest = unit(x) - unit(x) @ np.linalg.pinv(span, rcond=1e-6) @ span
    return np.asarray((rest**2).sum(axis=1))


def todre(x: Floats, row: Floats, chosen: list[int]) -> Floats:
    """Minus the sum of cosines to the chosen patches; at first, what [CLS] attends to."""
    return np.asarray(-cosines(x)[chosen].sum(axis=0)) if chosen else row


def scoped(x: Floats, row: Floats, chosen: list[int]) -> Floats:
    """How much better all patches would be covered, times the saliency."""
    similarity = cosines(x)
    cover = np.maximum(similarity[chosen].max(axis=0), 0) if chosen else np.zeros(len(x))
    return np.asarray(np.maximum(similarity - cover, 0).sum(axis=1) * row)


def otprune(x: Floats, row: Floats, chosen: list[int]) -> Floats:
    """By how much more than twice the determinant of I + .01 G G grows, G of channels of length 1."""
    channels = x / np.linalg.norm(x, axis=0)
    gram = channels @ channels.T
    kernel = np.eye(len(x)) + 0.01 * gram @ gram
    across = kernel[chosen]
    return np.asarray(kernel.diagonal() - (across * np.linalg.solve(across[:, chosen], across)).sum(axis=0) - 1)


def scored(x: Floats, row: Floats, chosen: list[int]) -> Floats:
    """Attention to the power of .8, times the distance to the nearest chosen patch."""
    return np.asarray(row**0.8 * ((1 - cosines(x)[chosen]).min(axis=0) if chosen else 1))


def idselection(x: Floats, row: Floats, chosen: list[int]) -> Floats:
    """Importance, less what those that were chosen before took of it."""
    left = (row - row.min()) / (row.max() - row.min() + 1e-6)
    for pick in chosen:
        left = left - np.exp(-20 * (1 - cosines(x)[pick]) ** 2) * max(left[pick], 0)
    return np.asarray(left)


Formula = Callable[[Floats, Floats, list[int]], Floats]
FORMULAS: dict[str, Formula] = {
    "divprune": divprune,
    "dpp": dpp,
    "idselection": idselection,
    "otprune": otprune,
    "scope": scoped,
    "score": scored,
    "todre": todre,
}
"""(x [N, D], mean [CLS] row [N], chosen so far) -> gains [N]"""


def attention(case: str) -> tuple[Attention, Floats]:
    """Queries and keys of a layer, and the attention they make: [B, 2, N + 1, N + 1]."""
    x = CASES[case]
    size = (*x.shape[:1], 2, x.shape[1] + 1, 4)
    query, key = np.random.default_rng(2).normal(size=size), np.random.default_rng(3).normal(size=size)
    if case == "all equal":
        key[:] = 1.0
    logits = query @ key.swapaxes(-1, -2) * 0.5
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return Attention(torch.tensor(query), torch.tensor(key), 0.5), weights / weights.sum(axis=-1, keepdims=True)


def formula(gains: Formula, x: Floats, rows: Floats, keep: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """[B, N, D], [CLS] rows [B, N] -> picks in their order [B, keep], scores [B, N]"""
    order = np.zeros((len(x), keep), np.int32)
    scores = np.full(x.shape[:2], -np.inf, np.float32)
    for image in range(len(x)):
        for step in range(keep):
            chosen = order[image, :step].tolist()
            free = np.array(gains(x[image], rows[image], chosen))
            free[chosen] = -np.inf
            pick = int(free.argmax())
            order[image, step], scores[image, pick] = pick, free[pick]
    return order, scores


def wanted(name: str, case: str, keep: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    return formula(FORMULAS[name], CASES[case], attention(case)[1][:, :, 0, 1:].mean(axis=1), keep)


def select(method: pruners.Method, case: str) -> Selection:
    x = torch.tensor(CASES[case]).float()
    return method.select(Taps({0: attention(case)[0]}, x, x, (1, x.shape[1]), prefix=1, depth=1))


def official(method: pruners.Method, case: str) -> Selection:
    x, maps = torch.tensor(CASES[case]).float(), torch.tensor(attention(case)[1]).float()
    return method.official(Eager([maps], x, x, (1, x.shape[1]), prefix=1))


def build(name: str, keep: int) -> pruners.Method:
    make: Any = pruners.get(name)
    method: pruners.Method = make(keep)
    return method


EVERY = [(name, keep, case) for name in FORMULAS for keep in (1, 2, 9, 39) for case in CASES]
SMALL = ("all equal", "two clusters", "one dominant", "huge norms")
"""cases of two images; all but a patch are kept of those alone in every run of the tests, nine of what is clear"""


@pytest.mark.parametrize(
    ("name", "keep", "case"),
    always(EVERY, *(one for one in EVERY if one[1:] == (9, "thirty-six") or (one[1] == 39 and one[2] in SMALL))),
)
def test_both_forms_equal_the_formula_but_for_ties(
    name: str, case: str, keep: int, judged: Callable[..., Verdict]
) -> None:
    order, scores = wanted(name, case, keep)
    reference = official(build(name, keep), case)
    for chosen in (select(build(name, keep), case), reference):
        assert not judged(build(name, keep), CASES[case], reference, chosen).reasons
        if case in CLEAR and keep <= 9:
            assert chosen.picks is not None
            np.testing.assert_array_equal(chosen.picks.numpy(), order)
            np.testing.assert_array_equal(chosen.indices.numpy(), np.sort(order, axis=1))
            np.testing.assert_allclose(chosen.scores.float().numpy(), scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("case", ["all equal", "460 of 576 alike"])
def test_of_many_copies_exactly_keep_distinct_patches_are_chosen(name: str, case: str) -> None:
    indices = select(build(name, 39), case).indices
    assert indices.shape[1] == 39
    assert bool((indices.diff(dim=1) > 0).all())


def test_scope_without_saliency_covers_alone() -> None:
    everywhere = np.ones(RANDOM.shape[:2])
    indices = select(scope.Method(5, alpha=0.0), "random").indices
    np.testing.assert_array_equal(indices.numpy(), np.sort(formula(scoped, RANDOM, everywhere, 5)[0], axis=1))


@pytest.mark.parametrize(("name", "option"), [("idselection", "width"), ("scope", "alpha"), ("score", "power")])
@pytest.mark.parametrize("value", [-1.0, float("inf"), float("nan")])
def test_an_option_below_zero_is_refused(name: str, option: str, value: float) -> None:
    make: Any = pruners.get(name)
    with pytest.raises(MethodError, match=f"option {option} of {name} must be 0 or more, got"):
        make(5, value)


def test_score_without_attention_keeps_what_is_far_alone() -> None:
    everywhere = np.ones(RANDOM.shape[:2])
    indices = select(score.Method(5, power=0.0), "random").indices
    np.testing.assert_array_equal(indices.numpy(), np.sort(formula(scored, RANDOM, everywhere, 5)[0], axis=1))


def test_idselection_without_a_width_takes_from_all_alike() -> None:
    attended = attention("random")[1][:, :, 0, 1:].mean(axis=1)
    highest = np.argsort(-attended, axis=1)[:, :5]
    np.testing.assert_array_equal(select(idselect.Method(5, width=0.0), "random").picks, highest)


def test_of_equal_patches_otprune_counts_each_for_itself() -> None:
    """Where nothing but I tells patches apart, each pick takes its part from what the others add, and no more."""
    gains = official(build("otprune", 4), "all equal").scores[0].sort(descending=True).values[:4]
    added = gains[0].item()
    for turn, gain in enumerate(gains.tolist()):
        assert gain == pytest.approx(added / (1 + turn * added), rel=1e-4)
