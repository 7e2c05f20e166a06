"""Every task once, and one whose worker was lost again."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeprune.errors import EdgepruneError, ImageError, RequestError
from edgeprune.quality.sweep.workers import Failed, Here, Lost, Pool, Task, run


class Losing:
    """Workers of which some tasks lose theirs, so many times."""

    def __init__(self, count: int, lost: dict[str, int]) -> None:
        self.count, self.lost = count, lost
        self.submitted: list[str] = []
        self._running: list[Task] = []

    def submit(self, task: Task) -> None:
        self.submitted.append(task.name)
        self._running.append(task)
        assert len(self._running) <= self.count

    def next(self) -> tuple[Task, Any]:
        task = self._running.pop(0)
        if self.lost.get(task.name, 0):
            self.lost[task.name] -= 1
            return task, Lost()
        return task, task.function(*task.arguments)

    def close(self) -> None:
        pass


def tasks(count: int, function: Callable[..., Any] = abs) -> list[Task]:
    return [Task(str(at), function, (-at,)) for at in range(count)]


def test_only_what_was_lost_is_computed_again() -> None:
    workers, found = Losing(2, {"1": 1, "4": 2}), dict[str, int]()
    assert run(workers, tasks(6), lambda task, result: found.update({task.name: result})) == 3
    assert found == {str(at): at for at in range(6)}
    assert sorted(workers.submitted) == sorted([*"012345", "1", "4", "4"])


def test_a_task_that_loses_every_worker_ends_the_sweep() -> None:
    with pytest.raises(EdgepruneError, match=r"1 lost its worker 3 times.*give fewer --workers"):
        run(Losing(1, {"1": 9}), tasks(3), lambda task, result: None)


def refuse(number: int) -> int:
    raise ImageError(f"no image {-number}")


def die_once(marker: str) -> int:
    """Killed, as for want of memory, the first time."""
    path = Path(marker)
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def test_an_error_of_a_task_is_told_with_its_exit_code() -> None:
    with pytest.raises(RequestError, match="no image 0"):
        run(Here(), tasks(1, refuse), lambda task, result: None)
    assert type(Failed("x", 1).error()) is EdgepruneError


@pytest.mark.slow
def test_a_pool_goes_on_with_new_processes_when_one_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[3])  # by which new processes find what stands in this file
    pool, found = Pool(2), dict[str, int]()
    given = [Task(name, die_once, (str(tmp_path / "marker"),)) for name in "abc"]
    try:
        lost = run(pool, given, lambda task, result: found.update({task.name: result}))
        with pytest.raises(RequestError, match="no image 3"):
            run(pool, [Task("d", refuse, (-3,))], lambda task, result: None)
    finally:
        pool.close()
    assert 1 <= lost <= 2  # with the other one in hand, if it was begun
    assert sorted(found) == ["a", "b", "c"]
    assert os.getpid() not in found.values()
