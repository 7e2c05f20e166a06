"""On every kind of encoder a pruned half-precision graph decides nothing wrongly, and all its attention layers are one
kernel each, as TensorRT-RTX compiles them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgeprune.encoders import Encoder
from edgeprune.export import Exported, Request, export_bundle
from edgeprune.export.audit import audit
from tests.encoders.kinds import declared
from tests.encoders.test_matrix import KEEP

STANDING = {name: kind for name, kind in declared().items() if kind.family and not kind.detects}


THIS_YEAR = {
    **dict.fromkeys(
        ("gemma4 both ways", "glm46v", "glm ocr", "idefics3", "lighton ocr", "qwen3 vl moe", "qwen3.5 moe"), "divprune"
    ),
    **{"cosmos3 omni": "divprune", "pixtral": "hiprune", "radio": "fastervlm"},
}
"""what stands for no family of its own, or is exported with another method: that"""


@pytest.mark.slow
@pytest.mark.parametrize("name", THIS_YEAR)
def test_case_half_precision_decides_nothing_wrongly(cell: Callable[..., Exported], name: str) -> None:
    reports = cell(name, THIS_YEAR[name], KEEP, precision="float16").reports
    assert reports
    assert all(report.passed for report in reports)


@pytest.mark.cells
@pytest.mark.parametrize("name", STANDING)
def test_every_attention_layer_is_one_kernel(
    made: Callable[[str], tuple[Path, Encoder]], name: str, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx")
    (folder, encoder), grid = made(name), STANDING[name].grid
    exported = export_bundle(
        Request(
            "divprune",
            "rtx-desktop",
            keep=KEEP,
            model=str(folder),
            output=tmp_path / "bundle",
            baselines=False,
            grid=grid and f"{grid[0]}x{grid[1]}",
        )
    )
    assert exported.reports
    assert all(report.passed for report in exported.reports)
    found = audit(exported.folder / "encoder.onnx")
    assert len(found.layers) == encoder.layer + len(encoder.tower.before)
    assert [layer.why for layer in found.unfused] == []
