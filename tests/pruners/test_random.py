"""Random: the same patches for every image, drawn by the seed."""

from __future__ import annotations

import random

import torch

from edgeprune.pruners import Eager
from edgeprune.pruners.random import Method, shuffled
from edgeprune.taps import Taps

PATCHES = 36
TAPS = Taps({}, torch.zeros(2, PATCHES, 4), torch.empty(0), (6, 6), 1, 1)
EAGER = Eager([], torch.zeros(2, PATCHES, 4), torch.empty(0), (6, 6), 1)


def test_the_order_is_that_of_random_numbers_of_the_seed() -> None:
    drawn = random.Random(7)
    numbers = {patch: drawn.random() for patch in range(5)}
    assert shuffled(5, 7) == sorted(numbers, key=numbers.__getitem__)


def test_the_order_never_changes() -> None:
    assert shuffled(8, 0) == [3, 7, 5, 2, 4, 1, 6, 0]  # 0.26, 0.30, 0.41, 0.42, 0.51, 0.76, 0.78, 0.84


def test_every_image_keeps_the_first_of_the_order() -> None:
    for keep in (1, 2, 29, 35, 36):
        chosen = Method(keep).select(TAPS)
        assert chosen.indices.tolist() == [sorted(shuffled(PATCHES, 0)[:keep])] * 2
        assert chosen.indices.dtype == torch.int64


def test_scores_fall_with_the_order_and_rank_what_is_kept() -> None:
    scores = Method(9).select(TAPS).scores
    assert scores.dtype == torch.float32
    assert scores[0].argsort(descending=True).tolist() == shuffled(PATCHES, 0)
    assert scores[1].max() == 1


def test_both_forms_agree_for_every_seed() -> None:
    for seed in range(10):
        static, official = Method(13, seed).select(TAPS), Method(13, seed).official(EAGER)
        assert torch.equal(static.indices, official.indices)
        torch.testing.assert_close(static.scores, official.scores)


def test_another_seed_keeps_others_and_a_smaller_budget_a_subset() -> None:
    assert Method(9, seed=1).select(TAPS).indices.tolist() != Method(9).select(TAPS).indices.tolist()
    small, large = (set(Method(keep).select(TAPS).indices[0].tolist()) for keep in (9, 20))
    assert small < large


def test_every_patch_has_its_chance() -> None:
    kept = [patch for seed in range(400) for patch in shuffled(PATCHES, seed)[:9]]
    counts = [kept.count(patch) for patch in range(PATCHES)]
    assert min(counts) >= 60  # 100 expected, standard deviation 9
    assert max(counts) <= 140
