"""CoViPAL's scorer against its formula, written here in numpy float64, each step from scratch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.errors import MethodError
from edgeprune.fit import build_method
from edgeprune.ports import TEXT, TEXT_MASK
from edgeprune.pruners import Eager, Selection
from edgeprune.pruners._select import ranked_top
from edgeprune.pruners.covipal import Method, Scorer
from edgeprune.runtime.parity import Verdict
from edgeprune.taps import Taps
from tests.device import of_scenes
from tests.learned import by_chance

Floats = NDArray[np.float64]
IMAGES, PATCHES, WIDTH, WORDS = 36, 40, 32, 6
DRAWN = np.random.default_rng(12)
ROWS, QUESTIONS = (DRAWN.normal(size=(IMAGES, count, WIDTH)) for count in (PATCHES, WORDS))
MASK = (np.arange(WORDS) < np.arange(IMAGES)[:, None] % (WORDS + 1)).astype(float)
"""from no word at all to as many as there may be"""
BUDGETS = (2, 9, 24)


@pytest.fixture(scope="module")
def scorer() -> Any:
    return by_chance("covipal", WIDTH, WIDTH)


def formula(x: Floats, words: Floats, scorer: Scorer) -> Floats:
    """One image and the words alone -> the share of each patch."""
    w = {name: value.double().numpy() for name, value in scorer.state_dict().items()}

    def made(z: Floats, norm: str, part: str) -> Floats:
        z = (z - z.mean(axis=1, keepdims=True)) / np.sqrt(z.var(axis=1, keepdims=True) + 1e-5)
        z = z * w[f"{norm}.weight"] + w[f"{norm}.bias"]
        return np.asarray(z @ w[f"{part}.weight"].T + w[f"{part}.bias"])

    z = made(x, "patch_norm", "patch")
    if len(words):
        q, k, v = made(x, "patch_norm", "query"), made(words, "word_norm", "key"), made(words, "word_norm", "value")
        for head in range(4):
            own = slice(head * 32, head * 32 + 32)
            likely = np.exp(q[:, own] @ k[:, own].T / np.sqrt(32))
            z[:, own] += likely / likely.sum(axis=1, keepdims=True) @ v[:, own]
    gelu = z * (1 + torch.erf(torch.tensor(z) / 2**0.5).numpy()) / 2
    shares = np.exp(gelu @ w["last.weight"][0] + w["last.bias"])
    return np.asarray(shares / shares.sum())


def given(text: Floats = QUESTIONS, mask: Floats = MASK) -> dict[str, Tensor]:
    return {TEXT: torch.tensor(text).float(), TEXT_MASK: torch.tensor(mask).float()}


def both(method: Method, asked: dict[str, Tensor]) -> tuple[Selection, Selection]:
    """The static form and the official one, in float32."""
    x, beside = torch.tensor(ROWS).float(), {"given": asked}
    return method.select(Taps({}, x, x, (5, 8), 1, 1, **beside)), method.official(  # type: ignore[arg-type]
        Eager([], x, x, (5, 8), 1, **beside)  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("keep", BUDGETS)
def test_both_forms_equal_the_formula(scorer: Scorer, keep: int, judged: Callable[..., Verdict]) -> None:
    method = Method(keep, scorer, WORDS)
    static, official = both(method, given())
    for image in range(IMAGES):
        score = formula(ROWS[image], QUESTIONS[image, : int(MASK[image].sum())], scorer)
        for chosen in (static, official):
            assert chosen.picks is not None
            np.testing.assert_allclose(chosen.scores[image].numpy(), score, rtol=1e-4)
            assert chosen.picks[image].tolist() == np.argsort(-score)[:keep].tolist()
            assert chosen.indices[image].tolist() == sorted(chosen.picks[image].tolist())
    assert not judged(method, ROWS, official, static).reasons


def test_what_stands_in_rows_that_are_no_words_is_not_read(scorer: Scorer) -> None:
    other = np.where(MASK[..., None] > 0, QUESTIONS, DRAWN.normal(size=QUESTIONS.shape))
    for one, changed in zip(*(both(Method(9, scorer, WORDS), given(text)) for text in (QUESTIONS, other)), strict=True):
        assert torch.equal(one.indices, changed.indices)
        torch.testing.assert_close(one.scores, changed.scores, rtol=1e-6, atol=1e-6)


def test_neither_the_order_of_words_nor_saying_them_twice_changes_a_score(scorer: Scorer) -> None:
    """Each patch reads a mean over words; what stands where in a question is not seen."""
    three, every = QUESTIONS[:, :3], np.ones((IMAGES, 3))
    once = both(Method(9, scorer, 3), given(three, every))[0].scores
    for text, mask in ((three[:, ::-1].copy(), every), (three.repeat(2, axis=1), every.repeat(2, axis=1))):
        torch.testing.assert_close(both(Method(9, scorer), given(text, mask))[0].scores, once, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_graph_that_reads_all_rows_or_none_is_no_covipal(precision: str) -> None:
    def asked(mask: Callable[[Tensor], Tensor]) -> Callable[[Method, Taps], Selection]:
        def select(method: Method, taps: Taps) -> Selection:
            scores = method.scorer(taps.projected, taps.given[TEXT], mask(taps.given[TEXT_MASK])).softmax(dim=-1)
            indices, picks = ranked_top(scores, method.keep)
            return Selection(indices, scores, picks=picks)

        return select

    scenes = of_scenes()
    assert not scenes.judge("covipal", precision, scenes.run("covipal", precision, asked(lambda mask: mask))).reasons  # type: ignore[arg-type]
    for fault in (asked(torch.ones_like), asked(torch.zeros_like)):
        assert scenes.judge("covipal", precision, scenes.run("covipal", precision, fault)).reasons  # type: ignore[arg-type]


def test_its_text_is_the_whole_question_in_as_many_rows_as_the_option_says(scorer: Scorer) -> None:
    text, mask = Method(9, scorer, 5).ports
    assert (text.name, text.shape, text.blank, text.beside) == (TEXT, (5, "tokens"), 0.0, TEXT_MASK)
    assert (mask.name, mask.shape, mask.blank, mask.beside) == (TEXT_MASK, (5,), 0.0, TEXT)
    assert text.to_json()["whole"] is True
    assert Method(9, scorer).ports[1].shape == (64,)
    with pytest.raises(MethodError, match="option texts of covipal must be 1 or more, got 0"):
        Method(9, scorer, 0)


def test_of_a_model_of_another_width_it_is_refused(scorer: Scorer) -> None:
    encoder = encoders.load(open_checkpoint())
    with pytest.raises(MethodError, match="give --scorer, made by `edgeprune train covipal`"):
        build_method(Method, "covipal", encoder, 16)
    with pytest.raises(MethodError, match="reads projected features 32 wide, this encoder has 128; train one on it"):
        build_method(Method, "covipal", encoder, 16, scorer=scorer)
