"""CDPruner against the official formulas, written here in numpy float64, each step from scratch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from edgeprune.errors import MethodError
from edgeprune.ports import ALIGNED, TEXT, TOKENS
from edgeprune.pruners import Eager, Selection, dpp
from edgeprune.pruners.cdpruner import Method
from edgeprune.runtime.parity import Verdict
from edgeprune.taps import Taps

Floats = NDArray[np.float64]
IMAGES, PATCHES, WIDTH = 36, 40, 32
DRAWN = np.random.default_rng(5)
JOINT, ROWS, TEXTS = (DRAWN.normal(size=(IMAGES, *shape)) for shape in ((PATCHES, WIDTH), (PATCHES, WIDTH), (WIDTH,)))
"""features in the joint space; rows behind the projector; questions"""
BUDGETS = (2, 9, 24)


def unit(x: Floats) -> Floats:
    return np.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True))


def greedily(kernel: Floats, keep: int) -> list[int]:
    """Of every next patch the determinant of the chosen ones with it, over that without it."""
    picks: list[int] = []
    for _ in range(keep):
        across = kernel[picks]
        left = kernel.diagonal() - (across * np.linalg.solve(across[:, picks], across)).sum(axis=0)
        left[picks] = -np.inf
        picks.append(int(left.argmax()))
    return picks


def paper(joint: Floats, x: Floats, text: Floats, keep: int) -> list[int]:
    """What is least like the text is most relevant; stretched to 0..1."""
    relevance = -(unit(joint) @ text)
    r = (relevance - relevance.min() + 1e-6) / (relevance.max() - relevance.min())
    return greedily(r[:, None] * (unit(x) @ unit(x).T) * r, keep)


def openvino(x: Floats, text: Floats, keep: int, weight: float) -> list[int]:
    """What is most like it, in the language model's space; each half of the raster by itself."""
    picks: list[int] = []
    half = len(x) // 2
    for start, end, count in ((0, half, keep // 2), (half, len(x), keep - keep // 2)):
        own = unit(x[start:end])
        relevance = own @ text
        r = (relevance - relevance.min()) / (relevance.max() - relevance.min())
        kernel = (1 - weight) * (own @ own.T) + weight * r[:, None] * (own @ own.T) * r
        picks += [start + pick for pick in greedily(kernel, count)]
    return picks


def both(method: Method, text: Floats, joint: Floats = JOINT, x: Floats = ROWS) -> tuple[Selection, Selection]:
    """The static form and the official one, in float32."""
    features, projected, asked = (torch.tensor(one).float() for one in (joint, x, text))
    given: dict[str, Any] = {"given": {TEXT: asked}}
    taps = Taps({}, features, projected, (5, 8), 1, 1, aligner=nn.Identity(), **given)
    return method.select(taps), method.official(Eager([], features, projected, (5, 8), 1, aligned=features, **given))


@pytest.mark.parametrize("keep", BUDGETS)
def test_both_forms_equal_the_papers_formula(keep: int, judged: Callable[..., Verdict]) -> None:
    method = Method(keep)
    static, official = both(method, TEXTS)
    for chosen in (static, official):
        assert chosen.picks is not None
        wanted = [paper(*each, keep) for each in zip(JOINT, ROWS, TEXTS, strict=True)]
        assert chosen.picks.tolist() == wanted
        assert chosen.indices.tolist() == [sorted(picks) for picks in wanted]
    assert not judged(method, ROWS, official, static).reasons


@pytest.mark.parametrize("weight", [0.5, 0.9])
@pytest.mark.parametrize("keep", BUDGETS)
def test_both_forms_equal_openvinos_formula(keep: int, weight: float, judged: Callable[..., Verdict]) -> None:
    method = Method(keep, "openvino", weight)
    static, official = both(method, TEXTS)
    for chosen in (static, official):
        assert chosen.picks is not None
        assert chosen.picks.tolist() == [openvino(*each, keep, weight) for each in zip(ROWS, TEXTS, strict=True)]
    assert not judged(method, ROWS, official, static).reasons


@pytest.mark.parametrize("length", [0.0, 0.7])
def test_a_text_that_all_patches_have_as_much_of_leaves_dpp(length: float) -> None:
    """The official code divides by a spread of nothing."""
    joint, text = np.sign(JOINT), np.zeros_like(TEXTS)  # all of one length, exactly
    joint[..., -1], text[:, -1] = 1, length
    x = torch.tensor(ROWS).float()
    wanted = dpp.Method(9).select(Taps({}, x, x, (5, 8), 1, 1))
    for chosen in both(Method(9), text, joint):
        assert torch.equal(chosen.indices, wanted.indices)
        torch.testing.assert_close(chosen.scores, wanted.scores)


def test_a_spread_that_is_little_of_the_text_is_not_stretched_to_all_there_is() -> None:
    """What is chosen is worth det(r cos r) = det(cos) prod(r^2), and no r is far from 1."""
    joint, text = np.sign(JOINT) + 1e-4 * JOINT, np.zeros_like(TEXTS)
    joint[..., -1] += 1 - np.sign(JOINT[..., -1])
    text[:, -1] = 0.7
    for chosen in both(Method(9), text, joint):
        for image, kept in enumerate(chosen.indices.tolist()):
            own = unit(ROWS[image, kept])
            worth = chosen.scores[image, kept].double().prod().item() / np.linalg.det(own @ own.T)
            assert 0.9 < worth < 1.001


def test_a_question_changes_what_is_kept() -> None:
    kept = [both(Method(9), text)[0].indices for text in (TEXTS, -TEXTS, np.zeros_like(TEXTS))]
    assert not any(torch.equal(*pair) for pair in (kept[:2], kept[1:]))


@pytest.mark.parametrize("form", ["paper", "openvino"])
def test_the_most_relevant_patch_counts_as_much_as_without_a_text(form: str) -> None:
    """Scores are factors of a determinant whose diagonal is 1 at most: the first pick of each part has nearly that."""
    for chosen in both(Method(8, form), TEXTS):
        assert chosen.picks is not None
        first = chosen.scores.gather(1, chosen.picks[:, [0, 4] if form == "openvino" else [0]])
        np.testing.assert_allclose(first.numpy(), 1, atol=1e-5)


def test_halves_share_the_budget_and_an_odd_one_goes_to_the_lower() -> None:
    assert Method(9, "openvino").parts(41) == [[0, 20, 4], [20, 41, 5]]
    assert Method(1, "openvino").parts(41) == [[20, 41, 1]]
    assert Method(9).parts(41) == [[0, 41, 9]]


def test_each_form_has_the_text_of_its_space() -> None:
    assert [Method(9, form).space for form in ("paper", "openvino")] == [ALIGNED, TOKENS]
    assert [Method(9, form).nests for form in ("paper", "openvino")] == [True, False]


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(MethodError, match=r"no form of cdpruner 'papr'; have openvino, paper\. Did you mean 'paper'"):
        Method(9, "papr")


@pytest.mark.parametrize("weight", [0.0, -0.5, 1.5, float("nan")])
def test_a_weight_out_of_range_is_refused(weight: float) -> None:
    with pytest.raises(MethodError, match=r"option weight of cdpruner must be in \(0, 1\], got"):
        Method(9, "openvino", weight)
