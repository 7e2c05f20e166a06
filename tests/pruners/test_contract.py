"""What every method promises, over all of them: the static form, on a real encoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from edgeprune import encoders, pruners
from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders import Encoder
from edgeprune.errors import MethodError, RequestError
from edgeprune.fit import build_method
from edgeprune.pruners import Method
from edgeprune.pruners._scorer import Scorer
from edgeprune.reference import OfficialEncoder
from edgeprune.runtime.parity import compare
from edgeprune.runtime.parity.stored import replayed
from edgeprune.trace import PrunedEncoder, outputs
from tests.covering import of_methods
from tests.device import asked, with_aligner
from tests.learned import scorer_of

PATCHES, WIDTH, SIDE = 81, 48, 72
Build = Callable[[int], Method]
BUDGETS = (1, 2, 29, 64, PATCHES - 1, PATCHES)
FEW = {"cdpruner": 8}
"""patches of noise span few directions: behind them rounding, which a batch changes, says what a determinant picks"""


@pytest.fixture(scope="module")
def encoder(llava_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    folder = llava_folder(tmp_path_factory.mktemp("llava"), image_size=SIDE)
    return with_aligner(encoders.load(open_checkpoint(str(folder))))


@pytest.fixture(params=of_methods(pruners.names()))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def build(encoder: Encoder, name: str, make_scorer: Callable[..., Scorer]) -> Build:
    """keep -> the method, with a seeded scorer where it has trained weights"""
    kind = pruners.get(name)
    scorer: Any = scorer_of(name, encoder)
    if kind.traits.needs_scorer and scorer is None:
        scorer = make_scorer(grid=encoder.grid)
    return lambda keep: build_method(kind, name, encoder, keep, scorer=scorer)


def run(encoder: Encoder, method: Method, pixels: Tensor) -> tuple[Tensor, ...]:
    with torch.inference_mode():
        given: tuple[Tensor, ...] = PrunedEncoder(encoder, method).eval()(
            pixels, *beside(encoder, method, pixels).values()
        )
    return given


def beside(encoder: Encoder, method: Method, pixels: Tensor) -> dict[str, Tensor]:
    """One text for all images, where the method is given one."""
    return asked(encoder, method, pixels, [1] * len(pixels))


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def budgets(name: str) -> tuple[int, ...]:
    return (PATCHES,) if name == "none" else BUDGETS


def test_every_budget_gives_exactly_that_many_tokens(encoder: Encoder, name: str, build: Build, pixels: Tensor) -> None:
    for keep in budgets(name):
        tokens, indices, scores, *_ = run(encoder, build(keep), pixels)
        assert tokens.shape == (3, keep, WIDTH)
        assert indices.shape == (3, keep)
        assert scores.shape == (3, PATCHES)


def test_indices_are_int32_distinct_ascending_and_on_the_grid(
    encoder: Encoder, name: str, build: Build, pixels: Tensor
) -> None:
    for keep in budgets(name):
        _, indices, *_ = run(encoder, build(keep), pixels)
        assert indices.dtype == torch.int32
        assert bool((indices.diff(dim=1) > 0).all())
        assert int(indices.min()) >= 0
        assert int(indices.max()) < PATCHES


def test_scores_are_float32_and_finite(encoder: Encoder, name: str, build: Build, pixels: Tensor) -> None:
    scores = run(encoder, build(budgets(name)[-1]), pixels)[2]
    assert scores.dtype == torch.float32
    assert bool(torch.isfinite(scores).all())


@pytest.mark.parametrize(
    "name", of_methods(one for one in pruners.names() if pruners.get(one).traits.ranks), indirect=True
)
def test_scores_that_rank_rows_hang_on_no_budget(encoder: Encoder, name: str, build: Build, pixels: Tensor) -> None:
    first, *others = (run(encoder, build(keep), pixels)[2] for keep in BUDGETS)
    assert bool(torch.isfinite(first).all())
    assert all(torch.equal(first, one) for one in others)


def test_a_batch_is_its_images_one_by_one(encoder: Encoder, name: str, build: Build, pixels: Tensor) -> None:
    keep = FEW.get(name, budgets(name)[len(budgets(name)) // 2])
    together = run(encoder, build(keep), pixels)
    for at in range(3):
        alone = run(encoder, build(keep), pixels[at : at + 1])
        assert torch.equal(together[1][at], alone[1][0])
        torch.testing.assert_close(together[0][at], alone[0][0], rtol=1e-4, atol=1e-5)


def test_two_runs_agree_bit_for_bit(encoder: Encoder, name: str, build: Build, pixels: Tensor) -> None:
    keep = budgets(name)[0]
    assert all(torch.equal(*pair) for pair in zip(*(run(encoder, build(keep), pixels) for _ in range(2)), strict=True))


def test_the_static_form_equals_the_official_one(encoder: Encoder, name: str, build: Build, pixels: Tensor) -> None:
    for keep in budgets(name):
        method = build(keep)
        names = outputs(encoder, method)
        with torch.inference_mode():
            reference = OfficialEncoder(encoder, method).eval()
            official, chosen = reference.choose(pixels, given=beside(encoder, method, pixels))
        wanted, got = (
            {name: part.numpy() for name, part in zip(names, parts, strict=True)}
            for parts in (official, run(encoder, method, pixels))
        )
        quantities = replayed({key: value.float().numpy() for key, value in chosen.quantities.items()})
        verdict = compare(wanted, got, "float32", method.rule(PATCHES), quantities, bool(method.steps(encoder.layer)))
        assert not verdict.reasons


def test_a_budget_beyond_the_grid_is_refused_not_clamped(build: Build) -> None:
    for keep in (0, -1, PATCHES + 1):
        with pytest.raises(RequestError, match=rf"keep must be in 1\.\.{PATCHES} for {PATCHES} patches, got {keep}"):
            build(keep)


@pytest.mark.parametrize("name", pruners.names())
def test_the_file_names_its_formula_and_source(name: str) -> None:
    import importlib

    head = importlib.import_module(f"edgeprune.pruners.{name}").__doc__ or ""
    assert head.split("\n")[0].casefold().startswith(name)
    assert name == "none" or "Source" in head


def test_an_unknown_method_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(MethodError, match=r"no method 'fastervml'; have .* Did you mean 'fastervlm'"):
        pruners.get("fastervml")


def test_what_is_ours_is_not_called_by_a_papers_name_without_the_word() -> None:
    assert pruners.deviations(pruners.get("pool")(8), tiled=False)[0] == "pool is ours, not a paper's"  # type: ignore[call-arg]
    assert pruners.deviations(pruners.get("none")(8), tiled=False) == ()  # type: ignore[call-arg]


def test_what_departs_on_tiles_is_said_of_tiles_alone() -> None:
    method = pruners.get("divprune")(8)  # type: ignore[call-arg]
    alone, tiles = (pruners.deviations(method, tiled) for tiled in (False, True))
    assert alone == ("divprune is written from: official code at vbdi/divprune@799e2d9", *method.traits.deviations)
    assert tiles == (*alone, *method.traits.on_tiles)
    for name in pruners.names():
        assert not [one for one in pruners.get(name).traits.deviations if "tile" in one], name
