"""How long a graph takes beside the unpruned one: both in turns, medians, by the ledger's rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgeprune import bundle as bundles
from edgeprune.runtime.backends.ort import open_encoder
from edgeprune.runtime.ledger.bench import measure, noise
from edgeprune.runtime.ledger.spread import ratio_of, settled

__all__ = ["time_graph"]

LONGER = 3
"""times as many rounds, at most, where the first ones do not settle the ratio"""


def time_graph(folder: Path, unpruned: Path, device: str, rounds: int) -> dict[str, Any]:
    """Folders of two bundles -> median_ms, unpruned_ms, ratio of the medians, its interval of 95 % and doubt.

    interval: None of too few rounds; doubt: why the ratio says too little, empty where it may be told
    """
    graphs = {"pruned": folder, "unpruned": unpruned}
    sessions = {name: open_encoder(bundles.load(one), device) for name, one in graphs.items()}
    feeds = {name: noise(session) for name, session in sessions.items()}
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(LONGER):
        for name, seconds in measure(sessions, feeds, rounds).items():
            times[name] += seconds
        if settled(times, "pruned"):
            break
    ratio = ratio_of(times["pruned"], times["unpruned"], ("pruned", "unpruned"))
    medians = {f"{name}_ms": 1e3 * float(np.median(seconds)) for name, seconds in times.items()}
    return {
        "median_ms": medians["pruned_ms"],
        "unpruned_ms": medians["unpruned_ms"],
        "ratio": ratio.value,
        "interval": None if ratio.interval is None else list(ratio.interval),
        "doubt": ratio.doubt,
        "rounds": len(times["pruned"]),
    }
