"""What attention is taken times, by position: fit and mask by hand, and both forms alike under them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from edgeprune import encoders, pruners
from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders import Encoder
from edgeprune.encoders._attention import recording
from edgeprune.fit import build_method
from edgeprune.pruners import Method
from edgeprune.reference import OfficialEncoder
from edgeprune.runtime.parity import Verdict, compare
from edgeprune.runtime.parity.stored import replayed
from edgeprune.trace import PrunedEncoder, outputs
from edgeprune.weighting import fitted, stored, unpadded
from tests.covering import of_methods
from tests.device import with_aligner

KEEP, PATCHES = 9, 36
PIXELS = torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(3))
ATTENDING = [name for name in pruners.names() if pruners.get(name).traits.attends]
OPTIONS = {"received": {"layer": "2"}, "hiprune": {"alpha": "0.5"}}


@pytest.fixture(scope="module")
def encoder(clip_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return with_aligner(encoders.load(open_checkpoint(str(clip_folder(tmp_path_factory.mktemp("clip")))), 4))


def method(encoder: Encoder, name: str) -> Method:
    return build_method(pruners.get(name), name, encoder, KEEP, {**OPTIONS.get(name, {}), "position": "fitted"})


def weighed(encoder: Encoder, own: Method) -> Encoder:
    """Weights that change every choice, some of them 0."""
    drawn = torch.Generator().manual_seed(7)
    weights = {layer: torch.rand(PATCHES, generator=drawn).square() for layer in own.layers(encoder.layer)}
    return replace(encoder, weighting={at: one * (torch.arange(PATCHES) % 7 > 0) for at, one in weights.items()})


def run(module: torch.nn.Module, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    with torch.inference_mode():
        return {name: part.numpy() for name, part in zip(names, module.eval()(PIXELS), strict=True)}


def judged(wanted: Encoder, got: Encoder, own: Method) -> Verdict:
    names = outputs(wanted, own)
    with torch.inference_mode():
        official, chosen = OfficialEncoder(wanted, own).eval().choose(PIXELS)
    reference = {name: part.numpy() for name, part in zip(names, official, strict=True)}
    quantities = replayed({name: value.float().numpy() for name, value in chosen.quantities.items()})
    device, whole = run(PrunedEncoder(got, own), names), bool(own.steps(wanted.layer))
    return compare(reference, device, "float32", own.rule(PATCHES), quantities, whole)


def attended(encoder: Encoder, layer: int, by_cls: bool) -> Tensor:
    """[B, N], by the maps themselves"""
    module = encoder.tower.attention[layer]
    with torch.inference_mode(), recording(encoder.tower.module, [module], written_out=True) as seen:
        encoder.tower.module(PIXELS, output_hidden_states=True)
    heads = seen.maps[module].double().mean(dim=1)[:, :, 1:]
    return heads[:, 0] if by_cls else heads.mean(dim=1)


@pytest.mark.parametrize(("name", "by_cls"), [("fastervlm", True), ("hiprune", False), ("idpruner", False)])
def test_a_weight_is_the_least_mean_over_that_of_its_position(encoder: Encoder, name: str, by_cls: bool) -> None:
    own = method(encoder, name)
    found = fitted(encoder, own, PIXELS)
    assert set(found) == set(own.layers(encoder.layer))
    for layer, weights in found.items():
        mean = attended(encoder, layer, by_cls).mean(dim=0)
        torch.testing.assert_close(weights.double(), mean.min() / mean, rtol=1e-4, atol=1e-6)
        assert float(weights.max()) == 1


def test_under_fitted_weights_every_position_gets_as_much_on_the_mean(encoder: Encoder) -> None:
    own = method(encoder, "fastervlm")
    weights = fitted(encoder, own, PIXELS)
    scores = torch.tensor(run(PrunedEncoder(replace(encoder, weighting=weights), own), outputs(encoder, own))["scores"])
    torch.testing.assert_close(scores.mean(dim=0), scores.mean().expand(PATCHES), rtol=1e-4, atol=1e-6)


def test_what_is_stored_is_what_the_graph_has(encoder: Encoder) -> None:
    weights = fitted(encoder, method(encoder, "fastervlm"), PIXELS)
    assert {int(layer): torch.tensor(one).tolist() for layer, one in stored(weights).items()} == {
        layer: one.tolist() for layer, one in weights.items()
    }


@pytest.mark.parametrize("name", of_methods(ATTENDING))
def test_both_forms_choose_by_weighed_attention(encoder: Encoder, name: str) -> None:
    if pruners.get(name).traits.needs_mlp:
        pytest.skip("this tower has no projector of two layers")
    own = method(encoder, name)
    within = weighed(encoder, own)
    verdict = judged(within, within, own)
    assert not verdict.reasons
    assert judged(within, encoder, own).reasons  # and without the weights it is caught


def test_the_kept_patches_are_the_highest_of_attention_times_weight(encoder: Encoder) -> None:
    own = method(encoder, "fastervlm")
    within = weighed(encoder, own)
    wanted = (attended(encoder, 3, True) * within.weighting[3]).topk(KEEP).indices.sort(dim=1).values
    assert run(PrunedEncoder(within, own), outputs(within, own))["indices"].tolist() == wanted.tolist()


@pytest.mark.parametrize("size", [(480, 640), (640, 480), (100, 640), (300, 300), (640, 7)])
def test_padding_is_what_more_than_half_of_a_patch_shows_nothing_of(size: tuple[int, int]) -> None:
    grid, cell = (6, 6), 20
    side = max(size)
    shown = np.zeros((side, side))
    top, left = (side - size[0]) // 2, (side - size[1]) // 2
    shown[top : top + size[0], left : left + size[1]] = 1
    large = shown[np.ix_(*[np.arange(cell * 6) * side // (cell * 6)] * 2)]
    share = large.reshape(6, cell, 6, cell).mean(axis=(1, 3)).flatten()
    clear = np.abs(share - 0.5) > 0.05
    np.testing.assert_array_equal(unpadded(grid, size).numpy()[clear], (share >= 0.5)[clear])


def test_where_too_few_patches_show_the_image_the_count_stays(encoder: Encoder) -> None:
    own = method(encoder, "fastervlm")
    mask = unpadded((6, 6), (100, 640))
    assert int(mask.sum()) < KEEP
    within = replace(encoder, weighting={3: mask})
    got = run(PrunedEncoder(within, own), outputs(within, own))
    assert got["indices"].shape == (3, KEEP)
    assert all(set(np.flatnonzero(mask.numpy())) <= set(kept) for kept in got["indices"].tolist())
    assert not judged(within, within, own).reasons
