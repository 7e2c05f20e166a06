"""Kept sets that nest: what a budget of 32 keeps are the first 32 picks of a budget of 64, on every probe."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch

from edgeprune import encoders, pruners
from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders import Encoder
from edgeprune.export.precision import in_precision
from edgeprune.fit import build_method
from edgeprune.probes import probes
from edgeprune.reference import OfficialEncoder
from edgeprune.runtime.budgets import first_picks
from edgeprune.runtime.images.preprocess import Preprocessing
from edgeprune.runtime.parity import compare
from edgeprune.runtime.parity.stored import replayed
from edgeprune.trace import PrunedEncoder, outputs

Arrays = dict[str, np.ndarray]
KEEP, FEWER = 64, 32
NESTED = [name for name in pruners.names() if pruners.get(name).traits.nested]


@functools.cache
def tiny() -> Encoder:
    return encoders.load(open_checkpoint())


@functools.cache
def pixels() -> torch.Tensor:
    """[7, 3, H, W]: every probe, flat ones with nothing but ties among them."""
    size, mean, std = tiny().tower.image_size, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    steps = Preprocessing(size, {"height": size[0], "width": size[1]}, 3, None, 1 / 255, mean, std, True)
    return torch.from_numpy(np.stack([steps(image) for image in probes(size).values()]))


@functools.cache
def traced(name: str, keep: int, precision: str = "float32") -> Arrays:
    method = build_method(pruners.get(name), name, tiny(), keep)
    encoder, method = in_precision(tiny(), method, None, precision, False, "tiny")  # type: ignore[arg-type]
    with torch.inference_mode():
        found = PrunedEncoder(encoder, method).eval()(pixels().to(getattr(torch, precision)))
    return {key: part.numpy() for key, part in zip(outputs(encoder, method), found, strict=True)}


@functools.cache
def official(name: str, keep: int) -> tuple[Arrays, Arrays, dict[str, Any]]:
    """Outputs, quantities and rule."""
    method = build_method(pruners.get(name), name, tiny(), keep)
    with torch.inference_mode():
        found, chosen = OfficialEncoder(tiny(), method).eval().choose(pixels())
    wanted = {key: part.numpy() for key, part in zip(outputs(tiny(), method), found, strict=True)}
    quantities = replayed({key: value.float().numpy() for key, value in chosen.quantities.items()})
    return wanted, quantities, method.rule(tiny().patches)


def test_the_methods_that_say_so() -> None:
    assert NESTED == ["divprune", "dpp", "fastervlm", "idpruner", "random", "scope", "todre", "zoo"]


@pytest.mark.parametrize("form", ["traced", "official"])
@pytest.mark.parametrize("name", NESTED)
def test_a_smaller_budget_keeps_the_first_picks(name: str, form: str) -> None:
    whole, few = (traced(name, keep) if form == "traced" else official(name, keep)[0] for keep in (KEEP, FEWER))
    np.testing.assert_array_equal(few["picks"], whole["picks"][:, :FEWER])
    cut = first_picks(whole, FEWER, official(name, KEEP)[2]["name"] == "greedy")
    np.testing.assert_array_equal(cut["indices"], few["indices"])
    np.testing.assert_allclose(cut["scores"], few["scores"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(cut["tokens"], few["tokens"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("keep", [1, 8, 24, KEEP])
@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("name", NESTED)
def test_parity_holds_at_several_budgets_of_one_graph(name: str, precision: str, keep: int) -> None:
    wanted, quantities, rule = official(name, KEEP)
    first, got = (first_picks(one, keep, rule["name"] == "greedy") for one in (wanted, traced(name, KEEP, precision)))
    verdict = compare(first, got, precision, rule, quantities)
    assert not verdict.reasons
