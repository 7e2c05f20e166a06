"""Two steps inside an encoder, the second on what the first left, by every reducer and score: the trace does what the
reference does.

Each reducer is exported and verified where there is time; tests/encoders/test_inside.py always exports one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from edgeprune import catalog, encoders, pruners
from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders import Encoder
from edgeprune.errors import MethodError
from edgeprune.export import Request, export_bundle
from edgeprune.export.manifest import rule_of
from edgeprune.fit import build_method
from edgeprune.fit_inside import build_reducer, parse_steps, with_inside
from edgeprune.reference import OfficialEncoder
from edgeprune.runtime.parity import Verdict, compare
from edgeprune.runtime.parity.stored import replayed
from edgeprune.trace import PrunedEncoder, outputs

Made = Callable[[str], tuple[Path, Encoder]]

REDUCERS = [one.name for one in catalog.reducers()]
ENCODERS = ["clip", "siglip vision", "dinov2 registers"]
NO_CLS = ("siglip vision",)
EXPORTED = [
    ("cells", "dinov2 registers"),
    ("nearest", "clip"),
    ("tome", "siglip vision"),
    ("pitome", "vit"),
    ("gtp", "deit"),
    ("zero_tprune", "dinov2"),
    ("adaptive_sparse", "vit"),
    ("token_transforming", "aimv2"),
    ("flowcut", "llava clip"),
    ("sta", "dinov2"),
    ("drop", "aimv2"),
]
KEEP, LAYERS = 12, 4


@pytest.fixture(scope="module")
def deep(made: Made, model_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The same kinds with four layers, so that there are two steps."""
    found: dict[str, tuple[Path, Encoder]] = {}

    def make(name: str) -> tuple[Path, Encoder]:
        if name not in found:
            from tests.encoders.conftest import ALL

            kind, (folder, _) = ALL[name], made(name)
            config: dict[str, Any] = {"num_hidden_layers": LAYERS, **kind.config}
            if "vision_config" in config:
                config = {**kind.config, "vision_config": {**config["vision_config"], "num_hidden_layers": LAYERS}}
            else:
                config["num_hidden_layers"] = LAYERS
            folder = model_folder(tmp_path_factory.mktemp("deep"), kind.architecture, kind.processor, **config)
            found[name] = folder, encoders.load(open_checkpoint(str(folder)), grid=kind.grid)
        return found[name]

    return make


def judged(encoder: Encoder, reducer: str, options: Mapping[str, str], schedule: str) -> Verdict:
    method = build_method(pruners.get("divprune"), "divprune", encoder, KEEP)
    built = build_reducer(encoder, reducer, method, "divprune", options)
    shorter = with_inside(encoder, reducer, built, parse_steps(schedule), method, origin=True)
    pixels = torch.randn(2, 3, *encoder.tower.image_size, generator=torch.Generator().manual_seed(5))
    names = outputs(shorter, method)
    with torch.inference_mode():
        official, chosen = OfficialEncoder(shorter, method).eval().choose(pixels)
        traced = PrunedEncoder(shorter, method).eval()(pixels)
    wanted, got = (
        {name: part.numpy() for name, part in zip(names, parts, strict=True)} for parts in (official, traced)
    )
    quantities = replayed({name: value.float().numpy() for name, value in chosen.quantities.items()})
    return compare(wanted, got, "float32", rule_of(method, shorter, 1), quantities, True)


@pytest.mark.parametrize(
    ("reducer", "kind"),
    [
        pytest.param(reducer, kind, marks=() if (i + j) % 3 == 0 else pytest.mark.slow)
        for i, reducer in enumerate(REDUCERS)
        for j, kind in enumerate(ENCODERS)
    ],  # each reducer always on one kind
)
def test_the_trace_does_what_the_reference_does_or_cls_is_missing(deep: Made, reducer: str, kind: str) -> None:
    _, encoder = deep(kind)
    steps = "1:24,2:14"
    if reducer in ("flowcut", "adaptive_sparse") and kind in NO_CLS:
        with pytest.raises(MethodError, match=rf"{reducer} reads the \[CLS\] row .* has no \[CLS\] token. Use .*tome"):
            judged(encoder, reducer, {}, steps)
        return
    verdict = judged(encoder, reducer, {}, steps)
    assert not verdict.reasons
    assert not verdict.wrong


@pytest.mark.parametrize("score", ["cls", "flowcut"])
def test_a_score_of_cls_is_refused_where_there_is_none(deep: Made, score: str) -> None:
    with pytest.raises(MethodError, match=r"cells reads the \[CLS\] row of the attention; siglip has no"):
        judged(deep("siglip vision")[1], "cells", {"score": score}, "1:20")


@pytest.mark.parametrize("score", ["column", "keys", "flowcut"])
def test_other_scores_do_too(deep: Made, score: str) -> None:
    assert not judged(deep("clip")[1], "cells", {"score": score}, "2:24,3:14").reasons


@pytest.mark.slow
@pytest.mark.parametrize(("reducer", "kind"), EXPORTED)
def test_it_is_exported_and_verified(deep: Made, tmp_path: Path, reducer: str, kind: str) -> None:
    folder, encoder = deep(kind)
    last = encoder.layer - 1
    done = export_bundle(
        Request(
            "divprune",
            "cpu",
            keep=KEEP,
            inside=reducer,
            schedule=f"{last - 1}:24,{last}:14",
            outputs=("origin",),
            model=str(folder),
            output=tmp_path / "bundle",
            baselines=False,
        )
    )
    assert done.manifest.outputs["origin"].shape == (1, encoder.patches)


def test_every_reducer_is_exported_somewhere() -> None:
    assert {reducer for reducer, _ in EXPORTED} == set(REDUCERS)
