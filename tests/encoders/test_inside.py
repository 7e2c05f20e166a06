"""Every reducer on every kind of encoder shortens the sequence as the reference does, or is refused for what it lacks.

A token of several patches goes whole, rotary positions go along, and so do features of earlier layers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeprune.encoders import Encoder
from edgeprune.errors import MethodError
from edgeprune.export import Request, export_bundle
from edgeprune.export.manifest import rule_of
from edgeprune.fit_inside import build_reducer, with_inside
from edgeprune.pruners import get, inside
from edgeprune.reference import OfficialEncoder
from edgeprune.runtime.parity import compare
from edgeprune.schedule import Step
from edgeprune.trace import PrunedEncoder, outputs
from tests.encoders.kinds import COVERING, declared

Made = Callable[[str], tuple[Path, Encoder]]

REFUSED = {"qwen2.5 vl": "any number of tokens", "internvl": "any number of tokens"}
"""windows; squares of patches that do not stand side by side"""
KEEP = 12
EVERY = [name for name, kind in declared().items() if not kind.detects]
CELLS = [
    pytest.param(kind, reducer, marks=() if kind in COVERING and (i + j) % 4 == 0 else pytest.mark.slow)
    for i, kind in enumerate(sorted(EVERY, key=lambda kind: kind not in COVERING))
    for j, reducer in enumerate(inside.names())
]
"""in every run of the tests the covering kinds with a quarter of the reducers, each reducer with a quarter of them"""


def left(encoder: Encoder) -> int:
    """How many tokens the step leaves: two thirds."""
    return encoder.patches * 2 // 3


def shortened(encoder: Encoder, reducer: str, keep: int = KEEP) -> tuple[Encoder, object]:
    """With one step behind the first layer."""
    name = "fastervlm" if encoder.tower.has_cls else "divprune"
    method = get(name)(keep)  # type: ignore[call-arg]
    built = build_reducer(encoder, reducer, method, name)
    return with_inside(encoder, reducer, built, (Step(1, left(encoder)),), method, origin=True), method


@pytest.mark.parametrize(("kind", "reducer"), CELLS)
def test_the_sequence_shortens_as_the_reference_says_or_is_refused(made: Made, kind: str, reducer: str) -> None:
    _, encoder = made(kind)
    if kind in REFUSED:
        with pytest.raises(MethodError, match=REFUSED[kind]):
            shortened(encoder, reducer)
        return
    refused = [
        encoder.unit > 1 and inside.get(reducer).by_patch,
        not encoder.tower.has_cls and inside.get(reducer)().needs_cls,
    ]
    if any(refused):
        with pytest.raises(MethodError, match=r"is \d+ patches; use" if refused[0] else r"no \[CLS\] token"):
            shortened(encoder, reducer)
        return
    short, method = shortened(encoder, reducer)
    batch = 2 if encoder.tower.batched and not encoder.tiled else 1
    pixels = torch.randn(batch, 3, *encoder.tower.image_size, generator=torch.Generator().manual_seed(0))
    names = outputs(short, method)  # type: ignore[arg-type]
    with torch.inference_mode():
        traced = PrunedEncoder(short, method).eval()(pixels)  # type: ignore[arg-type]
        wanted, chosen = OfficialEncoder(short, method).eval().choose(pixels)  # type: ignore[arg-type]
    got, reference = ({name: one.numpy() for name, one in zip(names, given, strict=True)} for given in (traced, wanted))
    quantities = {name: one.numpy() for name, one in chosen.quantities.items()}
    verdict = compare(reference, got, "float32", rule_of(method, short), quantities)  # type: ignore[arg-type]
    assert verdict.passed, verdict.reasons
    assert verdict.decided
    assert verdict.within or verdict.tokens == batch * KEEP  # what differed within rounding is not judged behind it
    assert reference["trail.1"].shape == (batch, encoder.patches)
    assert np.isneginf(got["scores"]).sum() >= batch * (encoder.patches - left(encoder))


def test_tiles_that_are_one_pool_are_refused(made: Made) -> None:
    _, encoder = made("llava next siglip")
    with pytest.raises(MethodError, match="divprune chooses of all tiles"):
        build_reducer(encoder, "tome", get("divprune")(KEEP), "divprune", pooled=2)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("kind", "share"), [pytest.param("qwen3 vl", 2 / 3, marks=pytest.mark.slow), ("llava clip layers", 1 / 2)]
)
def test_it_is_exported_and_verified(made: Made, tmp_path: Path, kind: str, share: float) -> None:
    """share: half is the most that merge, where no row at an even place is left alone"""
    folder, encoder = made(kind)
    left = round(share * encoder.patches)
    request = Request(
        "fastervlm" if encoder.tower.has_cls else "divprune",
        "cpu",
        keep=KEEP,
        inside="tome",
        schedule=f"1:{left}",
        model=str(folder),
        output=tmp_path / "bundle",
        baselines=False,
        grid=None if encoder.tower.batched else "x".join(map(str, encoder.tower.grid)),
    )
    manifest = export_bundle(request).manifest  # raises when the graph and the reference disagree
    assert manifest.steps == ((1, left),)
    assert manifest.inside["reducer"] == "tome"
