"""IDPruner against the official formula, written here in numpy float64, each step from scratch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgeprune.errors import MethodError
from edgeprune.pruners import Eager, Selection
from edgeprune.pruners.idpruner import Method
from edgeprune.runtime.parity import Verdict
from edgeprune.taps import Attention, Taps

Floats = NDArray[np.float64]
RANDOM = np.random.default_rng(0).normal(size=(2, 40, 32))
CASES = {
    "random": RANDOM,
    "all equal": np.ones((2, 40, 32)),
    "two clusters": RANDOM[:, np.arange(40) % 2] + 1e-2 * RANDOM,
    "one dominant": np.where(np.arange(40)[:, None] == 7, 50 * RANDOM, 1 + 0.1 * RANDOM),
    "huge norms": 1e6 * RANDOM,
}
CLEAR = ("random", "one dominant", "huge norms")
"""where no two gains are as near as rounding"""
QUERY, KEY = np.random.default_rng(2).normal(size=(2, 2, 2, 41, 4))


def maps(case: str) -> Floats:
    """[B, 2, N + 1, N + 1]; when all patches are equal, so is their attention."""
    logits = QUERY @ key(case).swapaxes(-1, -2) * 0.5
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def key(case: str) -> Floats:
    return np.ones_like(KEY) if case == "all equal" else KEY


def measured(case: str, importance: str) -> Floats:
    """What importance is made of, [B, N]."""
    over_heads = maps(case)[:, :, :, 1:].mean(axis=1)
    return np.asarray(over_heads[:, 0] if importance == "cls" else over_heads.mean(axis=1))


def formula(
    case: str, keep: int, importance: str = "column_mean", balance: float = 0.5
) -> tuple[NDArray[np.int32], Floats]:
    """MMR of AngelSlim@67394ce -> picks in their order [B, keep], scores [B, N]"""
    x, scorer = CASES[case], measured(case, importance)
    order = np.zeros((len(x), keep), np.int32)
    scores = np.full(x.shape[:2], -np.inf)
    for image in range(len(x)):
        spread = scorer[image].max() - scorer[image].min() + 1e-6
        relevance = balance * (scorer[image] - scorer[image].min()) / spread
        unit = x[image] / np.linalg.norm(x[image], axis=1, keepdims=True)
        for step in range(keep):
            chosen = order[image, :step].tolist()
            gains = relevance - (1 - balance) * ((unit @ unit[chosen].T).max(axis=1) if chosen else 0)
            gains[chosen] = -np.inf
            pick = int(gains.argmax())
            order[image, step], scores[image, pick] = pick, gains[pick]
    return order, scores


def select(method: Method, case: str, prefix: int = 1) -> Selection:
    x, layer = torch.tensor(CASES[case]).float(), Attention(torch.tensor(QUERY), torch.tensor(key(case)), 0.5)
    return method.select(Taps({0: layer}, torch.empty(0), x, (1, 40), prefix=prefix, depth=1))


def official(method: Method, case: str, prefix: int = 1) -> Selection:
    x, attention = torch.tensor(CASES[case]).float(), torch.tensor(maps(case)).float()
    return method.official(Eager([attention], torch.empty(0), x, (1, 40), prefix=prefix))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("importance", ["column_mean", "cls"])
def test_both_forms_equal_the_formula_but_for_ties(case: str, importance: str, judged: Callable[..., Verdict]) -> None:
    for keep in (1, 2, 9, 39, 40):
        order, scores = formula(case, keep, importance)
        method = Method(keep, importance=importance)
        reference = official(method, case)
        for chosen in (select(method, case), reference):
            assert not judged(method, CASES[case], reference, chosen).reasons
            if case in CLEAR and keep <= 9:
                assert chosen.picks is not None
                np.testing.assert_array_equal(chosen.picks.numpy(), order)
                np.testing.assert_allclose(chosen.scores.float().numpy(), scores, rtol=1e-4, atol=1e-5)


def test_of_equal_patches_exactly_keep_distinct_ones_are_chosen() -> None:
    indices = select(Method(39), "all equal").indices
    assert indices.shape == (2, 39)
    assert bool((indices.diff(dim=1) > 0).all())


@pytest.mark.parametrize("importance", ["column_mean", "cls"])
def test_all_weight_on_importance_ranks_by_attention_alone(importance: str) -> None:
    indices = select(Method(5, balance=1.0, importance=importance), "random").indices
    best = np.argsort(-measured("random", importance), axis=1)[:, :5]
    np.testing.assert_array_equal(indices.numpy(), np.sort(best, axis=1))


def test_little_weight_on_importance_still_decides_the_first_pick() -> None:
    first = select(Method(1, balance=1e-6), "random").indices[:, 0]
    np.testing.assert_array_equal(first.numpy(), measured("random", "column_mean").argmax(axis=1))


@pytest.mark.parametrize("form", [select, official])
def test_the_cls_row_of_an_encoder_without_one_is_refused_with_a_way_out(form: Callable[..., Selection]) -> None:
    with pytest.raises(MethodError, match=r"importance=cls of idpruner .* \[CLS\] .* use importance=column_mean"):
        form(Method(5, importance="cls"), "random", prefix=0)


@pytest.mark.parametrize("balance", [0.0, -0.1, 1.5, float("nan")])
def test_a_balance_that_is_no_share_is_refused(balance: float) -> None:
    with pytest.raises(MethodError, match=r"option balance of idpruner must be above 0 and at most 1, got .* divprune"):
        Method(5, balance)


def test_an_importance_that_there_is_not_is_refused() -> None:
    with pytest.raises(
        MethodError, match=r"no importance 'columns'; have cls, column_mean\. Did you mean 'column_mean'"
    ):
        Method(5, importance="columns")
