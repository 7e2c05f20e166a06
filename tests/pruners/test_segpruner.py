"""SeGPruner against its formula, written here in numpy float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgeprune.errors import MethodError
from edgeprune.pruners import Eager
from edgeprune.pruners.segpruner import Method
from edgeprune.taps import Attention, Taps

Floats = NDArray[np.float64]
IMAGES, N = 36, 40


def drawn() -> tuple[Floats, Floats, Floats, Attention]:
    """Features, places, attention [B, 2, N + 1, N + 1] and what makes it."""
    rng = np.random.default_rng(0)
    h, xyz = rng.normal(size=(IMAGES, N, 16)), rng.normal(size=(IMAGES, N, 3)) * 3 + 5
    query, key = rng.normal(size=(2, IMAGES, 2, N + 1, 4))
    logits = query @ key.swapaxes(-1, -2) * 0.5
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return h, xyz, weights / weights.sum(axis=-1, keepdims=True), Attention(torch.tensor(query), torch.tensor(key), 0.5)


def formula(h: Floats, xyz: Floats, column: Floats, keep: int, balance: float) -> list[int]:
    picks = [int(column.argmax())]
    dmax = np.linalg.norm(xyz - xyz[picks[0]], axis=1).max() or 1.0
    nearest = np.full(len(h), np.inf)
    while len(picks) < keep:
        j = picks[-1]
        world = np.linalg.norm(xyz - xyz[j], axis=1) / dmax
        shown = 1 - h @ h[j] / np.linalg.norm(h, axis=1) / np.linalg.norm(h[j])
        nearest = np.minimum(nearest, balance * world + (1 - balance) * shown)
        free = np.where(np.isin(np.arange(len(h)), picks), -np.inf, nearest)
        picks.append(int(free.argmax()))
    return picks


@pytest.mark.parametrize("keep", [1, 9, 24])
@pytest.mark.parametrize("balance", [0.5, 0.0, 0.9])
def test_the_picks_are_those_of_the_formula(keep: int, balance: float) -> None:
    h, xyz, attention, layer = drawn()
    h32, xyz32 = torch.tensor(h).float(), torch.tensor(xyz).float()
    wanted = [formula(h[at], xyz[at], attention[at].mean((0, 1))[1:], keep, balance) for at in range(IMAGES)]
    method = Method(keep, balance)
    static = method.select(Taps({0: layer}, h32, h32, (5, 8), prefix=1, depth=1, given={"xyz": xyz32}))
    maps = [torch.tensor(attention).float()]
    official = method.official(Eager(maps, h32, h32, (5, 8), prefix=1, given={"xyz": xyz32}))
    for chosen in (static, official):
        assert chosen.picks is not None
        assert chosen.picks.tolist() == wanted
        assert chosen.indices.tolist() == [sorted(picks) for picks in wanted]


def test_where_no_place_is_known_it_goes_by_what_is_shown() -> None:
    h, _, _, layer = drawn()
    h32 = torch.tensor(h).float()
    blank, apart = (
        Method(9, balance).select(
            Taps({0: layer}, h32, h32, (5, 8), prefix=1, depth=1, given={"xyz": torch.zeros(IMAGES, N, 3)})
        )
        for balance in (0.5, 0.0)
    )
    assert torch.equal(blank.indices, apart.indices)


def test_joint_views_are_one_pool() -> None:
    h, xyz, attention, layer = drawn()
    every = [one.reshape(1, IMAGES * N, -1) for one in (h, xyz)]
    h32, xyz32 = (torch.tensor(one).float() for one in every)
    wanted = formula(every[0][0], every[1][0], attention.mean(axis=(1, 2))[:, 1:].ravel(), 24, 0.5)
    method, given = Method(24, views="joint"), {"xyz": xyz32}
    static = method.select(Taps({0: layer}, h32, h32, (5, 8), prefix=1, depth=1, given=given))
    official = method.official(Eager([torch.tensor(attention).float()], h32, h32, (5, 8), prefix=1, given=given))
    for chosen in (static, official):
        assert chosen.picks is not None
        assert chosen.picks.tolist() == [wanted]
    assert method.departs == ("the views are one pool of candidates, which is ours",)


def test_views_are_each_or_joint() -> None:
    with pytest.raises(MethodError, match="no views 'all'; have each, joint"):
        Method(9, views="all")


def test_a_balance_out_of_range_is_refused() -> None:
    with pytest.raises(MethodError, match=r"option balance of segpruner must be in 0..1, got 2"):
        Method(9, 2.0)
