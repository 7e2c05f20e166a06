"""python -m edgeprune.quality.peak GRAPH [THREADS]: the memory that a run in ONNX Runtime took, in MiB.

The most that the process ever held, with Python and ONNX Runtime in it; so it needs a process of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from edgeprune.runtime.backends.ort import open_session

RUNS = 3


def main(graph: str, threads: str = "") -> None:
    session = open_session(graph, threads=int(threads) if threads else None)
    feeds = {name: np.zeros([int(size) for size in spec.shape], spec.dtype) for name, spec in session.inputs.items()}
    for _ in range(RUNS):
        session.run(feeds)
    print(peak_nbytes() / (1 << 20))


def peak_nbytes() -> int:
    """Of this process so far."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would count what the parent held when it started this process
        line = next(one for one in status.read_text(encoding="ascii").splitlines() if one.startswith("VmHWM:"))
        return int(line.split()[1]) << 10
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most << 10


if __name__ == "__main__":
    main(*sys.argv[1:])
