"""Every method on every kind of encoder chooses as its reference does, or is refused for what is missing.

The same cells are exported, run by ONNX Runtime and verified: a few of them always, each method and each encoder with
`make test-slow`, all of them with `make test-all`, which also has those of `make test-slow` in float16.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from edgeprune.catalog import Entry, Family, families, methods, refusal
from edgeprune.encoders import Encoder
from edgeprune.errors import MethodError
from edgeprune.export import Exported
from edgeprune.fit import build_method
from edgeprune.pruners import Method, get
from edgeprune.pruners._scorer import load_scorer
from edgeprune.reference import OfficialEncoder
from edgeprune.trace import PrunedEncoder, outputs
from tests.device import with_aligner
from tests.encoders.kinds import declared
from tests.learned import scorer_of, written

Made = Callable[[str], tuple[Path, Encoder]]

STANDING = {name: kind for name, kind in declared().items() if kind.family}
CHECKPOINTS = {(kind.family, kind.tower): name for name, kind in STANDING.items()}
"""(family, tower) -> the tiny checkpoint that stands for it, as the families' own tests declare it"""
OPTIONS = {"hiprune": {"alpha": "0.5"}, "received": {"layer": "1"}, "cdpruner": {"form": "openvino"}}
"""so that a budget as small has anchors, a tower as small a layer behind it, and a question no CLIP"""
WINDOWED = {("qwen2_5_vl", "aot"): {"object_layer": "2", "last_layer": "2"}}
"""where some layers attend in windows: those that do not"""
REFUSALS = {
    "no [CLS]": r"no \[CLS\] token",
    "no two-layer projector": "two-layer projector",
    "no variable sequence length": "whose layers must take any number of patches",
    "tokens dropped behind the encoder": "drops tokens behind the encoder",
}
"""the matrix's words -> the code's"""
KEEP = 12
EXPORTED = {name: kind.exported for name, kind in STANDING.items()}
"""the checkpoint -> the methods that are exported on it in `slow`, all others in `cells`: each method, each encoder,
and what went wrong before: tiles in one pool, attention in windows, grouped patches, positions, extras, drops inside,
merges, tokens that are averages, and detectors"""
ALWAYS = (
    *("siglip vision-uniform", "dinov3-visionzip", "qwen3 vl-hiprune", "llava next-bavit", "llava onevision-dart"),
    "internvl-fastervlm",
)
"""exported in every run of the tests, one of what went wrong before: drops inside, weighed merges behind angles,
extras, tiles, tiles in one pool, grouped patches; windows are in test_qwen.py, detectors in tests/runtime"""


def covers(family: Family, method: Entry) -> bool:
    return method.name in EXPORTED[CHECKPOINTS[family.name, family.tower]].split()


def name_of(family: Family, method: Entry) -> str:
    return f"{CHECKPOINTS.get((family.name, family.tower))}-{method.name}"


ELSEWHERE = ("desap", "hawk", "hiprune_text", "sppruner", "trim")
"""with a CLIP beside the encoder, or the language model behind it: tests/export/test_asked.py exports them"""

PAIRS = [(family, method) for family in families() for method in methods()]
WORKING = [(one, method) for one, method in PAIRS if not refusal(method, one) and method.name not in ELSEWHERE]
COVERING = [pair for pair in WORKING if covers(*pair)]
REFUSED = {refusal(method, one): (one, method) for one, method in reversed(PAIRS) if refusal(method, one)}
"""the first pair that is refused for each reason"""


def test_every_kind_of_encoder_has_a_checkpoint() -> None:
    assert {(family.name, family.tower) for family in families()} == set(CHECKPOINTS)


def test_each_method_and_each_encoder_is_exported_somewhere() -> None:
    assert {(family.name, family.tower) for family, _ in COVERING} == {(one.name, one.tower) for one in families()}
    assert {method.name for _, method in COVERING} == {one.name for one in methods()} - {*ELSEWHERE}
    assert len(COVERING) == sum(len(names.split()) for names in EXPORTED.values())  # none of them is refused
    assert {*ALWAYS} <= {name_of(*pair) for pair in COVERING}


def tiles_of(method: Entry, encoder: Encoder) -> int:
    """Where they make one pool of candidates a thumbnail and its parts, as many as the image processor can make."""
    parts = 2 if encoder.family == "llava_onevision" else 3
    return parts if encoder.pools and get(method.name).traits.pools_tiles else 1


def options_of(family: Family, method: Entry) -> dict[str, str]:
    return WINDOWED.get((family.name, method.name), OPTIONS.get(method.name, {}))


def budget_of(method: Entry) -> int | None:
    return None if method.name == "none" else KEEP


@pytest.mark.parametrize(
    ("family", "method"),
    [
        pytest.param(*pair, id=name_of(*pair), marks=() if pair in (*COVERING, *REFUSED.values()) else pytest.mark.slow)
        for pair in PAIRS
    ],
)
def test_the_method_chooses_as_the_reference_does_or_is_refused_as_the_matrix_says(
    made: Made, scorer_file: Path, family: Family, method: Entry
) -> None:
    _, encoder = made(CHECKPOINTS[family.name, family.tower])
    keep, options = budget_of(method), options_of(family, method)
    if reason := refusal(method, family):
        with pytest.raises(MethodError, match=REFUSALS[reason]):
            build_method(get(method.name), method.name, encoder, keep, options)
        return
    tiles = tiles_of(method, encoder)
    scorer: Any = scorer_of(method.name, encoder)
    if method.traits.needs_scorer and scorer is None:
        scorer = load_scorer(scorer_file)
    encoder = with_aligner(encoder) if method.traits.asks else encoder
    built = build_method(get(method.name), method.name, encoder, keep, options, tiles, scorer)
    chooses_as_the_reference(encoder, built, torch.randn(tiles, 3, *encoder.tower.image_size, generator=seeded(0)))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def chooses_as_the_reference(encoder: Encoder, method: Method, pixels: Tensor) -> None:
    """The same scores and, up to ties, patches; at the patches that both keep the same of everything else."""
    names = outputs(encoder, method)
    with torch.inference_mode():
        traced = dict(zip(names, PrunedEncoder(encoder, method).eval()(pixels), strict=True))
        wanted = dict(zip(names, OfficialEncoder(encoder, method).eval()(pixels), strict=True))
    scores = wanted["scores"]
    largest = float(scores.nan_to_num(neginf=0).abs().amax())  # what rounding goes by, where scores are differences
    torch.testing.assert_close(traced["scores"], scores, rtol=1e-4, atol=1e-5 * max(1, largest))
    for image, (kept, right) in enumerate(zip(traced["indices"], wanted["indices"], strict=True)):
        both = [at for at in kept.tolist() if at in right]
        different = scores[image, [at for at in (*kept.tolist(), *right.tolist()) if at not in both]]
        torch.testing.assert_close(different, different[:1].expand_as(different), rtol=1e-4, atol=1e-5)
        ours, theirs = torch.isin(kept, kept.new_tensor(both)), torch.isin(right, right.new_tensor(both))
        for name in names:
            if name in ("logits", "pred_boxes"):
                one, other = traced[name][image], wanted[name][image]
            elif name == "positions":
                one, other = traced[name][:, ours], wanted[name][:, theirs]
            elif name in ("indices", "scores", *method.traits.emits):  # the order of choice is for parity to judge
                continue
            else:
                one, other = traced[name][image, ours], wanted[name][image, theirs]
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def marks_of(family: Family, method: Entry) -> Any:
    if name_of(family, method) in ALWAYS:
        return ()
    return pytest.mark.slow if (family, method) in COVERING else pytest.mark.cells


@pytest.fixture
def exported(
    made: Made, cell: Callable[..., Exported], scorer_file: Path, tmp_path: Path, family: Family, method: Entry
) -> Callable[..., Exported]:
    """(**more fields of a Request) -> the method on that encoder, which is verified as it is exported"""
    name = CHECKPOINTS[family.name, family.tower]
    _, encoder = made(name)
    own: dict[str, Any] = {"tiles": tiles_of(method, encoder)} if encoder.tiled else {}
    own |= {"options": options} if (options := options_of(family, method)) else {}
    if method.traits.needs_scorer:
        own |= {"scorer": written(method.name, encoder, tmp_path / "scorer.safetensors") or scorer_file}
    return lambda **more: cell(name, method.name, budget_of(method), **own, **more)


@pytest.mark.parametrize(
    ("family", "method"),
    [pytest.param(*pair, id=name_of(*pair), marks=marks_of(*pair)) for pair in WORKING],
)
def test_the_method_is_exported_and_verified(
    made: Made, exported: Callable[..., Exported], family: Family, method: Entry
) -> None:
    patches = made(CHECKPOINTS[family.name, family.tower])[1].patches
    assert exported().manifest.outputs["indices"].shape == (1, budget_of(method) or patches)


@pytest.mark.cells
@pytest.mark.parametrize(("family", "method"), [pytest.param(*pair, id=name_of(*pair)) for pair in COVERING])
def test_half_precision_decides_nothing_wrongly(exported: Callable[..., Exported]) -> None:
    half = exported(precision="float16")
    assert half.manifest.precision == "float16"
    assert half.reports
    assert all(report.passed for report in half.reports)


@pytest.mark.parametrize(("family", "place"), [("siglip", "siglip vision"), ("siglip2", "siglip2")])
def test_what_a_refusal_for_want_of_cls_offers_instead_is_not_refused_for_its_place(
    made: Made, family: str, place: str
) -> None:
    (found,) = (one for one in families() if one.name == family)
    with pytest.raises(MethodError) as error:
        build_method(get("fastervlm"), "fastervlm", made(place)[1], KEEP)
    offered = set(str(error.value).rpartition("Use ")[2].split(", "))
    works = {one.name for one in methods() if refusal(one, found) in ("", "no two-layer projector")}
    assert offered == works - {"none"}
