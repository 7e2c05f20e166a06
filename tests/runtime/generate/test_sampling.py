"""What a token is drawn by is what transformers draws it by."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeprune.runtime.generate.engine import Sampling
from edgeprune.runtime.generate.sampling import choose, probabilities

LOGITS = np.random.default_rng(0).normal(0, 3, 50).astype(np.float32)
TIED = np.array([1, 3, 3, 2, 0, 3], np.float32)


def official(logits: NDArray[np.float32], sampling: Sampling) -> NDArray[np.float64]:
    import torch
    from transformers.generation import logits_process as steps

    scores: Any = torch.from_numpy(logits).double()[None]
    chain: list[Any] = [steps.TemperatureLogitsWarper(float(sampling.temperature))]
    chain += [steps.TopKLogitsWarper(sampling.top_k)] if sampling.top_k else []
    chain += [steps.TopPLogitsWarper(sampling.top_p)] if sampling.top_p < 1 else []
    for one in chain:
        scores = one(torch.zeros(1, 1, dtype=torch.long), scores)
    found: NDArray[np.float64] = scores.softmax(dim=-1)[0].numpy()
    return found


@pytest.mark.parametrize("logits", [LOGITS, TIED], ids=["logits", "equal ones"])
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1),
        Sampling(temperature=0.5),
        Sampling(temperature=2, top_k=4),
        Sampling(temperature=1, top_p=0.8),
        Sampling(temperature=1.3, top_k=9, top_p=0.5),
        Sampling(temperature=1, top_k=99, top_p=1e-9),
    ],
)
def test_probabilities_are_those_of_transformers(logits: NDArray[np.float32], sampling: Sampling) -> None:
    found, expected = probabilities(logits, sampling), official(logits, sampling)
    assert found.sum() == pytest.approx(1)
    if logits is TIED and sampling.top_p < 1:  # which of equals go is the sort's own business
        found, expected = np.sort(found), np.sort(expected)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_greedy_takes_the_likeliest_and_of_equals_the_first() -> None:
    random = np.random.default_rng(0)
    assert choose(LOGITS, Sampling(), random) == LOGITS.argmax()
    assert choose(TIED, Sampling(temperature=3, top_k=1), random) == 1


def test_draws_follow_the_probabilities_and_the_seed() -> None:
    sampling = Sampling(temperature=1, top_k=5)
    drawn = [choose(LOGITS, sampling, random) for random in [np.random.default_rng(1)] for _ in range(2000)]
    again = [choose(LOGITS, sampling, random) for random in [np.random.default_rng(1)] for _ in range(20)]
    assert drawn[:20] == again
    shares = np.bincount(drawn, minlength=len(LOGITS)) / len(drawn)
    assert np.abs(shares - probabilities(LOGITS, sampling)).max() < 0.04
