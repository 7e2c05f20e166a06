"""What this machine has. What only an import can say is asked in a process of its own (`ask`)."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeprune import __file__ as package

__all__ = ["MODULES", "Machine", "Module", "ask", "look"]

MODULES = {
    "onnxruntime": "[m.__version__, m.get_available_providers()]",
    "tensorrt": "[m.__version__, []]",
    "tensorrt_rtx": "[m.__version__, []]",
}
"""module that runs or builds -> what it is asked"""
LIMIT_S = 60
"""an import takes seconds at most; one that hangs is a finding"""
GIB = 1 << 30


@dataclass(frozen=True)
class Module:
    version: str = ""
    providers: tuple[str, ...] = ()
    """execution providers of ONNX Runtime"""
    error: str = ""
    """why it cannot be imported; empty where it can, or is not there at all"""


@dataclass(frozen=True)
class Machine:
    python: str
    system: str
    """as `Linux x86_64`"""
    processor: str
    memory_gib: tuple[float, float] | None
    """(free, in all); None where the system does not say"""
    disk_gib: float
    """free, where it was called"""
    modules: Mapping[str, Module] = field(default_factory=dict)
    """of MODULES, those that are installed"""
    sm: int | None = None
    """compute capability of the first GPU, without the dot"""
    gpu: str = ""
    """its name; without one, why there is none"""
    cuda: int | None = None
    """newest major release of CUDA that the driver takes"""
    no_cuda: str = ""
    """why the package cuda-bindings cannot be used"""
    board: tuple[str, str, str] | None = None
    """model, L4T and JetPack of a Jetson"""
    trtexec: Mapping[str, str] = field(default_factory=dict)
    """path and version, or error"""
    broken: str = ""
    """why the runtime itself could not be asked"""


def look(folder: Path | None = None) -> Machine:
    """Of this machine; folder: whose disk is meant, by default where it was called."""
    seen, error = ask("import runpy; runpy.run_module('edgeprune.doctor.hardware', run_name='__main__')")
    answers: dict[str, Any] = seen or {
        "gpu": {"sm": None, "name": "", "cuda": None, "why_not": "it could not be asked"}
    }
    gpu = answers["gpu"]
    board = answers.get("board")
    return Machine(
        python=f"{platform.python_version()} ({sys.executable})",
        system=f"{platform.system()} {platform.machine()}",
        processor=answers.get("processor", platform.processor()),
        memory_gib=_memory(),
        disk_gib=shutil.disk_usage(folder or Path.cwd()).free / GIB,
        modules={name: module for name in MODULES if (module := _module(name)) is not None},
        sm=gpu["sm"],
        gpu=gpu["name"] if gpu["sm"] is not None else gpu["why_not"],
        cuda=gpu["cuda"],
        no_cuda=answers.get("cuda_bindings", "it could not be asked"),
        board=tuple(board) if board else None,
        trtexec=answers.get("trtexec", {}),
        broken=error,
    )


def ask(code: str) -> tuple[Any, str]:
    """The JSON in the last line that a program prints in a process of its own, or None and why there is none.

    From the root folder: a file of the working folder must not be taken for a package.
    """
    paths = [*os.environ.get("PYTHONPATH", "").split(os.pathsep), str(Path(package).parents[1])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(os.path.abspath(one) for one in paths if one)}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=os.path.abspath(os.sep), env=environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, errors="replace", check=False, timeout=LIMIT_S,
        )  # fmt: skip
        if done.returncode < 0:
            return None, f"it dies of {signal.Signals(-done.returncode).name}"
        if done.returncode:
            return None, ([*filter(None, map(str.strip, done.stderr.splitlines()))] or ["it does not say why"])[-1]
        return json.loads(done.stdout.splitlines()[-1]), ""
    except subprocess.TimeoutExpired:
        return None, f"it does not end in {LIMIT_S} s"
    except (OSError, ValueError, IndexError) as error:
        return None, f"{type(error).__name__}: {error}"


def _module(name: str) -> Module | None:
    """None where it is not installed."""
    try:
        if importlib.util.find_spec(name) is None:
            return None
    except (ImportError, ValueError) as error:
        return Module(error=f"{type(error).__name__}: {error}")
    said, why_not = ask(f"import json, {name} as m; print(json.dumps({MODULES[name]}))")
    return Module(error=why_not) if said is None else Module(str(said[0]), tuple(said[1]))


def _memory() -> tuple[float, float] | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
        return kib["MemAvailable"] * 1024 / GIB, kib["MemTotal"] * 1024 / GIB
    except (OSError, ValueError, KeyError, IndexError):
        return None
