"""HiPrune's set, and what a question adds to it: written here in numpy float64, by what `hiprune` keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from edgeprune.errors import MethodError
from edgeprune.ports import ALIGNED, TEXT
from edgeprune.pruners import Eager, Selection
from edgeprune.pruners.hiprune_text import Method
from edgeprune.runtime.parity import Verdict
from edgeprune.taps import Attention, Taps

Floats = NDArray[np.float64]
IMAGES, GRID, PATCHES, JOINT = 36, (6, 8), 48, 16
DRAWN = np.random.default_rng(9)
QUERIES, KEYS = (DRAWN.normal(size=(4, IMAGES, 2, 1 + PATCHES, 8)) for _ in range(2))
"""of four layers"""
ROWS, TEXTS = DRAWN.normal(size=(IMAGES, PATCHES, JOINT)), DRAWN.normal(size=(IMAGES, JOINT))
BUDGETS = (5, 12, 30)


def maps() -> Floats:
    logits = QUERIES @ KEYS.swapaxes(-1, -2) * 8**-0.5
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=-1, keepdims=True))


def formula(shallow: Floats, deep: Floats, v: Floats, text: Floats, keep: int, share: float) -> list[int]:
    """One image: column means of two layers, features in the joint space, the question -> what is kept."""
    asked = max(1, round(share * keep))
    anchors = np.argsort(-shallow)[: round((keep - asked) * 0.1 / 5)]
    around = np.concatenate([anchors + step for step in (0, -1, 1, -GRID[1], GRID[1])])
    kept = set(np.clip(around, 0, PATCHES - 1).tolist())
    kept |= set([at for at in np.argsort(-deep).tolist() if at not in kept][: keep - asked - len(kept)])
    cosine = v @ text / np.linalg.norm(v, axis=1) / np.linalg.norm(text)
    return sorted(kept | set([at for at in np.argsort(-cosine).tolist() if at not in kept][:asked]))


def both(method: Method, text: Floats = TEXTS) -> tuple[Selection, Selection]:
    """The static form and the official one, in float32."""
    rows, given = torch.tensor(ROWS).float(), {TEXT: torch.tensor(text).float()}
    attention = {
        layer: Attention(torch.tensor(query).float(), torch.tensor(key).float(), 8**-0.5)
        for layer, (query, key) in enumerate(zip(QUERIES, KEYS, strict=True))
    }
    seen: Any = [torch.tensor(one).float() for one in maps()]
    static = method.select(Taps(attention, rows, rows, GRID, 1, 4, aligner=nn.Identity(), given=given))
    return static, method.official(Eager(seen, rows, rows, GRID, 1, aligned=rows, given=given))


@pytest.mark.parametrize("share", [0.1, 0.5])
@pytest.mark.parametrize("keep", [1, *BUDGETS, PATCHES])
def test_both_forms_equal_the_formula(keep: int, share: float, judged: Callable[..., Verdict]) -> None:
    method = Method(keep, share, object_layer=2)
    shallow, deep = (maps()[layer].mean(axis=(1, 2))[:, 1:] for layer in (1, 3))
    static, official = both(method)
    for chosen in (static, official):
        wanted = [formula(*each, keep, share) for each in zip(shallow, deep, ROWS, TEXTS, strict=True)]
        assert chosen.indices.tolist() == wanted
    assert not judged(method, ROWS, official, static).reasons


def test_of_a_tenth_of_the_budget_the_question_says_what_is_kept() -> None:
    one, other = (both(Method(30), text)[0] for text in (TEXTS, -TEXTS))
    assert one.picks is not None
    assert other.picks is not None
    assert torch.equal(one.picks[:, :27], other.picks[:, :27])
    assert not torch.equal(one.picks[:, 27:], other.picks[:, 27:])


def test_a_question_has_to_be_given() -> None:
    (port,) = Method(9).ports
    assert (port.blank, port.space) == (None, ALIGNED)


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5, float("nan")])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(MethodError, match=r"option share of hiprune_text must be in \(0, 1\], got"):
        Method(9, share)


def test_options_of_hiprune_are_checked_there() -> None:
    with pytest.raises(MethodError, match="option alpha of hiprune must be in"):
        Method(9, alpha=2.0)
