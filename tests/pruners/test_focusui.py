"""FocusUI against the official formula, written here in numpy float64, each step from scratch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.errors import MethodError
from edgeprune.fit import build_method
from edgeprune.ports import LEARNED, TEXT
from edgeprune.pruners import Eager, Selection
from edgeprune.pruners.focusui import Expert, Method, Scorer
from edgeprune.runtime.parity import Verdict
from edgeprune.taps import Taps
from tests.learned import by_chance

Floats = NDArray[np.float64]
IMAGES, PATCHES, WIDTH, WORDS = 36, 40, 32, 7
DRAWN = np.random.default_rng(9)
ROWS, QUESTIONS = (DRAWN.normal(size=(IMAGES, count, WIDTH)) for count in (PATCHES, WORDS))
LENGTHS = 1 + np.arange(IMAGES) % WORDS
BUDGETS = (2, 9, 24)


@pytest.fixture(scope="module")
def scorer() -> Any:
    return by_chance("focusui", WIDTH, WIDTH)


def expert(z: Floats, module: Expert) -> Floats:
    """Rows of length 1 of one image, or of one question."""
    w = {name: value.double().numpy() for name, value in module.state_dict().items()}
    q, k, v = (z @ w[f"{name}.weight"].T + w[f"{name}.bias"] for name in ("query", "key", "value"))
    heads, each = [], WIDTH // 8
    for head in range(8):
        own = slice(head * each, head * each + each)
        logits = q[:, own] @ k[:, own].T / np.sqrt(each)
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        heads.append(shares / shares.sum(axis=1, keepdims=True) @ v[:, own])
    z = z + np.concatenate(heads, axis=1) @ w["output.weight"].T + w["output.bias"]
    z = (z - z.mean(axis=1, keepdims=True)) / np.sqrt(z.var(axis=1, keepdims=True) + 1e-5)
    up = (z * w["norm.weight"] + w["norm.bias"]) @ w["up.weight"].T + w["up.bias"]
    erf = torch.erf(torch.tensor(up) / 2**0.5).numpy()
    made = np.tanh((up * (1 + erf) / 2) @ w["down.weight"].T + w["down.bias"])
    return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True))


def asked(scorer: Scorer) -> torch.Tensor:
    """What the text side makes of the questions, each of as many words as it has."""
    rows = torch.arange(WORDS) < torch.tensor(LENGTHS)[:, None]
    with torch.inference_mode():
        return scorer.vectors(torch.tensor(QUESTIONS).float(), rows)


def both(method: Method, text: torch.Tensor) -> tuple[Selection, Selection]:
    """The static form and the official one, in float32."""
    x = torch.tensor(ROWS).float()
    given: dict[str, Any] = {"given": {TEXT: text}}
    return method.select(Taps({}, x, x, (5, 8), 1, 1, **given)), method.official(Eager([], x, x, (5, 8), 1, **given))


@pytest.mark.parametrize("keep", BUDGETS)
def test_both_forms_equal_the_formula(scorer: Scorer, keep: int, judged: Callable[..., Verdict]) -> None:
    method = Method(keep, scorer)
    static, official = both(method, asked(scorer))
    for image in range(IMAGES):
        words = expert(QUESTIONS[image, : LENGTHS[image]], scorer.texts)
        score = (expert(ROWS[image], scorer.patches) @ words.T).mean(axis=1)
        for chosen in (static, official):
            assert chosen.picks is not None
            np.testing.assert_allclose(chosen.scores[image].numpy(), score, rtol=1e-3, atol=1e-5)
            assert chosen.picks[image].tolist() == np.argsort(-score)[:keep].tolist()
            assert chosen.indices[image].tolist() == sorted(chosen.picks[image].tolist())
    assert not judged(method, ROWS, official, static).reasons


def test_rows_behind_the_last_word_of_a_question_are_not_read(scorer: Scorer) -> None:
    wanted = asked(scorer)
    for at in (0, 3, 6):
        alone = scorer.vector(torch.tensor(QUESTIONS[at, : LENGTHS[at]]).float())
        torch.testing.assert_close(alone, wanted[at], rtol=1e-4, atol=1e-5)


def test_a_question_changes_what_is_kept_and_its_opposite_keeps_the_others(scorer: Scorer) -> None:
    text, method = asked(scorer), Method(PATCHES // 2, scorer)
    kept, others = (both(method, one)[0].indices for one in (text, -text))
    assert all(not {*one} & {*other} for one, other in zip(kept.tolist(), others.tolist(), strict=True))


def test_it_cannot_do_without_a_question_in_the_space_of_its_own_text_side(scorer: Scorer) -> None:
    (port,) = Method(9, scorer).ports
    assert (port.name, port.shape, port.blank, port.space) == (TEXT, (LEARNED,), None, LEARNED)


def test_of_a_model_of_another_width_it_is_refused(scorer: Scorer) -> None:
    encoder = encoders.load(open_checkpoint())
    with pytest.raises(MethodError, match="give --scorer, made by `edgeprune train focusui`"):
        build_method(Method, "focusui", encoder, 16)
    with pytest.raises(MethodError, match="reads projected features 32 wide, this encoder has 128; train one on it"):
        build_method(Method, "focusui", encoder, 16, scorer=scorer)
