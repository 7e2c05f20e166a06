"""A sweep on a local Ray with two workers, one killed in the middle: the same table, and nothing is computed twice but
what was lost."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import pytest

from edgeprune.errors import MissingPackageError, RequestError
from edgeprune.quality.sweep import Request, items, sweep, variants
from edgeprune.quality.sweep import ray_workers as module
from edgeprune.quality.sweep.ray_workers import LOCAL, RayWorkers
from edgeprune.quality.sweep.variants import Variant
from edgeprune.quality.sweep.work import Place
from edgeprune.quality.sweep.workers import Lost, Task

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
WORKING = "ray::_task"
"""what Ray calls a worker that has one of our tasks in hand"""


def request(output: Path, **fields: Any) -> Request:
    return Request(output, methods=("fastervlm",), keep=(16, 8), count=6, speed=False, **fields)


def parents(pid: int) -> list[int]:
    """Of a process, the nearest first; none when it is gone."""
    found = []
    while pid > 1:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return []
        found.append(pid)
    return found


def workers_of_ours() -> list[int]:
    """Processes below this one that work on a task."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            named = path.read_text()
        except OSError:
            continue
        if named.startswith(WORKING) and os.getpid() in parents(int(path.parent.name)):
            found.append(int(path.parent.name))
    return found


class Watched(RayWorkers):
    """Notes what is submitted, and kills a worker as soon as one task is done, until a loss is seen."""

    given: ClassVar[Counter[str]] = Counter()
    lost: ClassVar[Counter[str]] = Counter()
    done = 0

    def submit(self, task: Task) -> None:
        super().submit(task)
        Watched.given[task.name] += 1

    def next(self) -> tuple[Task, Any]:
        if Watched.done and not Watched.lost:
            for pid in workers_of_ours()[:1]:
                os.kill(pid, signal.SIGKILL)
        task, result = super().next()
        Watched.lost[task.name] += isinstance(result, Lost)
        Watched.lost = +Watched.lost
        Watched.done += 1
        return task, result


@needs_ray
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds Ray's workers in /proc")
def test_a_worker_that_is_killed_costs_its_task_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants, "CONTROLS", (Variant("random"),))
    monkeypatch.setattr(items, "SHARD", 2)
    monkeypatch.setattr(module, "RayWorkers", Watched)
    here = sweep(request(tmp_path / "here", workers=1))
    ray = sweep(request(tmp_path / "ray", workers=2, ray=LOCAL))
    assert ray.rows == here.rows
    assert ray.about["lost"] == sum(Watched.lost.values()) >= 1
    assert len(Watched.given) == 3 + 3 * 3  # exports; and three shards of each of them
    assert Watched.given == Counter(dict.fromkeys(Watched.given, 1)) + Watched.lost
    assert ray.about["computed"] == here.about["computed"]
    again = sweep(request(tmp_path / "ray", workers=2, ray=LOCAL))
    assert (again.rows, sum(again.about["computed"].values())) == (ray.rows, 0)


@needs_ray
def test_an_address_without_a_cluster_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def init(**options: Any) -> None:
        raise ConnectionError("Could not find any running Ray instance.\nSee the logs.")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(RequestError, match=r"--ray must be the address of a cluster that runs, 10.0.0.9:6379 is not"):
        RayWorkers("10.0.0.9:6379")


def test_what_was_used_longest_ago_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HELD_NBYTES", 10)
    kept = {"a": 1, "b": 2, "c": 3}
    assert module._forget_oldest(kept, {"a": 6, "b": 5, "c": 4, "gone": 99}) == [1]
    assert kept == {"b": 2, "c": 3}
    assert module._forget_oldest({"a": 1}, {"a": 99}) == []


def test_a_folder_is_shipped_once_and_written_down_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what Ray does with its references, without Ray."""
    put: list[Any] = []

    class Reference:
        def __init__(self, value: Any) -> None:
            self.value = value
            put.append(value)

    class Ray:
        put = staticmethod(Reference)
        get = staticmethod(lambda reference: reference.value)

    monkeypatch.setitem(sys.modules, "ray", Ray)
    monkeypatch.setattr(module, "_FOLDERS", {})
    workers: Any = object.__new__(RayWorkers)
    workers._ray, workers._shipped = Ray, {}
    model = tmp_path / "model"
    (model / "inner").mkdir(parents=True)
    (model / "inner" / "weights").write_bytes(bytes(range(256)))
    (model / "config.json").write_text("{}")
    place, again = (workers._ship(Place(str(model), threads=1)) for _ in range(2))
    assert len(put) == 2
    assert place.model == again.model
    here = Path(module._unpacked(place).model)
    assert here != model
    assert {one.relative_to(here).as_posix(): one.read_bytes() for one in here.rglob("*") if one.is_file()} == {
        "config.json": b"{}",
        "inner/weights": bytes(range(256)),
    }
    assert module._unpacked(again).model == str(here)
    assert workers._ship(Place("owner/name")) == Place("owner/name")  # of the hub: a worker gets it from there


def test_without_ray_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackageError, match=r"needs the package ray, .*edgeprune\[ray\]"):
        RayWorkers()
