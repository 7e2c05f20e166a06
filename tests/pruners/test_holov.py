"""HoloV against the official formula, written here in numpy, chunk by chunk."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgeprune.pruners import Eager, Selection
from edgeprune.pruners.holov import Method, sizes
from edgeprune.taps import Attention, Taps
from tests.covering import always

Floats = NDArray[np.float64]
WIDTH, HEADS = 12, 3


class Formula:
    """HoloV() of obananas/HoloV@1d2e65e for one image: x [N, D], attention [N] -> what each chunk weighs and keeps."""

    def __init__(self, tokens: Floats, attention: Floats, keep: int) -> None:
        patches = len(tokens)
        self.chunks: list[NDArray[np.int64]] = [part for part in np.array_split(np.arange(patches), 16) if len(part)]
        self.weight = np.array([self._weight(tokens[chunk], attention[chunk]) for chunk in self.chunks])
        self.parts = keep * self.weight / (self.weight.sum() + 1e-6)
        self.share = np.floor(self.parts).astype(int)
        self.left = keep - self.share.sum()
        self.share[np.argsort(-self.weight, kind="stable")[: self.left]] += 1
        own = [
            chunk[np.argsort(-attention[chunk], kind="stable")[:count]]
            for chunk, count in zip(self.chunks, self.share, strict=True)
        ]
        self.own: set[int] = set(np.concatenate(own).tolist())
        others = sorted(set(range(patches)) - self.own, key=lambda at: -attention[at])
        self.kept = self.own | set(others[: keep - len(self.own)])  # where a chunk overflows the others fill up

    @staticmethod
    def _weight(x: Floats, attention: Floats) -> float:
        size = len(x)
        if size == 1:
            return float(attention.mean())
        unit = x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-6)
        cosine = unit @ unit.T * (1 - np.eye(size))
        mean = cosine.sum(axis=1) / (size - 1)
        variance = ((cosine - mean[:, None]) ** 2).sum(axis=1) / (size - 1)
        scaled = attention * 1e3
        return float((scaled + 0.09 * variance * np.abs(scaled).mean() / (np.abs(variance).mean() + 1e-6)).mean())


def inputs(patches: int, seed: int = 0, kind: str = "random") -> tuple[Floats, Floats, Floats]:
    """x [2, N, D], query and key [2, H, 1 + N, d]."""
    draw = np.random.default_rng(seed)
    shape = (2, HEADS, 1 + patches, 8)
    tokens, query, key = draw.normal(size=(2, patches, WIDTH)), draw.normal(size=shape), draw.normal(size=shape)
    if kind == "huge norms":
        tokens *= 1e6
    elif kind == "one dominant":
        query[..., 0], key[:, :, 1 + patches // 2, 0] = 4, 8
    elif kind == "two clusters":
        half = np.arange(patches) % 2
        tokens = tokens[:, half] + 1e-2 * tokens
        key[:, :, 1:] = key[:, :, 1 + half] + 1e-2 * key[:, :, 1:]
    return tokens, query, key


def maps(query: Floats, key: Floats) -> Floats:
    logits = query @ key.swapaxes(-1, -2) * 8**-0.5
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def cls_row(query: Floats, key: Floats) -> Floats:
    return np.asarray(maps(query, key)[:, :, 0, 1:].mean(axis=1))


def select(keep: int, tokens: Floats, query: Floats, key: Floats) -> Selection:
    seen = Attention(torch.tensor(query), torch.tensor(key), 8**-0.5)
    projected = torch.tensor(tokens, dtype=torch.float32)
    return Method(keep).select(Taps({0: seen}, torch.empty(0), projected, (1, tokens.shape[1]), 1, 1))


def official(keep: int, tokens: Floats, query: Floats, key: Floats) -> Selection:
    seen = [torch.tensor(maps(query, key))]
    return Method(keep).official(Eager(seen, torch.empty(0), torch.tensor(tokens), (1, tokens.shape[1]), 1))


@pytest.mark.parametrize("patches", always([5, 20, 36, 64, 144], 5, 36))
@pytest.mark.parametrize("kind", ["random", "huge norms", "one dominant", "two clusters"])
def test_both_forms_keep_what_the_official_formula_keeps(patches: int, kind: str) -> None:
    tokens, query, key = given = inputs(patches, patches, kind)
    attention = cls_row(query, key)
    for keep in {1, 2, 29, patches - 1, patches} & set(range(1, patches + 1)):
        for chosen in (select(keep, *given), official(keep, *given)):
            for image in range(2):
                formula = Formula(tokens[image], attention[image], keep)
                assert formula.share.sum() == keep
                assert chosen.indices[image].tolist() == sorted(formula.kept)
                want = attention[image] + 2.0 * np.isin(np.arange(patches), list(formula.own))
                np.testing.assert_allclose(chosen.scores[image].numpy(), want, rtol=1e-5, atol=3e-7)


def overflowing() -> tuple[Floats, Floats, Floats]:
    """[CLS] looks at the first chunk, which has 4 patches."""
    tokens, query, key = inputs(64)
    query[:, :, 0], key[:, :, 1:5] = 4.0, 1.0
    return tokens, query, key


def test_a_chunk_that_gets_more_than_it_has_leaves_the_rest_to_others() -> None:
    tokens, query, key = given = overflowing()
    formula = Formula(tokens[0], cls_row(query, key)[0], 20)
    assert formula.share[0] > 4
    assert len(formula.own) < 20
    for chosen in (select(20, *given), official(20, *given)):
        assert chosen.indices[0].tolist() == sorted(formula.kept)


@pytest.mark.parametrize("kind", ["equal", "zero"])
def test_it_keeps_exactly_that_many_when_all_patches_tie(kind: str) -> None:
    tokens, still = np.full((2, 36, WIDTH), float(kind == "equal")), np.zeros((2, HEADS, 37, 8))
    for keep in (1, 2, 29, 35, 36):
        for chosen in (select(keep, tokens, still, still), official(keep, tokens, still, still)):
            assert chosen.indices.shape == (2, keep)
            assert bool((chosen.indices.diff(dim=1) > 0).all())
            assert bool(torch.isfinite(chosen.scores).all())


def test_the_variance_decides_nothing_unless_a_chunk_is_all_alike() -> None:
    tokens, query, key = inputs(144, 3)
    attention = cls_row(query, key)[0]
    by_mass = attention.reshape(16, 9).mean(axis=1)
    np.testing.assert_allclose(Formula(tokens[0], attention, 64).parts, 64 * by_mass / by_mass.sum(), rtol=1e-3)


@pytest.mark.parametrize("patches", [1, 15, 16, 17, 36, 576])
def test_what_does_not_divide_makes_the_first_chunks_longer(patches: int) -> None:
    assert sizes(patches) == [len(part) for part in np.array_split(np.arange(patches), 16) if len(part)]
