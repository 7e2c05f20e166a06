"""The tasks of a sweep on Ray: on this machine, or on the cluster at an address.

Folders that a task reads (the model, a bundle) are shipped once, with `ray.put`; a worker writes each down once, in a
scratch folder of its own. Images travel with their shard. Ray does not repeat a task here: whether a worker is lost is
told to the sweep, which gives its task to another one.
"""

from __future__ import annotations

import atexit
import hashlib
import importlib
import logging
import os
import shutil
import tempfile
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.errors import EdgepruneError, MissingPackageError, RequestError
from edgeprune.quality.sweep.items import Shard
from edgeprune.quality.sweep.work import Place
from edgeprune.quality.sweep.workers import Failed, Lost, Task, called, prepare

__all__ = ["LOCAL", "RayWorkers"]

LOCAL = "local"
"""in place of an address: start Ray on this machine, for this sweep"""
HELD_NBYTES = 16 << 30
"""of folders that are shipped, and that a worker holds, at most; beyond it the oldest go"""
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
"""nothing is reported to anybody, and no GPU is hidden from a task that asks Ray for none"""


@dataclass(frozen=True)
class Parcel:
    """A folder, shipped: name of each file -> a reference to its bytes."""

    digest: str
    nbytes: int
    files: tuple[tuple[str, Any], ...]


class RayWorkers:
    """count: tasks at a time; None for as many as Ray has CPUs, or GPUs where these are the device

    Raises MissingPackageError without ray, RequestError when there is no cluster at the address.
    """

    def __init__(self, address: str = LOCAL, count: int | None = None, device: str = "cpu") -> None:
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        try:
            ray: Any = importlib.import_module("ray")  # as what has no types: it may not be there
        except ImportError as error:
            raise MissingPackageError("ray", "ray", error) from None
        self._ray, self._own = ray, not ray.is_initialized()
        if self._own:
            where: dict[str, Any] = {"address": address}
            if address == LOCAL:
                where |= {"num_cpus": count or os.cpu_count() or 1, "include_dashboard": False}
            try:
                ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, ValueError, RuntimeError, OSError) as error:
                reason = (str(error) or type(error).__name__).splitlines()[0]
                raise RequestError(
                    f"--ray must be the address of a cluster that runs, {address} is not: {reason}; leave the address "
                    "out to start one here"
                ) from None
        needs = "CPU" if device == "cpu" else "GPU"
        self.count = count or max(1, int(ray.cluster_resources().get(needs, 1)))
        self._remote = ray.remote(max_retries=0, num_cpus=1, num_gpus=int(needs == "GPU"))(_task)
        for _ in range(self.count):
            self._remote.remote(prepare, (), False)
        self._running: dict[Any, Task] = {}
        self._shipped: dict[Path, Parcel] = {}

    def submit(self, task: Task) -> None:
        arguments = tuple(self._ship(argument) for argument in task.arguments)
        makes = task.into is not None
        self._running[self._remote.remote(task.function, arguments, makes)] = task

    def next(self) -> tuple[Task, Any]:
        (done, *_), _ = self._ray.wait(list(self._running), num_returns=1)
        task = self._running.pop(done)
        try:
            result, made = self._ray.get(done)
        except (
            self._ray.exceptions.WorkerCrashedError,
            self._ray.exceptions.NodeDiedError,
            self._ray.exceptions.OutOfMemoryError,
            self._ray.exceptions.ObjectLostError,
        ):
            return task, Lost()
        except self._ray.exceptions.RayTaskError as error:
            cause = getattr(error, "cause", None) or error
            raise EdgepruneError(f"{task.name} failed on Ray: {type(cause).__name__}: {cause}") from error
        if task.into is not None and made:
            _write(made, task.into)
        return task, result

    def close(self) -> None:
        for running in self._running:
            self._ray.cancel(running, force=True)
        if self._own:
            self._ray.shutdown()

    def _ship(self, argument: Any) -> Any:
        if isinstance(argument, Path):
            return self._parcel(argument)
        if isinstance(argument, Place) and argument.model is not None and os.path.isdir(argument.model):
            shipped: Any = self._parcel(Path(argument.model))
            return replace(argument, model=shipped)
        return argument.packed() if isinstance(argument, Shard) else argument

    def _parcel(self, folder: Path) -> Parcel:
        if folder not in self._shipped:
            names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
            contents = {name: np.fromfile(folder / name, np.uint8) for name in names}
            digest = hashlib.sha256()
            for name, content in contents.items():
                digest.update(f"{name} {len(content)} ".encode())
                digest.update(content.data)
            files = tuple((name, self._ray.put(content)) for name, content in contents.items())
            size = sum(map(len, contents.values()))
            self._shipped[folder] = Parcel(digest.hexdigest(), size, files)
            _forget_oldest(self._shipped, {one: parcel.nbytes for one, parcel in self._shipped.items()})
        self._shipped[folder] = self._shipped.pop(folder)  # the last that was used
        return self._shipped[folder]


def _task(function: Any, arguments: tuple[Any, ...], makes: bool) -> tuple[Any, dict[str, bytes]]:
    """On a worker: with parcels as folders; and what it makes is sent back."""
    arguments = tuple(_unpacked(argument) for argument in arguments)
    if not makes:
        return called(function, arguments), {}
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as scratch:
        into = Path(scratch) / "made"
        result = called(function, arguments, into=into)
        if isinstance(result, Failed) or not into.is_dir():
            return result, {}
        paths = sorted(path for path in into.rglob("*") if path.is_file())
        return result, {path.relative_to(into).as_posix(): path.read_bytes() for path in paths}


def _unpacked(argument: Any) -> Any:
    if isinstance(argument, Parcel):
        return _folder(argument.digest, argument)
    if isinstance(argument, Place):
        model: Any = argument.model
        return replace(argument, model=str(_folder(model.digest, model))) if isinstance(model, Parcel) else argument
    return argument


def _forget_oldest(kept: dict[Any, Any], nbytes: dict[Any, int]) -> list[Any]:
    """Take the first ones out until HELD_NBYTES are left at most, never the last -> their values."""
    gone = []
    while len(kept) > 1 and sum(nbytes[one] for one in kept) > HELD_NBYTES:
        gone.append(kept.pop(next(iter(kept))))
    return gone


_FOLDERS: dict[str, Path] = {}
_NBYTES: dict[str, int] = {}


def _folder(digest: str, parcel: Parcel) -> Path:
    """Where this worker has a parcel."""
    if digest not in _FOLDERS:
        ray: Any = importlib.import_module("ray")
        folder = _scratch() / digest[:16]
        folder.mkdir()
        for name, reference in parcel.files:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            ray.get(reference).tofile(path)
        _FOLDERS[digest], _NBYTES[digest] = folder, parcel.nbytes
        for old in _forget_oldest(_FOLDERS, _NBYTES):
            shutil.rmtree(old, ignore_errors=True)
    _FOLDERS[digest] = _FOLDERS.pop(digest)  # the last that was used
    return _FOLDERS[digest]


@cache
def _scratch() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="edgeprune-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _write(files: dict[str, bytes], into: Path) -> None:
    """All at once: a folder that is there is whole."""
    scratch = into.with_name(f".{into.name}.scratch")
    shutil.rmtree(scratch, ignore_errors=True)
    for name, content in files.items():
        path = scratch / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    scratch.rename(into)
