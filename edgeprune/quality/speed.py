"""Throughput and memory of the graphs that a detector and its scorer become: unpruned, and at each share kept.

The graphs take turns in ONNX Runtime on the CPU, one image at a time (`runtime.ledger.bench`); figures are medians,
and ratios are ratios of medians. Each graph's memory is measured in a process of its own.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from edgeprune import encoders, targets
from edgeprune.errors import EdgepruneError
from edgeprune.pruners import Method, none
from edgeprune.quality.sparse import SparseDetector
from edgeprune.runtime.backends.ort import open_session
from edgeprune.runtime.ledger.bench import measure
from edgeprune.trace import PrunedEncoder, outputs

__all__ = ["Speed", "measure_speed"]

TARGET = "cpu"
SECONDS = 300
"""for the runs of one graph in a process of its own"""

Show = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Speed:
    share: float
    """1 for the unpruned graph"""
    keep: int
    median_ms: float
    images_per_s: float
    ratio: float
    """median of the unpruned graph over this one's: above 1, pruning is faster"""
    multiply_adds: int
    """of the graph, one image"""
    peak_mib: float
    """the most memory that a process with this graph alone held"""


def measure_speed(
    detector: SparseDetector,
    shares: Sequence[float],
    *,
    threads: int | None = None,
    rounds: int | None = None,
    show: Show = lambda *_: None,
) -> tuple[Speed, ...]:
    """threads: of each graph, None for ONNX Runtime's own choice; rounds: as `measure` has them

    Raises EdgepruneError when a graph cannot be exported or run.
    """
    keeps = {1.0: detector.patches, **{share: detector.keep_of(share) for share in shares}}
    with tempfile.TemporaryDirectory() as scratch:
        graphs = _export(detector, keeps, Path(scratch), show)
        peaks = {}
        for at, (share, (path, _)) in enumerate(graphs.items()):
            show(at, len(graphs), "memory")
            peaks[share] = _peak_mib(path, threads)
        sessions = {f"{share:g}": open_session(path, threads=threads) for share, (path, _) in graphs.items()}
        noise = np.random.default_rng(0).standard_normal((1, 3, *detector.size), np.float32)
        times = measure(sessions, {name: {"pixel_values": noise} for name in sessions}, rounds, show)
        del sessions
    medians = {share: float(np.median(times[f"{share:g}"])) for share in keeps}
    return tuple(
        Speed(
            share=share,
            keep=keep,
            median_ms=1e3 * medians[share],
            images_per_s=1 / medians[share],
            ratio=medians[1.0] / medians[share],
            multiply_adds=graphs[share][1],
            peak_mib=peaks[share],
        )
        for share, keep in keeps.items()
    )


def _export(
    detector: SparseDetector, keeps: dict[float, int], folder: Path, show: Show
) -> dict[float, tuple[Path, int]]:
    """Share -> graph and its multiply-adds, written as a bundle has them: large weights once, for all graphs."""
    from edgeprune.export.cost import graph_cost
    from edgeprune.export.downgrade import TRACED_OPSET, downgrade
    from edgeprune.export.graph import to_onnx
    from edgeprune.export.storage import file_of, save_graphs

    target = targets.load(TARGET)
    encoder = encoders.load(detector.checkpoint, size=detector.size)
    example = torch.zeros(1, 3, *detector.size)
    models = {}
    for at, (share, keep) in enumerate(keeps.items()):
        show(at, len(keeps), "export")
        everything = share == 1.0
        method: Method = none.Method(keep) if everything else dataclasses.replace(detector.method, keep=keep)
        module, opset = PrunedEncoder(encoder, method), max(target.onnx.opset, TRACED_OPSET)
        model = to_onnx(module, example, outputs(encoder, method), opset=opset, ir_version=target.onnx.ir_version)
        models[share] = downgrade(model, target)
    names = {1.0: "encoder", **{share: f"baseline.{share:g}" for share in keeps if share != 1.0}}
    save_graphs(folder, {name: models[share] for share, name in names.items()})
    return {share: (folder / file_of(name), graph_cost(models[share].graph)) for share, name in names.items()}


def _peak_mib(graph: Path, threads: int | None) -> float:
    command = [sys.executable, "-m", "edgeprune.quality.peak", str(graph), *([] if threads is None else [str(threads)])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise EdgepruneError(f"{graph.name} did not run within {SECONDS} s; give a smaller --size") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
        raise EdgepruneError(f"{graph.name} cannot be run in a process of its own: {last}")
    return float(done.stdout)
