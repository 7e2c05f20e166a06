"""What dropping background inside a detector buys. `make bench`; some ten minutes for this file.

YOLOS-S at 512x864 (1728 patches), seeded weights, float32, ONNX Runtime, two CPU threads. Each pruned graph takes turns
with two unpruned ones, whose positions are baked too, in one process with equal settings; ratios are of medians. One is
transformers' forward as it is; the other is ours, whose last layer runs on the detection tokens alone, as that of the
pruned graph does. The promise is against the first; the bound by multiply-adds is against the second, the fairer one.
Peak memory is that of a process that does nothing but open one graph of 800x1344 and run it. Both tables are printed.
"""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgeprune import encoders, pruners
from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders import Encoder
from edgeprune.export.cost import graph_cost
from edgeprune.export.graph import to_onnx
from edgeprune.export.storage import save_graphs
from edgeprune.fit import build_method
from edgeprune.pruners import none
from edgeprune.pruners._scorer import Scorer, ScorerConfig
from edgeprune.runtime.backends.ort import open_session
from edgeprune.runtime.ledger.bench import measure
from edgeprune.trace import PrunedEncoder, outputs

THREADS, PAIRS, ROUNDS = 2, 2, 4
SIZE, LARGE = (512, 864), (800, 1344)
LEAST = {
    ("front", 0.6): 1.5,
    ("front", 0.5): 1.7,
    ("coarse", 0.6): 1.75,
    ("coarse", 0.5): 2.2,
    ("trunk", 0.6): 1.6,
    ("trunk", 0.5): 1.85,
}
"""(scorer, share that is kept) -> times as fast as transformers' forward"""
NEAR_BOUND = 0.07
"""how far the ratio of times may be from that of multiply-adds, relative to it"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import YolosConfig, YolosForObjectDetection

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 384,
        "intermediate_size": 1536,
        "num_hidden_layers": 12,
        "num_attention_heads": 6,
    }
    model = YolosForObjectDetection(YolosConfig(**sizes, image_size=list(SIZE)))
    for value in model.parameters():
        nn.init.normal_(value, std=0.02)
    place = tmp_path_factory.mktemp("yolos-s")
    model.save_pretrained(place)
    (place / "preprocessor_config.json").write_text('{"image_processor_type": "YolosImageProcessor"}')
    return place


def scorer(kind: str, size: tuple[int, int]) -> Scorer:
    """Two layers, 384 wide with 6 heads, seeded; `trunk` behind layer 2."""
    torch.manual_seed(1)
    patch = 32 if kind == "coarse" else 16
    grid = size[0] // patch, size[1] // patch
    neutral = (0.5, 0.5, 0.5)
    return Scorer(ScorerConfig(kind, 2, 384, 6, 1536, patch, grid, neutral, neutral))  # type: ignore[arg-type]


def exported(encoder: Encoder, kind: str, share: float, folder: Path, hoisted: bool = True) -> int:
    """Write encoder.onnx into the folder; its multiply-adds. kind: `none`, or that of the scorer."""
    keep, size = round(share * encoder.patches / 4) * 4, encoder.tower.image_size
    if kind == "none":
        method: pruners.Method = none.Method(encoder.patches)
    else:
        method = build_method(pruners.get("bavit"), "bavit", encoder, keep, scorer=scorer(kind, size))
    example = torch.zeros(1, 3, *size)
    module = PrunedEncoder(encoder, method)
    graph = to_onnx(module, example, outputs(encoder, method), opset=18, ir_version=10, hoisted=hoisted)
    save_graphs(folder, {"encoder": graph})
    return graph_cost(graph.graph)


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    return encoders.load(open_checkpoint(str(folder)), size=SIZE)


@pytest.fixture(scope="module")
def unpruned(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], int]:
    """The graphs of transformers and ours, and the multiply-adds of ours."""
    places = {name: tmp_path_factory.mktemp(name) for name in ("transformers", "unpruned")}
    costs = [exported(encoder, "none", 1.0, place, name == "unpruned") for name, place in places.items()]
    return {name: place / "encoder.onnx" for name, place in places.items()}, costs[1]


@pytest.fixture(scope="module")
def table() -> Iterator[list[str]]:
    rows: list[str] = []
    yield rows
    print("\n| scorer | keep | times as fast as transformers | as unpruned | by multiply-adds |")
    print("|---|---:|---:|---:|---:|")
    print("\n".join(rows))


@pytest.mark.parametrize(("kind", "share"), [(kind, share) for kind, share in LEAST])
def test_a_pruned_detector_is_as_much_faster_as_its_multiply_adds_say(
    encoder: Encoder,
    unpruned: tuple[dict[str, Path], int],
    table: list[str],
    hold: Callable[..., None],
    tmp_path: Path,
    kind: str,
    share: float,
) -> None:
    whole, whole_cost = unpruned
    ratios: dict[str, list[float]] = {"unpruned": [], "transformers": []}
    bound = whole_cost / exported(encoder, kind, share, tmp_path)
    gc.collect()
    feeds = {"pixel_values": np.random.default_rng(0).standard_normal((1, 3, *SIZE), dtype=np.float32)}
    for _ in range(PAIRS):  # two sessions of one graph differ by a per cent, so several are opened
        paths = {"pruned": tmp_path / "encoder.onnx", **whole}
        sessions = {name: open_session(path, threads=THREADS) for name, path in paths.items()}
        times = measure(sessions, dict.fromkeys(sessions, feeds), ROUNDS)
        for name, found in ratios.items():
            found.append(float(np.median(times[name]) / np.median(times["pruned"])))
        del sessions
    plain, ratio = (float(np.median(ratios[name])) for name in ("transformers", "unpruned"))
    table.append(f"| `{kind}` | {share} | {plain:.2f} | {ratio:.2f} | {bound:.2f} |")
    hold(f"transformers / {kind} {share}", ratios["transformers"], least=LEAST[kind, share])
    hold(f"unpruned / {kind} {share}", ratios["unpruned"], least=bound * (1 - NEAR_BOUND))


PEAK = f"""
import sys
import numpy as np
from edgeprune.runtime.backends.ort import open_session
session = open_session(sys.argv[1], threads={THREADS})
for _ in range(2):
    session.run({{"pixel_values": np.zeros((1, 3, {LARGE[0]}, {LARGE[1]}), dtype=np.float32)}})
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(int(status["VmHWM"].split()[0]) // 1024)  # getrusage would count what the parent had before the fork
"""


def test_a_coarse_scorer_halves_the_peak_memory(folder: Path, hold: Callable[..., None], tmp_path: Path) -> None:
    encoder, peaks = encoders.load(open_checkpoint(str(folder)), size=LARGE), {}
    for kind in ("none", "front", "coarse"):
        place = tmp_path / kind
        place.mkdir()
        exported(encoder, kind, 0.5, place)
        command = [sys.executable, "-c", PEAK, str(place / "encoder.onnx")]
        peaks[kind] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print("\n| scorer at 0.5, 800x1344 | peak MiB |\n|---|---:|")
    print("\n".join(f"| `{kind}` | {peak} |" for kind, peak in peaks.items()))
    hold("peak with a coarse scorer / without", [peaks["coarse"] / peaks["none"]], most=0.6)
