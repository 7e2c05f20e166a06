"""Every target x the core methods x three kinds of encoder, on tiny seeded models: exported, linted, verified, built.

The lint, TensorRT-RTX's parser and ONNX Runtime are part of an export; RTX targets get their plan, too. Targets that
ask for the same trace share it here: what is theirs, from the older opset to the plan, is done for each of them.
Three cells are always run, a ninth of all with `make test-slow`, all of them with `make test-all`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import onnx_ir as ir
import pytest
import torch

from edgeprune import targets
from edgeprune.errors import MethodError
from edgeprune.export import Request, export_bundle, job
from edgeprune.export.engine import build_engine
from edgeprune.export.graph import to_onnx
from edgeprune.targets import Target

METHODS = ("fastervlm", "hiprune", "divprune")
KEEP = 12
OPTIONS = {"hiprune": {"alpha": "0.5"}}
"""so that a budget as small has anchors"""
SIZES: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
SIGLIP = {"image_processor_type": "SiglipImageProcessor", "size": {"height": 48, "width": 48}}
QWEN = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "patch_size": 4,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
QWEN_VISION = {
    "depth": 2, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2, "hidden_size": 32, "out_hidden_size": 48,
    "intermediate_size": 48, "window_size": 24, "fullatt_block_indexes": [1],
}  # fmt: skip
"""windows of 3x3 tokens"""
QWEN_TEXT = {
    "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "vocab_size": 64, "head_dim": 24, "bos_token_id": None, "eos_token_id": None,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 4, 4]},
}  # fmt: skip
QWEN_CONFIG: dict[str, Any] = {
    "vision_config": QWEN_VISION, "text_config": QWEN_TEXT,
    "image_token_id": 3, "video_token_id": 4, "vision_start_token_id": 5,
}  # fmt: skip


class Kind(NamedTuple):
    architecture: str
    processor: dict[str, Any] | None
    config: dict[str, Any]
    has_cls: bool
    grid: str | None = None


KINDS = {
    "clip": Kind("CLIPVisionModel", None, SIZES, True),
    "siglip": Kind("SiglipVisionModel", SIGLIP, SIZES, False),
    "qwen2.5-vl": Kind("Qwen2_5_VLForConditionalGeneration", QWEN, QWEN_CONFIG, False, "12x12"),
}
"""36 patches each, or tokens of 2x2 patches"""


ALWAYS = ("jetson-orin-jp51", "jetson-orin", "rtx-desktop")
"""targets of the cells that are always run: an old opset, a refusal, a plan"""


def covers(kind: int, method: int, target: int) -> bool:
    """Each target once, and each kind with each method on some target."""
    return target % (len(KINDS) * len(METHODS)) == kind * len(METHODS) + method


def marks_of(kind: int, method: int, target: int) -> Any:
    if not covers(kind, method, target):
        return pytest.mark.cells
    return () if targets.names()[target] in ALWAYS else pytest.mark.slow


CELLS = [
    pytest.param(kind, method, target, id=f"{kind}-{method}-{target}", marks=marks_of(i, j, k))
    for i, kind in enumerate(KINDS)
    for j, method in enumerate(METHODS)
    for k, target in enumerate(targets.names())
]


@pytest.fixture(scope="module")
def checkpoint(model_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """(kind) -> the folder of its checkpoint, made once."""
    made: dict[str, Path] = {}

    def find(name: str) -> Path:
        if name not in made:
            kind, folder = KINDS[name], tmp_path_factory.mktemp("checkpoint") / name
            made[name] = model_folder(folder, kind.architecture, kind.processor, **kind.config)
        return made[name]

    return find


Traces = dict[tuple[Any, ...], ir.Model]


@pytest.fixture(scope="module")
def traces() -> Traces:
    return {}


def shared(traces: Traces, *cell: object) -> Callable[..., ir.Model]:
    """to_onnx, with the models of before kept under the cell and all that tells one trace from another."""

    def convert(module: torch.nn.Module, example: torch.Tensor, outputs: Any, **options: Any) -> ir.Model:
        key = (*cell, example.dtype, *outputs, *(f"{name}={options[name]}" for name in sorted(options)))
        if key not in traces:
            traces[key] = to_onnx(module, example, outputs, **options)
        return traces[key].clone()

    return convert


@pytest.mark.parametrize(("kind", "method", "target"), CELLS)
def test_the_method_is_exported_for_the_target_or_refused_without_cls(
    checkpoint: Callable[[str], Path],
    traces: Traces,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    kind: str,
    method: str,
    target: str,
) -> None:
    device = targets.load(target)
    monkeypatch.setattr(job, "to_onnx", shared(traces, kind, method, device.onnx.greedy))
    request = Request(
        method,
        target,
        keep=KEEP,
        options=OPTIONS.get(method, {}),
        model=str(checkpoint(kind)),
        output=tmp_path / "out",
        grid=KINDS[kind].grid,
        baselines=False,
    )
    if method == "fastervlm" and not KINDS[kind].has_cls:
        with pytest.raises(MethodError, match=r"has no \[CLS\] token"):
            export_bundle(request)
        assert not list(tmp_path.iterdir())
        return
    exported = export_bundle(request)
    assert [report.passed for report in exported.reports] == [True]
    graph = ir.load(exported.folder / "encoder.onnx")
    assert (graph.opset_imports[""], graph.ir_version) == (device.onnx.opset, device.onnx.ir_version)
    assert exported.manifest.precision == device.onnx.float
    if device.engine.kind == "tensorrt-rtx":
        check_plan(exported.folder, device)


def check_plan(folder: Path, device: Target) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the graph is exported; no TensorRT-RTX here to build its plan")
    engine, file = build_engine(folder)
    assert device.gpu is not None
    assert engine.sm == device.gpu.sm
    assert (folder / f"encoder.{device.name}.plan").stat().st_size == file.size > 0
