"""What each method's whole graph costs beside the unpruned one. `make bench`; some twenty minutes for this file.

CLIP ViT-L/14-336 with LLaVA-1.5's projector, seeded weights, 64 of 576 tokens, float32, ONNX Runtime, two CPU threads.
Each method takes turns with the unpruned graph in one process, with equal settings; ratios are of medians. The table
that the README holds is printed at the end.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeprune import catalog, encoders, pruners
from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders import Encoder
from edgeprune.export.cost import formula, graph_cost
from edgeprune.export.graph import to_onnx
from edgeprune.export.storage import save_graphs
from edgeprune.fit import build_method
from edgeprune.pruners import none
from edgeprune.runtime.backends.ort import open_session
from edgeprune.runtime.ledger.bench import measure, parts
from edgeprune.trace import PrunedEncoder

THREADS, PAIRS, ROUNDS, KEEP = 2, 3, 5, 64
PIXELS = np.random.default_rng(0).standard_normal((1, 3, 336, 336), dtype=np.float32)
FEEDS = {"pixel_values": PIXELS}
MOST = {"fastervlm": 0.95, "hiprune": 0.95, **dict.fromkeys(("divprune", "dart", "holov", "visionzip", "aim"), 1.01)}
"""pruned / unpruned; of any other method 1.05"""
SELECTION = {entry.name: entry.traits.multiply_adds for entry in catalog.methods()}
"""multiply-adds of the selection itself, which the formula leaves out"""
METHODS = [entry.name for entry in catalog.methods() if not entry.traits.needs_scorer and entry.name != "none"]


@pytest.fixture(scope="module")
def encoder(llava_7b_folder: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return encoders.load(open_checkpoint(str(llava_7b_folder(tmp_path_factory.mktemp("llava-7b") / "model"))))


def exported(encoder: Encoder, name: str, folder: Path) -> int:
    """Write encoder.onnx into the folder; its multiply-adds."""
    method = none.Method(encoder.patches) if name == "none" else build_method(pruners.get(name), name, encoder, KEEP)
    example = torch.from_numpy(PIXELS)
    outputs = ("tokens", "indices", "scores")
    graph = to_onnx(PrunedEncoder(encoder, method), example, outputs, opset=18, ir_version=10)
    save_graphs(folder, {"encoder": graph})
    return graph_cost(graph.graph)


@pytest.fixture(scope="module")
def unpruned(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    folder = tmp_path_factory.mktemp("unpruned")
    cost = exported(encoder, "none", folder)
    return folder / "encoder.onnx", cost


@pytest.fixture(scope="module")
def table() -> Iterator[list[str]]:
    rows: list[str] = []
    yield rows
    print("\n| method | pruned / unpruned | multiply-adds / unpruned | selection |\n|---|---:|---:|---:|")
    print("\n".join(rows))


@pytest.mark.parametrize("name", METHODS)
def test_a_method_costs_no_more_than_it_may(
    encoder: Encoder,
    unpruned: tuple[Path, int],
    table: list[str],
    hold: Callable[..., None],
    tmp_path: Path,
    name: str,
) -> None:
    whole, whole_cost = unpruned
    ratios: list[float] = []
    cost = exported(encoder, name, tmp_path)
    gc.collect()
    path = tmp_path / "encoder.onnx"
    for _ in range(PAIRS):  # two sessions of one graph differ by a per cent, so several are opened
        sessions = {"pruned": open_session(path, threads=THREADS), "unpruned": open_session(whole, threads=THREADS)}
        times = measure(sessions, dict.fromkeys(sessions, FEEDS), ROUNDS)
        ratios.append(float(np.median(times["pruned"]) / np.median(times["unpruned"])))
        del sessions
    selection = parts(partial(open_session, path, threads=THREADS), FEEDS)["selection"]
    table.append(f"| `{name}` | {np.median(ratios):.3f} | {cost / whole_cost:.3f} | {selection:.1%} |")
    method = build_method(pruners.get(name), name, encoder, KEEP)
    selecting = float(SELECTION[name].removesuffix(" M")) * 1e6
    assert cost / (formula(encoder, method) + selecting) == pytest.approx(1, abs=0.02)
    hold(f"{name} / unpruned", ratios, most=MOST.get(name, 1.05))
    if name == "divprune":
        hold("selection / run", [selection], most=0.01)
