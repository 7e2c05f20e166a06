"""HAWK against the official formula, written here in numpy float64, head by head."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from edgeprune.encoders._keys import Keys
from edgeprune.errors import MethodError
from edgeprune.ports import QUERIES, TEXT
from edgeprune.pruners import Eager, Selection
from edgeprune.pruners.hawk import Method
from edgeprune.runtime.parity import Verdict
from edgeprune.taps import Taps

Floats = NDArray[np.float64]
IMAGES, PATCHES, WIDTH, HEADS, GROUPS, HEAD = 36, 40, 32, 6, 2, 8
DRAWN = np.random.default_rng(8)
ROWS, TEXTS = DRAWN.normal(size=(IMAGES, PATCHES, WIDTH)), DRAWN.normal(size=(IMAGES, HEADS * HEAD))
WEIGHTS = (0.5, 0.0, 0.2, 0.1, 0.15, 0.05)
BUDGETS = (2, 9, 24)


@pytest.fixture(scope="module")
def keyer() -> Keys:
    torch.manual_seed(4)
    keyer = Keys(WIDTH, HEADS, GROUPS, HEAD, eps=1e-6, bias=True)
    nn.init.uniform_(keyer.norm, 0.5, 2)
    return keyer.requires_grad_(False)


def formula(keyer: Keys, x: Floats, q: Floats, weights: tuple[float, ...]) -> Floats:
    """One image: projected features, the mean query -> the score of each patch, as src/hawk/pruning.py has it."""
    normed = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-6) * keyer.norm.numpy()
    keys = normed @ keyer.k_proj.weight.numpy().T + keyer.k_proj.bias.numpy()
    score = np.zeros(PATCHES)
    for head, weight in enumerate(weights):
        group = head // (HEADS // GROUPS)
        s = keys[:, group * HEAD : (group + 1) * HEAD] @ q[head * HEAD : (head + 1) * HEAD] / np.sqrt(HEAD)
        score += weight * s / np.linalg.norm(s) + 2 * abs(weight) / np.sqrt(PATCHES)
    return score


def both(keyer: Keys, method: Method, text: Floats = TEXTS) -> tuple[Selection, Selection]:
    """The static form and the official one, in float32."""
    x, given = torch.tensor(ROWS).float(), {TEXT: torch.tensor(text).float()}
    keys = keyer(x).reshape(IMAGES, PATCHES, GROUPS, HEAD)
    static = method.select(Taps({}, x, x, (5, 8), 1, 1, keyer=keyer, given=given))
    return static, method.official(Eager([], x, x, (5, 8), 1, language_keys=keys, given=given))


@pytest.mark.parametrize("weights", [(1 / HEADS,) * HEADS, WEIGHTS], ids=["uniform", "given"])
@pytest.mark.parametrize("keep", BUDGETS)
def test_both_forms_equal_the_formula(
    keep: int, weights: tuple[float, ...], keyer: Keys, judged: Callable[..., Verdict]
) -> None:
    method = Method(keep, "uniform" if weights != WEIGHTS else ",".join(map(str, weights)))
    static, official = both(keyer, method)
    wanted = [formula(keyer, *each, weights) for each in zip(ROWS, TEXTS, strict=True)]
    for chosen in (static, official):
        assert chosen.indices.tolist() == [sorted(np.argsort(-one)[:keep].tolist()) for one in wanted]
        np.testing.assert_allclose(chosen.scores.numpy(), wanted, rtol=1e-3, atol=1e-5)
    assert not judged(method, ROWS, official, static).reasons


def test_the_length_of_a_text_says_nothing(keyer: Keys) -> None:
    for one, longer in zip(both(keyer, Method(9)), both(keyer, Method(9), 50 * TEXTS), strict=True):
        torch.testing.assert_close(one.scores, longer.scores)


def test_a_head_that_finds_nothing_makes_nothing_of_rounding(keyer: Keys) -> None:
    for chosen in both(keyer, Method(9), 0 * TEXTS):
        torch.testing.assert_close(chosen.scores, torch.full_like(chosen.scores, 2 * PATCHES**-0.5))


def test_a_question_has_to_be_given() -> None:
    (port,) = Method(9).ports
    assert (port.blank, port.space) == (None, QUERIES)


def test_weights_are_read_of_a_file_and_stay_numbers(tmp_path: Path) -> None:
    path = tmp_path / "heads.json"
    path.write_text(json.dumps({"weights": [0.25, 0, 0.75]}))
    method = Method(9, str(path)).prepared(nn.Identity())
    assert method.options()["weights"] == "0.25,0,0.75"
    assert [one.departs[0].partition(",")[0] for one in (method, Method(9))] == [
        "weights of heads are those of option weights",
        "weights of heads are all alike",
    ]


@pytest.mark.parametrize("text", ["heavy", "1,,2", "1,nan", "0,0", ""])
def test_what_are_no_weights_is_refused(text: str) -> None:
    with pytest.raises(MethodError, match="option weights of hawk must be uniform, published, numbers with commas"):
        Method(9, text)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "heads.json"
    path.write_text("{}")
    with pytest.raises(MethodError, match=r"must be a file that `edgeprune calibrate --method hawk` wrote; .* is none"):
        Method(9, str(path)).prepared(nn.Identity())


def test_the_published_weights_are_of_28_heads_and_sum_to_one(keyer: Keys) -> None:
    """The second head of Qwen2.5-VL-7B counts a quarter, the 27th nothing."""
    published = Method(9, "published").prepared(nn.Identity())
    assert published.departs == ()
    weights = published._of_heads(28)
    assert float(weights.sum()) == pytest.approx(1)
    assert (int(weights.argmax()), float(weights[26])) == (1, 0)
    assert float(weights[1]) == pytest.approx(0.3 / 1.2616)
    with pytest.raises(MethodError, match=r"must be 6 numbers, .*, got 28"):
        published._of_heads(6)


def test_weights_of_many_heads_are_no_name_of_a_file() -> None:
    assert Method(9, ",".join(["0.123456"] * 128)).prepared(nn.Identity()).options()["weights"].count(",") == 127


def test_there_must_be_as_many_weights_as_heads(keyer: Keys) -> None:
    with pytest.raises(MethodError, match=r"option weights of hawk must be 6 numbers, .*, got 2"):
        both(keyer, Method(9, "1,2"))
