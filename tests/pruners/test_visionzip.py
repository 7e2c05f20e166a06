"""VisionZip against the official formula, written here in numpy float64, patch by patch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgeprune.errors import MethodError
from edgeprune.pruners import Eager, Selection
from edgeprune.pruners.visionzip import Method
from edgeprune.runtime import Output
from edgeprune.runtime.parity import Verdict
from edgeprune.taps import Attention, Taps

Floats = NDArray[np.float64]
PATCHES = 25
RANDOM = np.random.default_rng(0).normal(size=(2, 3, PATCHES + 1, 8))
KEYS = {
    "random": RANDOM,
    "one dominant": np.where(np.arange(PATCHES + 1)[:, None] == 7, 9 * RANDOM[:, :, :1], RANDOM),
    "two clusters": RANDOM[:, :, np.arange(PATCHES + 1) % 2] + 1e-2 * RANDOM,
    "all equal": np.ones_like(RANDOM),
    "huge norms": 1e4 * RANDOM,
}
CLEAR = ("random", "one dominant")
FEATURES = np.random.default_rng(1).normal(size=(2, PATCHES, 6))


def attention(case: str) -> tuple[Floats, Floats]:
    """Queries, and the attention they make with the keys of the case."""
    query = np.random.default_rng(2).normal(size=KEYS[case].shape)
    logits = query @ KEYS[case].swapaxes(-1, -2) * 8**-0.5
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return query, np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def formula(row: Floats, keys: Floats, h: Floats, dominant: int, contextual: int) -> tuple[list[int], Floats, Floats]:
    """One image: [CLS] row [H, N], keys [H, 1 + N, d], features [N, C] -> indices, scores, tokens in front of the
    projector. The official loop, but for [CLS] and the order.
    """
    lead = sorted(np.argsort(-row.sum(axis=0), kind="stable")[:dominant].tolist())
    rest = [j for j in range(len(h)) if j not in lead]
    metric = keys.mean(axis=0)[1:]
    metric = metric / np.linalg.norm(metric, axis=-1, keepdims=True)
    step = max(1, len(rest) // contextual) if contextual else len(rest) + 1
    targets = rest[::step][:contextual]
    assigned: dict[int, list[int]] = {target: [] for target in targets}
    for other in (j for j in rest if targets and j not in targets):
        assigned[max(targets, key=lambda target: metric[other] @ metric[target])].append(other)
    tokens = {j: h[j] for j in lead}
    tokens |= {j: h[j] + (h[group].mean(axis=0) if group else 0) for j, group in assigned.items()}
    tiers = np.array([2.0 if j in lead else 1.0 if j in targets else 0.0 for j in range(len(h))])
    kept = sorted(tokens)
    return kept, 2 * tiers + row.mean(axis=0), np.stack([tokens[j] for j in kept])


def both(case: str, method: Method, x: Floats = FEATURES) -> tuple[Selection, Selection]:
    """The static form and the official one, in float32."""
    query, weights = attention(case)
    layer = Attention(torch.tensor(query).float(), torch.tensor(KEYS[case]).float(), 8**-0.5)
    features, grid = torch.tensor(x).float(), (5, 5)
    eager = Eager([torch.tensor(weights).float()], features, features, grid, prefix=1, keys=layer.key)
    return method.select(Taps({0: layer}, features, features, grid, prefix=1, depth=1)), method.official(eager)


def output(chosen: Selection) -> Output:
    features = torch.tensor(FEATURES).float()
    tokens = (
        features.gather(1, chosen.indices[..., None].expand(-1, -1, 6))
        if chosen.merge is None
        else chosen.merge @ features
    )
    return Output(tokens.numpy(), chosen.indices.int().numpy(), chosen.scores.numpy())


@pytest.mark.parametrize("case", CLEAR)
@pytest.mark.parametrize(("keep", "contextual"), [(1, None), (6, None), (13, 5), (12, 1), (24, 10), (25, None)])
def test_both_forms_equal_the_formula(case: str, keep: int, contextual: int | None) -> None:
    method = Method(keep, contextual)
    rows = attention(case)[1][:, :, 0, 1:]
    for got in map(output, both(case, method)):
        for image in range(2):
            indices, scores, tokens = formula(rows[image], KEYS[case][image], FEATURES[image], *method.parts)
            assert got.indices[image].tolist() == indices
            np.testing.assert_allclose(got.scores[image], scores, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(got.tokens[image], tokens, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", KEYS)
@pytest.mark.parametrize("keep", [2, 13, 24])
def test_the_forms_differ_only_by_what_rounding_explains(case: str, keep: int, judged: Callable[..., Verdict]) -> None:
    static, official = both(case, Method(keep))
    assert not judged(Method(keep), FEATURES, official, static).reasons


@pytest.mark.parametrize(("keep", "parts"), [(192, (162, 30)), (128, (108, 20)), (64, (54, 10)), (1, (1, 0))])
def test_budgets_are_divided_as_published(keep: int, parts: tuple[int, int]) -> None:
    assert Method(keep).parts == parts


def test_without_contextual_tokens_it_is_a_ranking_by_cls() -> None:
    static, official = both("random", Method(7, contextual=0))
    rows = attention("random")[1][:, :, 0, 1:].mean(axis=1)
    np.testing.assert_array_equal(static.indices.numpy(), np.sort(np.argsort(-rows, axis=1)[:, :7], axis=1))
    assert torch.equal(static.indices, official.indices)


def test_tiers_say_what_became_of_a_patch() -> None:
    chosen = both("random", Method(12, contextual=4))[0]
    tiers = (chosen.scores // 2).int()
    assert [(tiers == tier).sum(dim=1).tolist() for tier in (2, 1, 0)] == [[8, 8], [4, 4], [13, 13]]
    assert bool((tiers.gather(1, chosen.indices) > 0).all())


@pytest.mark.parametrize("contextual", [-1, 8, 9])
def test_an_impossible_number_of_contextual_tokens_is_refused(contextual: int) -> None:
    with pytest.raises(MethodError, match=rf"contextual of visionzip must be in 0\.\.7 for keep 8, got {contextual}"):
        Method(8, contextual)
