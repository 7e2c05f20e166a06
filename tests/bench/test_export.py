"""What an export takes beside a bare conversion of the same module. `make bench`; some five minutes for this file.

CLIP ViT-L/14-336 with LLaVA-1.5's projector, seeded weights, 64 of 576 tokens, float32, in one process, one after the
other. The bare one is torch.export and torch.onnx.export of the traced module, and the file; ours has the reference,
the probes, the checks and ONNX Runtime's verdict besides, and no baselines.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.export import Request, export_bundle
from edgeprune.pruners import fastervlm
from edgeprune.pruners._select import lower_take
from edgeprune.trace import PrunedEncoder

ROUNDS = 3
CONVERTS = ("read the checkpoint", "trace and export", "write the graphs")
"""what a bare conversion does, too"""


def bare(model: Path, output: Path) -> float:
    """Seconds, with the reading of the checkpoint, as ours has it, too."""
    start = time.perf_counter()
    encoder = encoders.load(open_checkpoint(str(model)))
    module, pixels = PrunedEncoder(encoder, fastervlm.Method(64)).eval(), torch.zeros(1, 3, 336, 336)
    with torch.no_grad():
        program = torch.export.export(module, (pixels,))
        program = program.run_decompositions({torch.ops.edgeprune.take.default: lower_take})  # ONNX does not know it
        converted = torch.onnx.export(program, dynamo=True, opset_version=18, verbose=False)
    assert converted is not None
    converted.save(output / "bare.onnx", external_data=True)
    return time.perf_counter() - start


def ours(model: Path, output: Path) -> tuple[float, dict[str, float]]:
    """Seconds, and those of each step."""
    begun = [("", start := time.perf_counter())]
    request = Request("fastervlm", "cpu", keep=64, model=str(model), output=output / "ours", baselines=False)
    export_bundle(request, lambda step: begun.append((step, time.perf_counter())))
    begun.append(("", time.perf_counter()))
    steps = {name: after - at for (name, at), (_, after) in pairwise(begun[1:])}
    return begun[-1][1] - start, steps


@pytest.fixture(scope="module")
def model(llava_7b_folder: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llava_7b_folder(tmp_path_factory.mktemp("llava-7b") / "model")


def test_reading_tracing_and_writing_take_at_most_1_35_of_a_bare_conversion(
    model: Path, tmp_path: Path, hold: Callable[..., None]
) -> None:
    """The proof comes on top: the reference on every probe and scene, and ONNX Runtime on every probe, are printed."""
    ratios, wholes = [], []
    for at in range(ROUNDS):
        place = tmp_path / str(at)
        place.mkdir()
        seconds = bare(model, place)
        gc.collect()
        whole, steps = ours(model, place)
        gc.collect()
        told = ", ".join(f"{name} {took:.1f}" for name, took in steps.items())
        print(f"bare {seconds:.1f} s, export {whole:.1f} s: {told}")
        wholes.append(whole / seconds)
        ratios.append(sum(steps[name] for name in CONVERTS) / seconds)
    hold("with the proof / bare conversion", wholes)
    hold("export / bare conversion", ratios, most=1.35)
