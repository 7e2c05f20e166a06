"""Every method on every kind of encoder: exported, run by ONNX Runtime and verified, or refused for what is missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgeprune.catalog import Entry, Family, families, methods, refusal
from edgeprune.encoders import Encoder
from edgeprune.errors import MethodError
from edgeprune.export import Request, export_bundle
from edgeprune.fit import build_method
from edgeprune.pruners import get

Made = Callable[[str], tuple[Path, Encoder]]

CHECKPOINTS = {
    ("aimv2", ""): "aimv2",
    ("clip", ""): "clip",
    ("deit", ""): "deit",
    ("dinov2", ""): "dinov2 registers",
    ("dinov3", ""): "dinov3",
    ("internvl", ""): "internvl",
    ("llava", "a CLIP tower"): "llava clip",
    ("llava", "a SigLIP tower"): "llava siglip",
    ("llava_next", "a CLIP tower"): "llava next",
    ("llava_next", "a SigLIP tower"): "llava next siglip",
    ("llava_onevision", ""): "llava onevision",
    ("qwen2_5_vl", ""): "qwen2.5 vl",
    ("qwen2_vl", ""): "qwen2 vl",
    ("qwen3_vl", ""): "qwen3 vl",
    ("siglip", ""): "siglip vision",
    ("siglip2", ""): "siglip2",
    ("video_llava", ""): "video llava",
    ("vit", ""): "vit",
    ("yolos", ""): "yolos",
}
"""(family, tower) -> the tiny checkpoint that stands for it"""
OPTIONS = {"hiprune": {"alpha": "0.5"}, "received": {"layer": "1"}}
"""so that a budget as small has anchors, and a tower as small a layer behind it"""
REFUSALS = {
    "no [CLS]": r"no \[CLS\] token",
    "no two-layer projector": "two-layer projector",
    "no layers of any length": "whose layers must take any number of patches",
    "tokens dropped behind the encoder": "drops tokens behind the encoder",
}
"""the matrix's words -> the code's"""
KEEP = 12
CELLS = [
    pytest.param(family, method, id=f"{CHECKPOINTS.get((family.name, family.tower))}-{method.name}")
    for family in families()
    for method in methods()
]


def test_every_kind_of_encoder_has_a_checkpoint() -> None:
    assert {(family.name, family.tower) for family in families()} == set(CHECKPOINTS)


@pytest.mark.parametrize(("family", "method"), CELLS)
def test_the_method_works_or_is_refused_as_the_matrix_says(
    made: Made, scorer_file: Path, tmp_path: Path, family: Family, method: Entry
) -> None:
    folder, encoder = made(CHECKPOINTS[family.name, family.tower])
    keep, options = None if method.name == "none" else KEEP, OPTIONS.get(method.name, {})
    if reason := refusal(method, family):
        with pytest.raises(MethodError, match=REFUSALS[reason]):
            build_method(get(method.name), method.name, encoder, keep, options)
        return
    request = Request(
        method.name,
        "cpu",
        keep=keep,
        options=options,
        scorer=None if method.training_free else scorer_file,
        model=str(folder),
        output=tmp_path / "bundle",
        baselines=False,
        grid="x".join(map(str, encoder.tower.grid)) if not encoder.tower.batched or family.name == "siglip2" else None,
    )
    exported = export_bundle(request)  # raises when the graph and the reference disagree
    assert exported.manifest.outputs["indices"].shape == (1, keep or encoder.patches)


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
