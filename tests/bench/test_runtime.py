"""What a call of the runtime adds to its bare session. `make bench`; half a minute for this file.

The two take turns in one process, on one session: two sessions of one graph differ by more than what is measured here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edgeprune.export import Request, export_bundle
from edgeprune.runtime import load

BLOCKS, ROUNDS = 5, 400


def test_a_call_adds_at_most_one_per_cent_to_a_small_encoder(tmp_path: Path, hold: Callable[..., None]) -> None:
    """Of the few milliseconds that the embedded model takes; what is added is some microseconds."""
    export_bundle(Request("fastervlm", "cpu", keep=64, output=tmp_path / "tiny", baselines=False))
    encoder = load(tmp_path / "tiny", threads=2)
    height, width = encoder.preprocessing.size
    pixels = np.random.default_rng(0).standard_normal((1, 3, height, width), dtype=np.float32)
    names, bare = list(encoder.manifest.outputs), encoder.session.raw
    calls = {"runtime": lambda: encoder(pixels), "bare": lambda: bare.run(names, {"pixel_values": pixels})}
    ratios = []
    for _ in range(BLOCKS):
        times: dict[str, list[float]] = {name: [] for name in calls}
        for turn in range(ROUNDS):
            for name in sorted(calls, reverse=bool(turn % 2)):
                start = time.perf_counter()
                calls[name]()
                times[name].append(time.perf_counter() - start)
        ratios.append(float(np.median(times["runtime"]) / np.median(times["bare"])))
    hold("runtime / bare session", ratios, most=1.01)
