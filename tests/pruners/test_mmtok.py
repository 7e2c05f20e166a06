"""MMTok against the official formula, written here in numpy float64, each step from scratch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgeprune.errors import MethodError
from edgeprune.ports import TEXT, TEXT_MASK
from edgeprune.pruners import Eager, Selection
from edgeprune.pruners.mmtok import Method
from edgeprune.runtime.parity import Verdict
from edgeprune.taps import Taps

Floats = NDArray[np.float64]
IMAGES, PATCHES, ROWS = 36, 40, 6
DRAWN = np.random.default_rng(6)
FEATURES, PROJECTED, WORDS = (
    DRAWN.normal(size=(IMAGES, *shape)) for shape in ((PATCHES, 24), (PATCHES, 32), (ROWS, 32))
)
MASK = (np.arange(ROWS) < np.arange(IMAGES)[:, None] % (ROWS + 1)).astype(float)
"""from no word at all to as many as there may be"""
BUDGETS = (2, 9, 24)


def cosines(a: Floats, b: Floats) -> Floats:
    a, b = (one / np.linalg.norm(one, axis=-1, keepdims=True) for one in (a, b))
    return np.asarray(a @ b.T)


def softmax(x: Floats) -> Floats:
    shares = np.exp(x - x.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def formula(h: Floats, x: Floats, words: Floats, keep: int, alpha: float = 0.5) -> tuple[list[int], list[float]]:
    """One image: features, projected features, the words alone -> picks in their order, and what each gained."""
    p = softmax(cosines(words, x) / 0.02) / len(words) if len(words) else np.zeros((0, len(x)))
    combined = np.concatenate((p, alpha * softmax(cosines(h, h) / 0.2) / len(h)))
    best, picks, gained = np.zeros(len(combined)), list[int](), list[float]()
    for _ in range(keep):
        delta = np.maximum(combined - best[:, None], 0).sum(axis=0)
        delta[picks] = -np.inf
        picks.append(int(delta.argmax()))
        gained.append(float(delta.max()))
        best = np.maximum(best, combined[:, picks[-1]])
    return picks, gained


def both(method: Method, mask: Floats = MASK, words: Floats = WORDS) -> tuple[Selection, Selection]:
    """The static form and the official one, in float32."""
    h, x = (torch.tensor(one).float() for one in (FEATURES, PROJECTED))
    given: dict[str, Any] = {"given": {TEXT: torch.tensor(words).float(), TEXT_MASK: torch.tensor(mask).float()}}
    return method.select(Taps({}, h, x, (5, 8), 1, 1, **given)), method.official(Eager([], h, x, (5, 8), 1, **given))


@pytest.mark.parametrize("keep", BUDGETS)
def test_both_forms_equal_the_formula(keep: int, judged: Callable[..., Verdict]) -> None:
    method = Method(keep, texts=ROWS)
    static, official = both(method)
    for chosen in (static, official):
        assert chosen.picks is not None
        for image in range(IMAGES):
            words = WORDS[image, : int(MASK[image].sum())]
            picks, gained = formula(FEATURES[image], PROJECTED[image], words, keep)
            assert chosen.picks[image].tolist() == picks
            assert chosen.indices[image].tolist() == sorted(picks)
            np.testing.assert_allclose(chosen.scores[image, picks].numpy(), gained, rtol=1e-4, atol=1e-7)
    assert not judged(method, PROJECTED, official, static).reasons


@pytest.mark.parametrize("alpha", [0.0, 2.0])
def test_patches_count_as_much_beside_the_words_as_is_asked_for(alpha: float) -> None:
    for chosen in both(Method(3, ROWS, alpha), np.ones_like(MASK)):
        assert chosen.picks is not None
        for image in range(IMAGES):
            picks, _ = formula(FEATURES[image], PROJECTED[image], WORDS[image], 3, alpha)
            assert chosen.picks[image].tolist() == picks


def test_what_stands_in_rows_that_are_no_words_is_not_read() -> None:
    other = np.where(MASK[..., None] > 0, WORDS, 1e3)
    for one, changed in zip(both(Method(9, ROWS)), both(Method(9, ROWS), words=other), strict=True):
        assert torch.equal(one.indices, changed.indices)
        assert torch.equal(one.scores, changed.scores)


def test_a_word_that_is_one_patch_has_it_picked_first() -> None:
    words = np.zeros_like(WORDS)
    words[:, 0] = PROJECTED[:, 17]
    for chosen in both(Method(4, ROWS), np.eye(1, ROWS).repeat(IMAGES, 0), words):
        assert chosen.picks is not None
        assert chosen.picks[:, 0].tolist() == [17] * IMAGES


def test_a_text_has_as_many_rows_as_the_option_says() -> None:
    text, mask = Method(9, texts=5).ports
    assert (text.name, text.shape, text.blank, text.beside) == ("text", (5, "tokens"), 0.0, "text_mask")
    assert (mask.name, mask.shape, mask.blank, mask.beside) == ("text_mask", (5,), 0.0, "text")
    assert Method(9).ports[1].shape == (16,)


def test_no_words_and_a_negative_alpha_are_refused() -> None:
    with pytest.raises(MethodError, match="option texts of mmtok must be 1 or more, got 0"):
        Method(9, texts=0)
    for alpha in (-1.0, float("inf"), float("nan")):
        with pytest.raises(MethodError, match="option alpha of mmtok must be 0 or more, got"):
            Method(9, alpha=alpha)
