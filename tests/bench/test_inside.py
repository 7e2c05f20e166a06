"""What an encoder costs that is shortened inside, beside the unpruned one. `make bench`; some minutes for this file.

CLIP ViT-L/14-336 with LLaVA-1.5's projector, seeded weights, 64 of 576 tokens, float32, ONNX Runtime, two CPU threads.
Each graph takes turns with the unpruned one in one process, with equal settings; ratios are of medians. What an export
takes is of a CLIP half as wide and a third as deep, whose export takes seconds.
"""

from __future__ import annotations

import dataclasses
import gc
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders import Encoder
from edgeprune.export import Request, export_bundle
from edgeprune.export.baselines import unpruned
from edgeprune.export.cost import formula, graph_cost
from edgeprune.export.graph import to_onnx
from edgeprune.export.steps import chosen_steps
from edgeprune.export.storage import save_graphs
from edgeprune.fit_inside import build_reducer, parse_steps, with_inside
from edgeprune.pruners import Method, fastervlm
from edgeprune.runtime.backends.ort import open_session
from edgeprune.runtime.ledger.bench import measure
from edgeprune.trace import PrunedEncoder, outputs

THREADS, PAIRS, ROUNDS, KEEP = 2, 3, 5, 64
PIXELS = np.random.default_rng(0).standard_normal((1, 3, 336, 336), dtype=np.float32)
FEEDS = {"pixel_values": PIXELS}
SCHEDULES: dict[str, str | float] = {"drop": "8:288,16:144", "cells": "8:288,16:144", "tome": 0.554}
"""reducer -> its steps, or the share of the multiply-adds that they are chosen for"""
COST, RATIO = 0.57, 0.58
"""of the unpruned encoder's multiply-adds, and of its time"""
PART_OF_IT = {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "image_size": 336,
    "patch_size": 14,
}
EXPORTS = 3
"""of each, in turns"""


@pytest.fixture(scope="module")
def encoder(llava_7b_folder: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return encoders.load(open_checkpoint(str(llava_7b_folder(tmp_path_factory.mktemp("llava-7b") / "model"))))


def written(encoder: Encoder, method: Method, folder: Path) -> tuple[Path, int]:
    """encoder.onnx in the folder, and its multiply-adds."""
    folder.mkdir()
    graph = to_onnx(
        PrunedEncoder(encoder, method), torch.from_numpy(PIXELS), outputs(encoder, method), opset=18, ir_version=10
    )
    save_graphs(folder, {"encoder": graph})
    return folder / "encoder.onnx", graph_cost(graph.graph)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_shortened_encoder_takes_at_most_058_of_the_time(
    encoder: Encoder, name: str, tmp_path: Path, hold: Callable[..., None]
) -> None:
    method = fastervlm.Method(KEEP)
    reducer = build_reducer(encoder, name, method, "fastervlm")
    asked = SCHEDULES[name]
    steps = parse_steps(asked) if isinstance(asked, str) else chosen_steps(encoder, reducer, name, method, asked)
    short = with_inside(encoder, name, reducer, steps, method)
    path, cost = written(short, method, tmp_path / "short")
    whole, all_of_it = written(*unpruned(encoder), tmp_path / "whole")
    assert formula(short, method) <= COST * formula(*unpruned(encoder))
    gc.collect()
    ratios = []
    for _ in range(PAIRS):
        sessions = {"short": open_session(path, threads=THREADS), "whole": open_session(whole, threads=THREADS)}
        times = measure(sessions, dict.fromkeys(sessions, FEEDS), ROUNDS)
        ratios.append(float(np.median(times["short"]) / np.median(times["whole"])))
        del sessions
    print(f"{name} {[(step.layer, step.keep) for step in steps]}: {cost / all_of_it:.3f} of the multiply-adds")
    hold(f"{name} / unpruned", ratios, most=RATIO)


@pytest.mark.parametrize("name", ["tome", "cells"])
def test_an_export_with_steps_inside_takes_at_most_1_3_of_one_without(
    clip_folder: Callable[..., Path], name: str, tmp_path: Path, hold: Callable[..., None]
) -> None:
    """Without baselines on both sides; the first of each is not counted."""
    model = str(clip_folder(tmp_path / "clip", **PART_OF_IT))
    plain = Request("fastervlm", "cpu", keep=KEEP, model=model, baselines=False)
    requests = {"plain": plain, "inside": dataclasses.replace(plain, inside=name, encoder_cost=0.6)}
    ratios = []
    for at in range(EXPORTS + 1):
        seconds = {}
        for what, request in requests.items():
            gc.collect()
            start = time.perf_counter()
            export_bundle(dataclasses.replace(request, output=tmp_path / f"{what}-{at}"))
            seconds[what] = time.perf_counter() - start
        print(", ".join(f"{what} {took:.2f} s" for what, took in seconds.items()))
        ratios.append(seconds["inside"] / seconds["plain"])
    hold(f"export with {name} / without", ratios[1:], most=1.3)
