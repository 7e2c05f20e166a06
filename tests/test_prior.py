"""What is known of each patch, into what a method ranks by: by numbers worked out by hand, and on an encoder."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from edgeprune.prior import Prior
from edgeprune.pruners import fastervlm
from edgeprune.reference import OfficialEncoder
from edgeprune.trace import PrunedEncoder, outputs
from tests.device import of_scenes

SCORES = [0.5, 0.2, 0.9, 0.1]
KEEP, PATCHES = 16, 144
USES = [Prior("mask"), Prior("mul"), Prior("fuse", 0.25)]


def both(prior: Prior, scores: list[float], known: list[float]) -> list[list[float]]:
    """By the static form and by the official one, of one image."""
    given = torch.tensor([scores]), torch.tensor([known])
    return [form(*given)[0].tolist() for form in (prior.ranked, prior.official)]


@pytest.mark.parametrize(
    ("prior", "known", "wanted"),
    [
        # lowered by 2 (.9 - .1) + .9 / 10
        (Prior("mask"), [0.0, 1.0, 0.0, 0.5], [-1.19, 0.2, -0.79, 0.1]),
        (Prior("mask"), [0.0, -1.0, 0.0, 0.0], [-1.19, -1.49, -0.79, -1.59]),
        (Prior("mul"), [0.0, 1.0, 2.0, -1.0], [0.0, 0.2, 1.8, -0.1]),
        # .75 of .5, .125, 1, 0 and .25 of 0, 1, .5, 1
        (Prior("fuse", 0.25), [0.0, 2.0, 1.0, 2.0], [0.375, 0.34375, 0.875, 0.25]),
        (Prior("fuse", 1.0), [0.0, 2.0, 1.0, 2.0], [0.0, 1.0, 0.5, 1.0]),
    ],
)
def test_both_forms_equal_what_was_worked_out_by_hand(prior: Prior, known: list[float], wanted: list[float]) -> None:
    for ranked in both(prior, SCORES, known):
        assert ranked == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("prior", USES[:2], ids=str)
def test_a_prior_of_ones_changes_nothing(prior: Prior) -> None:
    for ranked in both(prior, SCORES, [1.0] * 4):
        assert ranked == pytest.approx(SCORES)


def test_a_prior_that_is_alike_everywhere_adds_nothing_to_the_order() -> None:
    for known in (0.0, 1.0, 7.0):
        for ranked in both(Prior("fuse", 0.25), SCORES, [known] * 4):
            assert ranked == pytest.approx([0.375, 0.09375, 0.75, 0.0], abs=1e-6)


def test_scores_of_nothing_are_masked_all_the_same() -> None:
    for ranked in both(Prior("mask"), [0.0] * 4, [0.0, 1.0, 0.0, 1.0]):
        assert min(ranked[1], ranked[3]) > max(ranked[0], ranked[2])


def test_it_is_called_as_it_was_asked_for() -> None:
    assert [*map(str, USES)] == ["mask", "mul", "fuse:0.25"]
    assert all((prior.port.name, prior.port.blank) == ("prior", 1.0) for prior in USES)


def chosen(prior: Prior, known: torch.Tensor) -> list[dict[str, np.ndarray]]:
    """Outputs by name of two scenes, traced and by the reference."""
    device = of_scenes()
    encoder, method = dataclasses.replace(device.encoder, prior=prior), fastervlm.Method(KEEP)
    forms = [form(encoder, method).eval() for form in (PrunedEncoder, OfficialEncoder)]
    with torch.inference_mode():
        every = [form(device.pixels, known) for form in forms]
    return [{name: part.numpy() for name, part in zip(outputs(encoder, method), parts, strict=True)} for parts in every]


@pytest.mark.parametrize("prior", USES, ids=str)
def test_the_traced_encoder_keeps_what_the_reference_keeps(prior: Prior) -> None:
    known = torch.from_numpy(np.random.default_rng(8).integers(0, 3, (2, PATCHES)).astype(np.float32))
    static, official = chosen(prior, known)
    for name in ("indices", "picks"):
        np.testing.assert_array_equal(static[name], official[name])
    np.testing.assert_allclose(static["scores"], official["scores"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(static["tokens"], official["tokens"], rtol=1e-3, atol=1e-4)


def test_where_fewer_patches_than_are_kept_have_a_prior_the_best_of_the_others_fill_it_up() -> None:
    known = torch.zeros(2, PATCHES)
    wanted = list(range(70, 70 + KEEP // 2))
    known[:, wanted] = 1
    plain = chosen(Prior("mul"), torch.ones(2, PATCHES))[0]["scores"]
    for got in chosen(Prior("mask"), known):
        for image in range(2):
            others = [at for at in np.argsort(-plain[image]).tolist() if at not in wanted][: KEEP - len(wanted)]
            assert got["indices"][image].tolist() == sorted(wanted + others)
            assert sorted(got["picks"][image, : len(wanted)].tolist()) == wanted
