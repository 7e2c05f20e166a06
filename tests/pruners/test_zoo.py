"""ZOO against Jacobians taken by differences, written here in numpy float64, and against the paper's own score."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from transformers.activations import ACT2FN

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.errors import MethodError
from edgeprune.fit import build_method
from edgeprune.pruners import Eager, Selection
from edgeprune.pruners.zoo import Method, Prepared
from edgeprune.runtime.parity import Verdict
from edgeprune.taps import Taps

Floats = NDArray[np.float64]
PATCHES, WIDTH = 24, 8
RANDOM = np.random.default_rng(0).normal(size=(2, PATCHES, WIDTH))
CASES = {
    "random": RANDOM,
    "one dominant": np.where(np.arange(PATCHES)[:, None] == 7, 5 * RANDOM, 1 + 0.1 * RANDOM),
    "two clusters": RANDOM[:, np.arange(PATCHES) % 2] + 1e-2 * RANDOM,
    "huge norms": 1e4 * RANDOM,
    "all equal": np.ones_like(RANDOM),
}
CLEAR = ("random", "one dominant")


def mlp(width: int, hidden: int, out: int, activation: str = "gelu") -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(width, hidden), ACT2FN[activation], nn.Linear(hidden, out))
    for name, value in layers.named_parameters():
        if name.endswith("weight"):
            nn.init.normal_(value, std=0.5)
    return layers.requires_grad_(False)


PROJECTOR = mlp(WIDTH, 12, 10)
erf = np.vectorize(math.erf)


def project(h: Floats, projector: nn.Sequential = PROJECTOR) -> Floats:
    """[..., C] -> [..., D], with the exact GELU"""
    w1, b1, w2, b2 = (value.double().numpy() for value in projector.parameters())
    z = h @ w1.T + b1
    return np.asarray(z * (1 + erf(z / math.sqrt(2))) / 2 @ w2.T + b2)


def sensitivity(h: Floats) -> Floats:
    """[N, C] -> [N], the root mean square of the Jacobian's products with directions of length 1."""
    step = 1e-4 * np.eye(h.shape[1])
    jacobians = (project(h[:, None] + step) - project(h[:, None] - step)) / 2e-4  # [N, C, D]
    return np.asarray(np.sqrt((jacobians**2).sum(axis=(1, 2)) / h.shape[1]))


def formula(h: Floats, keep: int) -> tuple[list[int], Floats]:
    """One image [N, C] -> picks, one after the other, and scores [N]"""
    x, sensed = project(h), sensitivity(h)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    spread = max(np.ptp(sensed), 1e-6 * sensed.max())
    relevance = (sensed - sensed.min()) / spread
    order: list[int] = []
    scores = np.full(len(h), -np.inf)
    for _ in range(keep):
        gains = relevance * (1 - (unit @ unit[order].T).max(axis=1)) if order else relevance.copy()
        gains[order] = -np.inf
        pick = int(gains.argmax())
        scores[pick] = gains[pick]
        order.append(pick)
    return order, scores


def both(h: Floats, keep: int, projector: nn.Sequential = PROJECTOR) -> tuple[Selection, Selection]:
    """The static form and the official one, in float32."""
    features = torch.tensor(h).float()
    projected, grid = projector(features), (1, h.shape[1])
    taps = Taps({}, features, projected, grid, prefix=1, depth=1, projector=projector)
    eager = Eager([], features, projected, grid, prefix=1, projector=projector)
    return Method(keep).prepared(projector).select(taps), Method(keep).official(eager)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("keep", [1, 2, 9, PATCHES])
def test_both_forms_equal_the_formula_but_for_ties(case: str, keep: int, judged: Callable[..., Verdict]) -> None:
    h = CASES[case]
    static, reference = both(h, keep)
    for chosen in (static, reference):
        assert not judged(Method(keep), PROJECTOR(torch.tensor(h).float()), reference, chosen).reasons
        for image in range(2) if case in CLEAR and keep <= 9 else ():
            order, scores = formula(h[image], keep)
            assert chosen.picks is not None
            assert chosen.picks[image].tolist() == order
            np.testing.assert_allclose(chosen.scores[image].numpy(), scores, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_the_closed_form_ranks_as_the_papers_finite_differences_do() -> None:
    """64 random directions of length 1, 0.01 to either side; Spearman's correlation of the two."""
    width, drawn = 64, np.random.default_rng(4)
    projector = mlp(width, 96, 80)
    h = drawn.normal(size=(200, width))
    directions = drawn.normal(size=(64, width))
    directions *= 0.01 / np.linalg.norm(directions, axis=1, keepdims=True)
    ahead, behind = (project(h[:, None] + sign * directions, projector) for sign in (1, -1))
    measured = np.linalg.norm((ahead - behind) / 0.02, axis=-1).mean(axis=1)
    closed = Method(1).prepared(projector).sensitivity(torch.tensor(h[None]).float(), projector)[0].numpy()
    ranks = np.stack([np.argsort(np.argsort(each)) for each in (closed, measured)])
    assert np.corrcoef(*ranks).min() > 0.95
    np.testing.assert_allclose(closed.mean(), measured.mean(), rtol=0.03)


@pytest.mark.parametrize("activation", ["gelu", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu"])
def test_any_activation_has_its_own_slope(activation: str) -> None:
    projector = mlp(WIDTH, 12, 10, activation)
    h = torch.tensor(RANDOM[0]).float()
    sensed = Method(1).prepared(projector).sensitivity(h[None], projector)[0]
    for row, got in zip(h, sensed, strict=True):
        jacobian: torch.Tensor = torch.func.jacrev(projector)(row)
        torch.testing.assert_close(got, torch.linalg.matrix_norm(jacobian) / WIDTH**0.5, rtol=1e-4, atol=1e-5)


def test_the_weights_are_no_option_of_the_method() -> None:
    assert Method(4).prepared(PROJECTOR).options() == {}


class Residual(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        changed: torch.Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return x + changed


@pytest.mark.parametrize(
    ("projector", "found"),
    [
        (nn.Identity(), "this one has Identity"),
        (nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8)), "Linear, LayerNorm, GELU"),
        (Residual(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8)), "computes something else"),
    ],
    ids=["identity", "norm", "residual"],
)
def test_another_projector_is_refused_with_a_way_out(projector: nn.Module, found: str) -> None:
    with pytest.raises(MethodError, match=rf"zoo reads a projector .*{found}.*use divprune"):
        Method(4).prepared(projector)


def test_what_it_needs_of_the_weights_is_computed_when_it_is_built() -> None:
    encoder = encoders.load(open_checkpoint())
    method = build_method(Method, "zoo", encoder, 4)
    assert isinstance(method, Prepared)
    assert [tuple(block.shape) for block in method.quadratic] == [(16 * at, 16) for at in range(1, 9)]
