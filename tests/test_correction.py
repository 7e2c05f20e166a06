"""A correction in front of a projector: folded where that begins with a linear layer, else a layer of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edgeprune.correction import Correction, folded, read_correction
from edgeprune.errors import ModelError, RequestError

WIDTH = 6


def correction(**made: Any) -> Correction:
    seeded = torch.Generator().manual_seed(1)
    weight, bias = torch.randn(WIDTH, WIDTH, generator=seeded), torch.randn(WIDTH, generator=seeded)
    return Correction(weight, bias, {"kind": "affine", **made})


PROJECTORS = {
    "two layers": nn.Sequential(nn.Linear(WIDTH, 8), nn.GELU(), nn.Linear(8, 4)),
    "one without a bias": nn.Linear(WIDTH, 4, bias=False),
    "a norm first": nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4)),
    "something without weights first": nn.Sequential(nn.GELU(), nn.Linear(WIDTH, 4)),
    "none": nn.Identity(),
}


@pytest.mark.parametrize("name", PROJECTORS)
def test_it_does_to_features_what_the_projector_does_to_corrected_ones(name: str) -> None:
    projector, found = PROJECTORS[name].eval().requires_grad_(False), correction()
    features = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(2))
    before = projector(features)
    torch.testing.assert_close(
        folded(projector, found)(features), projector(features @ found.weight.mT + found.bias), rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(projector(features), before, rtol=0, atol=0)  # the one that was given is as it was


def test_folded_it_has_no_more_weights() -> None:
    def weights(module: nn.Module) -> int:
        return sum(value.numel() for value in module.parameters())

    assert weights(folded(PROJECTORS["two layers"], correction())) == weights(PROJECTORS["two layers"])
    assert weights(folded(PROJECTORS["a norm first"], correction())) > weights(PROJECTORS["a norm first"])


def test_it_comes_back_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "correction.safetensors"
    path.write_bytes(correction(images=100).packed())
    found = read_correction(path)
    torch.testing.assert_close(found.weight, correction().weight, rtol=0, atol=0)
    assert found.made["images"] == 100


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no file"):
        read_correction(tmp_path / "none")
    path = tmp_path / "other.safetensors"
    path.write_bytes(b"x" * 100)
    with pytest.raises(ModelError, match="must be what `edgeprune calibrate` wrote"):
        read_correction(path)
    save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match=r"is not: it has no edgeprune\.correction"):
        read_correction(path)
    path.write_bytes(Correction(torch.full((2, 2), torch.nan), torch.zeros(2), {}).packed())
    with pytest.raises(ModelError, match="must hold a finite weight"):
        read_correction(path)


def test_one_for_another_export_is_refused_by_what_differs() -> None:
    found = correction(fits={"keep": 32, "steps": [[2, 70]]})
    found.check({"keep": 32, "steps": [(2, 70)]}, Path("c"))
    with pytest.raises(RequestError, match=r"was fitted for steps \[\[2, 70\]\], this export has \[\[2, 60\]\]"):
        found.check({"keep": 32, "steps": [(2, 60)]}, Path("c"))
