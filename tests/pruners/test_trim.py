"""TRIM against the official formula, written here in numpy float64, patch by patch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from edgeprune.ports import ALIGNED, TEXT
from edgeprune.pruners import Eager, Selection
from edgeprune.pruners.trim import Method
from edgeprune.runtime.parity import Verdict
from edgeprune.taps import Taps

Floats = NDArray[np.float64]
IMAGES, PATCHES, WIDTH, JOINT = 36, 40, 24, 16
DRAWN = np.random.default_rng(7)
FEATURES, TEXTS = DRAWN.normal(size=(IMAGES, PATCHES, WIDTH)), DRAWN.normal(size=(IMAGES, JOINT))
PROJECTION = DRAWN.normal(size=(JOINT, WIDTH))
BUDGETS = (2, 9, 24)


def formula(h: Floats, text: Floats, keep: int) -> tuple[list[int], Floats]:
    """One image: features, question -> the patches that are kept as they are, and the tokens in front of the projector
    as the official code hands them out: those patches in raster order, the mean of the others last."""
    logits = -(h @ PROJECTION.T @ text)
    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    kept = sorted(np.argsort(-shares, kind="stable")[: keep - 1].tolist())
    return kept, np.concatenate((h[kept], np.delete(h, kept, axis=0).mean(axis=0, keepdims=True)))


def both(method: Method, text: Floats = TEXTS) -> tuple[Selection, Selection]:
    """The static form and the official one, in float32."""
    h, aligner = torch.tensor(FEATURES).float(), nn.Linear(WIDTH, JOINT, bias=False).requires_grad_(False)
    aligner.weight.copy_(torch.tensor(PROJECTION))
    given: dict[str, Any] = {"given": {TEXT: torch.tensor(text).float()}}
    taps = Taps({}, h, h, (5, 8), 1, 1, aligner=aligner, **given)
    return method.select(taps), method.official(Eager([], h, h, (5, 8), 1, aligned=aligner(h), **given))


@pytest.mark.parametrize("keep", [1, *BUDGETS, PATCHES])
def test_both_forms_equal_the_formula(keep: int, judged: Callable[..., Verdict]) -> None:
    method = Method(keep)
    static, official = both(method)
    for chosen in (static, official):
        assert chosen.picks is not None
        assert chosen.merge is not None
        tokens = (chosen.merge @ torch.tensor(FEATURES).float()).numpy()
        for image in range(IMAGES):
            kept, wanted = formula(FEATURES[image], TEXTS[image], keep)
            assert sorted(chosen.picks[image, :-1].tolist()) == kept
            mean = chosen.indices[image].tolist().index(int(chosen.picks[image, -1]))
            ours = np.concatenate((np.delete(tokens[image], mean, axis=0), tokens[image, [mean]]))
            np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-5)
    assert not judged(method, FEATURES, official, static).reasons


def test_the_mean_stands_in_the_place_of_the_best_of_the_others() -> None:
    for chosen in both(Method(9)):
        ranked = chosen.scores.argsort(dim=1, descending=True)
        assert chosen.picks is not None
        assert chosen.origin is not None
        assert torch.equal(chosen.picks, ranked[:, :9])
        members = (chosen.origin.unsqueeze(1) == torch.arange(9)[:, None]).sum(dim=2)
        place = (chosen.indices == chosen.picks[:, -1:]).int()
        assert torch.equal(members, 1 + (PATCHES - 9) * place)


def test_how_long_a_question_is_changes_nothing() -> None:
    for one, longer in zip(both(Method(9)), both(Method(9), 8 * TEXTS), strict=True):
        assert torch.equal(one.indices, longer.indices)


def test_a_question_has_to_be_given() -> None:
    (port,) = Method(9).ports
    assert (port.blank, port.space) == (None, ALIGNED)
