"""ForestPrune against its formula, written here in numpy float64 as the official code goes about it, budget by budget;
and what a device may do wrong in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeprune.pruners import Eager, Selection
from edgeprune.pruners import forestprune as source
from edgeprune.pruners.forestprune import Method
from edgeprune.runtime.parity import Verdict
from edgeprune.taps import Taps
from tests.covering import always

Floats = NDArray[np.float64]
Judge = Callable[..., Verdict]
FRAMES, GRID, WIDTH = 4, (4, 6), 20
SIZE = GRID[0] * GRID[1]
PATCHES, HALF = FRAMES * SIZE, FRAMES * SIZE // 2


def videos(count: int) -> Floats:
    """[count, PATCHES, WIDTH]: patches are alike two by two. From frame to frame a quarter of them are new, as many
    change places, and all drift."""
    drawn = np.random.default_rng(0)
    scene = drawn.normal(size=(count, SIZE // 2, WIDTH)).repeat(2, axis=1)
    x = [scene + 0.3 * drawn.normal(size=scene.shape)]
    for _ in range(1, FRAMES):
        fresh, drift, how = (
            drawn.normal(size=scene.shape),
            drawn.normal(size=scene.shape),
            drawn.random((count, SIZE, 1)),
        )
        elsewhere = x[-1][:, drawn.permutation(SIZE)]
        x.append(np.where(how < 0.25, fresh, np.where(how < 0.5, elsewhere, x[-1]) + 0.25 * drift))
    lengths = drawn.uniform(0.5, 2, (count, PATCHES, 1))
    return np.asarray(lengths * (np.concatenate(x, axis=1) + 0.9 * drawn.normal(size=(count, 1, WIDTH))))


X = videos(36)
CASES = {
    "a video": X[:2],
    "nothing moves": np.tile(X[:2, :SIZE], (1, FRAMES, 1)),
    "three things": X[:2, np.arange(PATCHES) % 3] + 0.02 * X[:2],
    "huge norms": 1e4 * X[:2],
    "one dominant": np.where(np.arange(PATCHES)[:, None] == 7, 9 * X[:2], 1 + 0.1 * X[:2]),
    "all equal": np.ones_like(X[:2]),
}


def formula(x: Floats, keep: int) -> tuple[list[int], dict[int, int], list[int]]:
    """One video -> what is kept, the most wanted first; the depth of each patch of the halves; the roots."""
    total, frames = len(x), len(x) // SIZE
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosine, halves, score = unit @ unit.T, list[int](), np.zeros(total)
    for frame in range(frames):
        here = range(frame * SIZE, (frame + 1) * SIZE)
        a = cosine[np.ix_(here, here)]
        weights = np.where(a >= 0.5, np.exp(a / 0.03), 0)
        a = weights / weights.sum(axis=1, keepdims=True)
        score[here] = np.linalg.norm(x[here], axis=1) @ np.linalg.matrix_power(a, 5) / (weights > 0).sum(axis=1)
        halves += sorted(sorted(here, key=lambda j: -score[j])[: SIZE // 2])
    spot = {j: np.array(divmod(j % SIZE, GRID[1])) / (GRID[0] - 1, GRID[1] - 1) for j in halves}
    tree, depth, tail = dict[int, int](), dict[int, int](), dict[int, int]()
    for frame in range(frames):
        new = [j for j in halves if j // SIZE == frame]
        for j in new:
            fit = [i for i in halves if i // SIZE < frame and cosine[i, j] >= 0.9]
            fit = [i for i in fit if np.abs(spot[i] - spot[j]).max() <= 0.2 + 1e-9]
            tree[j] = tree[max(fit, key=lambda i: cosine[i, j])] if fit else j
            depth[j] = depth[tail[tree[j]]] + 1 if fit else 0
        tail |= {tree[j]: j for j in new}
    roots = [j for j in halves if depth[j] == 0]
    left = list(roots)
    while len(left) > keep:
        left.remove(max(((i, j) for i in left for j in left if i < j), key=lambda pair: cosine[pair])[1])
    lowest = left if len(left) == keep else sorted(halves, key=lambda j: (depth[j], j))
    others = sorted(set(range(total)) - set(halves), key=lambda j: -score[j])
    return (lowest + others)[:keep], depth, roots


def both(x: Floats | Tensor, method: Method) -> tuple[Selection, Selection]:
    """The static form and the official one, in float32."""
    rows = torch.as_tensor(x).float()
    nothing = torch.empty(0)
    static = method.select(Taps({}, nothing, rows, GRID, prefix=0, depth=1))
    return static, method.official(Eager([], nothing, rows, GRID, prefix=0))


@pytest.mark.parametrize("keep", always([6, HALF - 4, HALF + 9], HALF + 9))
def test_both_forms_equal_the_formula_on_36_inputs(keep: int, judged: Judge) -> None:
    """Fewer than the roots of a video are, nearly all that the trees hold, and more than that."""
    method, few = Method(keep), 0
    static, official = both(X, method)
    assert not judged(method, X, official, static).reasons
    for chosen in (static, official):
        for image in range(36):
            kept, depth, roots = formula(X[image], keep)
            assert chosen.indices[image].tolist() == sorted(kept)
            marked = -(chosen.scores[image].double() / 2).floor().int()
            assert {j: int(marked[j]) for j in range(PATCHES) if marked[j] < FRAMES} == depth
            few += len(roots) < keep
    assert few == (0 if keep == 6 else 72)


@pytest.mark.parametrize("keep", [1, 5, 11, 12, 20])
def test_one_frame_keeps_of_its_half_what_is_not_alike(keep: int, judged: Judge) -> None:
    x = X[:, :SIZE]
    static, official = both(x, Method(keep))
    assert not judged(Method(keep), x, official, static).reasons
    for image in range(36):
        kept, depth, _ = formula(x[image], keep)
        assert not any(depth.values())
        for chosen in (static, official):
            assert chosen.indices[image].tolist() == sorted(kept)


def test_what_stands_still_is_kept_once_and_in_the_frame_where_it_was_first_seen() -> None:
    static, _ = both(CASES["nothing moves"], Method(SIZE // 2))
    assert bool((static.indices < SIZE).all())


def test_the_half_of_an_odd_number_is_rounded_to_even_and_never_nothing() -> None:
    assert [source.half(size) for size in (1, 2, 3, 5, 7, 144, 729)] == [1, 1, 2, 2, 4, 72, 364]


def test_reach_is_a_fifth_of_the_grid_in_whole_patches() -> None:
    assert [source.reaches(side) for side in (1, 2, 6, 11, 12, 14, 16, 27)] == [0, 0, 1, 2, 2, 2, 3, 5]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("keep", [1, 24, PATCHES])
def test_the_forms_differ_only_by_what_rounding_explains(case: str, keep: int, judged: Judge) -> None:
    static, official = both(CASES[case], Method(keep))
    assert not judged(Method(keep), CASES[case], official, static).reasons


@pytest.mark.parametrize("keep", always([8, 24, 60], 24))
def test_of_rows_in_float16_no_decision_is_wrong_and_most_are_decided(keep: int, judged: Judge) -> None:
    _, official = both(X, Method(keep))
    static, _ = both(torch.as_tensor(X).half(), Method(keep))
    verdict = judged(Method(keep), X, official, static, "float16")
    assert not verdict.reasons
    assert verdict.wrong == 0
    assert verdict.decided > 0.8 * verdict.decisions


# --- planted faults -------------------------------------------------------------------------------------------------


TREES, WENT = source._trees, source._went


def of_the_frame_before(alike: Tensor, inside: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    frame = torch.arange(alike.shape[1]) // (rows * columns)
    return TREES(torch.where(frame.unsqueeze(-1) - frame == -1, alike, -1.0), inside, rows, columns)


def one_deeper(alike: Tensor, inside: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    tree, depth = TREES(alike, inside, rows, columns)
    return tree, torch.where(depth > 1, depth - 1, depth)


def of_the_patch_joined(alike: Tensor, inside: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """A tree is named by the patch itself."""
    tree, depth = TREES(alike, inside, rows, columns)
    return torch.arange(tree.shape[1]).expand_as(tree), depth


def the_earlier_goes(alike: Tensor, roots: Tensor) -> Tensor:
    return WENT(alike.flip(1, 2), roots.flip(1)).flip(1)


FAULTS: dict[str, dict[str, Any]] = {
    "a_quarter_of_each_frame": {"SHARE": 0.25},
    "alike_from_lower_on": {"LIKE": 0.4},
    "another_temperature": {"TEMPERATURE": 0.1},
    "once_in_place_of_five_times": {"POWER": 1},
    "trees_from_lower_on": {"JOINS": 0.8},
    "trees_from_higher_on": {"JOINS": 0.95},
    "as_far_as_one_likes": {"REACH": 1.0},
    "grids_turned_over": {"_trees": lambda alike, inside, rows, columns: TREES(alike, inside, columns, rows)},
    "of_the_frame_before_alone": {"_trees": of_the_frame_before},
    "depths_miscounted": {"_trees": one_deeper},
    "trees_not_named_by_their_root": {"_trees": of_the_patch_joined},
    "the_earlier_of_a_pair_goes": {"_went": the_earlier_goes},
    "one_round": {"ROUNDS": 1},
    "nothing_goes": {"_went": lambda alike, roots: torch.zeros_like(alike[:, 0])},
}


@pytest.mark.parametrize(
    "fault", always(FAULTS, "alike_from_lower_on", "depths_miscounted", "one_round", "nothing_goes")
)
def test_a_fault_in_how_it_chooses_is_caught_in_float16(
    fault: str, judged: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = Method(24)
    _, official = both(X[:8], method)
    with monkeypatch.context() as planted:
        for name, value in FAULTS[fault].items():
            planted.setattr(source, name, value)
        static, _ = both(X[:8], method)
    assert not judged(method, X[:8], official, both(X[:8], method)[0], "float16").reasons
    assert judged(method, X[:8], official, static, "float16").reasons
