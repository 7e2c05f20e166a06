"""What a second question to one image costs. `make bench`; about a minute for this file.

CLIP ViT-L/14-336 with LLaVA-1.5's projector, seeded weights, 64 of 576 tokens, float32, ONNX Runtime, two CPU threads.
The halves take turns in one process; ratios are of medians.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeprune import encoders, pruners
from edgeprune.bundle import ENCODE, SELECT
from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders import Encoder
from edgeprune.export.graph import to_onnx
from edgeprune.export.split import split
from edgeprune.export.storage import file_of, save_graphs
from edgeprune.fit import build_method
from edgeprune.runtime.backends.ort import open_session
from edgeprune.runtime.ledger.bench import measure
from edgeprune.runtime.runner import PIXELS
from edgeprune.trace import PrunedEncoder, beside, outputs

THREADS, PAIRS, ROUNDS, KEEP = 2, 3, 5, 64
ASKED = {"cdpruner": {"form": "openvino"}, "mmtok": {}}
"""method -> its options"""


@pytest.fixture(scope="module")
def encoder(llava_7b_folder: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return encoders.load(open_checkpoint(str(llava_7b_folder(tmp_path_factory.mktemp("llava-7b") / "model"))))


@pytest.mark.parametrize("name", ASKED)
def test_a_second_question_takes_at_most_a_hundredth_of_the_image(
    encoder: Encoder, name: str, tmp_path: Path, hold: Callable[..., None]
) -> None:
    method = build_method(pruners.get(name), name, encoder, KEEP, ASKED[name])
    rng = np.random.default_rng(0)
    pixels = rng.standard_normal((1, 3, 336, 336), dtype=np.float32)
    given = beside(encoder, method, 1)
    names = outputs(encoder, method)
    graph = to_onnx(
        PrunedEncoder(encoder, method), torch.from_numpy(pixels), names, opset=18, ir_version=10, others=given
    )
    save_graphs(tmp_path, split(graph, [port.name for port in encoder.ports(method.ports)]))
    asked = {port: np.ones(value.shape, np.float32) for port, value in given.items()}
    asked["text"] = rng.standard_normal(asked["text"].shape, dtype=np.float32)
    ratios = []
    for _ in range(PAIRS):
        sessions = {half: open_session(tmp_path / file_of(half), threads=THREADS) for half in (ENCODE, SELECT)}
        seen = sessions[ENCODE].run({PIXELS: pixels})
        every = {**seen, **asked}
        feeds = {
            ENCODE: {PIXELS: pixels},
            SELECT: {one: every[one] for one in sessions[SELECT].inputs},
        }
        times = measure(sessions, feeds, ROUNDS)
        ratios.append(float(np.median(times[SELECT]) / np.median(times[ENCODE])))
        del sessions
    hold(f"{name}: select / encode", ratios, most=0.01)
