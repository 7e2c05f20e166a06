"""The program that `machine` runs in a process of its own: what the runtime finds of GPU, board and tools.

Imported by nobody: numpy and the driver may be broken here.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from edgeprune import targets
from edgeprune.errors import EdgepruneError
from edgeprune.runtime.backends.cuda_api import load_cuda
from edgeprune.runtime.backends.plan import find_gpu
from edgeprune.runtime.ledger.bench import machine
from edgeprune.runtime.ledger.jetson import identity, is_jetson
from edgeprune.runtime.ledger.trtexec import find_trtexec

__all__ = ["hardware"]


def hardware() -> dict[str, Any]:
    """processor, gpu, board (model, L4T, JetPack; or None), cuda_bindings (why they cannot be used, or ""), trtexec."""
    gpu = find_gpu()
    return {
        "processor": machine(),
        "gpu": dataclasses.asdict(gpu),
        "board": identity() if is_jetson() else None,
        "cuda_bindings": _cuda(gpu.cuda),
        "trtexec": _trtexec(),
    }


def _cuda(driver: int | None) -> str:
    try:
        load_cuda(driver)
    except EdgepruneError as error:
        return str(error)
    except Exception as error:  # a package that is there and broken
        return f"cuda-bindings cannot be imported: {type(error).__name__}: {error}"
    return ""


def _trtexec() -> dict[str, str]:
    """Path and version of the first that a target finds; `error` where $TRTEXEC leads nowhere, or it cannot be run."""
    boards = [target for target in map(targets.load, targets.names()) if target.jetson]
    for target in (None, *boards):
        try:
            tool = find_trtexec(target)
        except EdgepruneError as error:
            return {"error": str(error)}
        if tool is not None:
            return {"path": str(tool.path), "version": tool.version}
    return {}


if __name__ == "__main__":
    print(json.dumps(hardware()))
