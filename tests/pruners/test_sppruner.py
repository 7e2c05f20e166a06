"""SPpruner's focus and what it leaves: written here in numpy float64, image by image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from edgeprune.ports import ALIGNED, TEXT
from edgeprune.pruners import Eager, Selection
from edgeprune.pruners.sppruner import Method
from edgeprune.runtime.parity import Verdict
from edgeprune.taps import Attention, Taps

Floats = NDArray[np.float64]
IMAGES, GRID, PATCHES, JOINT = 36, (6, 8), 48, 16
DRAWN = np.random.default_rng(9)
QUERY, KEY = DRAWN.normal(size=(2, IMAGES, 2, 1 + PATCHES, 8))
ROWS, TEXTS = DRAWN.normal(size=(IMAGES, PATCHES, JOINT)), DRAWN.normal(size=(IMAGES, JOINT))
BUDGETS = (4, 12, 30)


def maps() -> Floats:
    logits = QUERY @ KEY.swapaxes(-1, -2) * 8**-0.5
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=-1, keepdims=True))


def formula(attended: Floats, v: Floats, text: Floats, keep: int) -> set[int]:
    """One image: the [CLS] row, features in the joint space, the question -> what is kept."""
    length = np.linalg.norm(v, axis=1) * np.linalg.norm(text)
    likeness = v @ text / np.where(length > 0, length, 1)
    s = attended * np.exp((likeness.min() - likeness) / 0.1)
    kept = set[int]()
    for anchor in np.argsort(-s)[: keep // 5].tolist():
        row, column = divmod(anchor, GRID[1])
        beside = [(row, column), (row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
        kept |= {r * GRID[1] + c for r, c in beside if 0 <= r < GRID[0] and 0 <= c < GRID[1]}
    return kept | set([at for at in np.argsort(-s).tolist() if at not in kept][: keep - len(kept)])


def both(method: Method, text: Floats = TEXTS) -> tuple[Selection, Selection]:
    """The static form and the official one, in float32."""
    rows, given = torch.tensor(ROWS).float(), {TEXT: torch.tensor(text).float()}
    attention = {0: Attention(torch.tensor(QUERY).float(), torch.tensor(KEY).float(), 8**-0.5)}
    static = method.select(Taps(attention, rows, rows, GRID, 1, 1, aligner=nn.Identity(), given=given))
    seen = [torch.tensor(maps()).float()]
    return static, method.official(Eager(seen, rows, rows, GRID, 1, aligned=rows, given=given))


@pytest.mark.parametrize("text", [TEXTS, 0 * TEXTS], ids=["asked", "without a question"])
@pytest.mark.parametrize("keep", [1, *BUDGETS, PATCHES])
def test_both_forms_equal_the_formula(keep: int, text: Floats, judged: Callable[..., Verdict]) -> None:
    attended = maps()[:, :, 0, 1:].mean(axis=1)
    wanted = [sorted(formula(*each, keep)) for each in zip(attended, ROWS, text, strict=True)]
    static, official = both(Method(keep), text)
    for chosen in (static, official):
        assert chosen.indices.tolist() == wanted
    assert not judged(Method(keep), ROWS, official, static).reasons


def test_a_long_text_says_what_a_short_one_does() -> None:
    for one, longer in zip(both(Method(12)), both(Method(12), 7 * TEXTS), strict=True):
        torch.testing.assert_close(one.scores, longer.scores)


def test_it_does_without_a_question() -> None:
    (port,) = Method(9).ports
    assert (port.blank, port.space) == (0.0, ALIGNED)


def test_what_is_like_the_question_is_not_kept_for_it() -> None:
    text = np.broadcast_to(TEXTS[:1], TEXTS.shape)
    one, other = (both(Method(12), sign * text)[0] for sign in (1, -1))
    assert not torch.equal(one.indices, other.indices)
