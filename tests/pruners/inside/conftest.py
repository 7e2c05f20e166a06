"""Rows at a step with random attention, as the trace and as the reference hand them to a reducer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeprune.pruners import Eager
from edgeprune.pruners.inside import Reducer, Reduction, Step
from edgeprune.taps import Attention, Taps

GRID, PREFIX, SUFFIX, HEADS, WIDTH, IMAGES = (4, 5), 1, 1, 2, 6, 3
PATCHES = 20
STEPS = [(Step(2, 11), PATCHES), (Step(1, 12), PATCHES), (Step(4, 9), 13)]
"""a step, and the rows in front of it: two first ones, and one behind another"""
SEEDS = range(12)


@dataclass(frozen=True)
class Rows:
    """What is in front of a step; maps and the rest are [3, H, S, ...] float64, with S special | rows | hidden | one
    special token, by layer."""

    step: Step
    count: int
    hidden: int
    names: NDArray[Any]
    size: NDArray[Any]
    maps: dict[int, NDArray[Any]]
    keys: dict[int, NDArray[Any]]
    values: dict[int, NDArray[Any]]
    taps: Taps
    eager: Eager
    carried: dict[str, Tensor] = field(default_factory=dict)

    def mean_keys(self) -> NDArray[Any]:
        """[3, n, d] of the layer in front of the step."""
        found: NDArray[Any] = self.keys[self.step.layer - 1].mean(axis=1)[:, PREFIX : PREFIX + self.count]
        return found

    def cosines(self) -> NDArray[Any]:
        keys = self.mean_keys()
        unit = keys / np.linalg.norm(keys, axis=2, keepdims=True)
        return np.asarray(unit @ unit.transpose(0, 2, 1))


def rows_at(step: Step, count: int, seed: int, hidden: int = 0, has_cls: bool = True) -> Rows:
    random = np.random.default_rng([seed, step.layer, count])
    prefix = PREFIX if has_cls else 0
    tokens = prefix + count + hidden + SUFFIX
    first = count == PATCHES
    names = [np.sort(random.choice(PATCHES, count, replace=False)) for _ in range(IMAGES)]
    size = np.ones((IMAGES, count + hidden)) if first else random.integers(1, 5, (IMAGES, count + hidden)).astype(float)
    bias = np.zeros((IMAGES, tokens))
    bias[:, prefix : prefix + count + hidden] = np.log(size)
    shape = (IMAGES, HEADS, tokens, WIDTH)
    attention, maps, keys, values = {}, {}, {}, {}
    for layer in range(step.layer):
        query, key, value = (1.5 * random.normal(size=shape) for _ in range(3))
        logits = query @ key.transpose(0, 1, 3, 2) / WIDTH**0.5 + bias[:, None, None]
        weights = np.exp(logits)
        maps[layer], keys[layer], values[layer] = weights / weights.sum(axis=-1, keepdims=True), key, value
        parts = [torch.tensor(one, dtype=torch.float32) for one in (query, key, value, bias[:, None, None])]
        attention[layer] = Attention(parts[0], parts[1], WIDTH**-0.5, parts[2], None if first else parts[3])
    end = prefix + count
    features = torch.tensor(random.normal(size=(IMAGES, count, HEADS * WIDTH)), dtype=torch.float32)
    before = random.normal(size=(IMAGES, count, WIDTH))
    before /= np.linalg.norm(before, axis=2, keepdims=True)
    seen = (seed % 2) * random.dirichlet(np.ones(count), IMAGES)  # every second one is a first frame
    state = {name: torch.tensor(one, dtype=torch.float32) for name, one in (("keys", before), ("seen", seen))}
    own = torch.tensor(np.array(names))
    sizes = torch.tensor(size[:, :count], dtype=torch.float32)
    shared = features, features, GRID, prefix
    taps = Taps(
        attention,
        *shared,
        step.layer,
        suffix=SUFFIX + hidden,
        names=None if first else own,
        size=None if first else sizes,
        state=state,
    )
    cut = [
        {layer: torch.tensor(one, dtype=torch.float32) for layer, one in given.items()}
        for given in (maps, keys, values)
    ]
    eager = Eager(
        [cut[0][layer][..., :end] for layer in range(step.layer)],
        *shared,
        keys=cut[1][step.layer - 1][:, :, :end],
        values=[cut[2][layer][:, :, :end] for layer in range(step.layer)],
        names=own,
        size=sizes,
        hidden=hidden,
        state=state,
    )
    return Rows(step, count, hidden, np.array(names), size, maps, keys, values, taps, eager)


Cases = Callable[..., Iterator[Rows]]


@pytest.fixture(scope="session")
def cases() -> Cases:
    """(hidden rows behind an earlier step=0, has_cls=True) -> 12 times 3 images at each of three steps."""

    def every(hidden: int = 0, has_cls: bool = True) -> Iterator[Rows]:
        for step, count in STEPS:
            for seed in SEEDS:
                yield rows_at(step, count, seed, hidden if count < PATCHES else 0, has_cls)

    return every


Agrees = Callable[[Reducer, Rows], Reduction]


@pytest.fixture(scope="session")
def agrees() -> Agrees:
    """(reducer, rows) -> its choice, held against that of the official form."""

    def check(reducer: Reducer, rows: Rows) -> Reduction:
        chosen = reducer.select(rows.step, rows.taps, rows.carried)
        official = reducer.official(rows.step, rows.eager, rows.carried)
        assert torch.equal(chosen.rows, official.rows)
        torch.testing.assert_close(chosen.scores, official.scores, rtol=1e-4, atol=1e-6)
        assert chosen.hidden == official.hidden == reducer.hidden
        assert (chosen.into is None) == (official.into is None)
        if chosen.into is not None and official.into is not None:
            assert torch.equal(chosen.into, official.into)
        for name in ("weights", "size"):
            one, other = getattr(chosen, name), getattr(official, name)
            assert (one is None) == (other is None)
            if one is not None:
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
        assert chosen.carried.keys() == official.carried.keys()
        for name, one in chosen.carried.items():
            torch.testing.assert_close(one, official.carried[name], rtol=1e-4, atol=1e-6)
        assert chosen.state.keys() == official.state.keys() == reducer.state(rows.step, rows.count, WIDTH).keys()
        for name, shape in reducer.state(rows.step, rows.count, WIDTH).items():
            assert chosen.state[name].shape == (IMAGES, *shape)
            torch.testing.assert_close(chosen.state[name], official.state[name], rtol=1e-4, atol=1e-6)
        forced = reducer.official(rows.step, rows.eager, rows.carried, chosen.rows)
        assert torch.equal(forced.rows, chosen.rows)  # forced to its own choice it is the same
        if chosen.into is not None and forced.into is not None:
            assert torch.equal(forced.into, chosen.into)
        return chosen

    return check


def highest(scores: NDArray[Any], keep: int) -> list[int]:
    """The places of the highest scores, ascending."""
    return sorted(sorted(range(len(scores)), key=lambda at: -scores[at])[:keep])
