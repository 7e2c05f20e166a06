"""Where the tasks of a sweep run: in this process, in a pool of processes, or on Ray (`ray_workers`). The same tasks.

A task is a function of `work` with what it takes. A worker that is lost (killed, out of memory) loses the task that it
had in hand and no other: that one is given to the next worker, TRIES times in all.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edgeprune.errors import EdgepruneError, RequestError

__all__ = ["Failed", "Here", "Lost", "Pool", "Task", "Workers", "called", "prepare", "run"]

TRIES = 3
"""how often a task may lose its worker before the sweep gives up"""


@dataclass(frozen=True, eq=False)
class Task:
    """Call `function(*arguments)`. Equal to itself alone."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    """paths of folders among them are read by the worker, but for `into`, which it makes"""
    into: Path | None = None
    """the folder that the function makes, where it is called with `into=`"""


class Lost:
    """What comes in place of a result when the worker is gone."""


@dataclass(frozen=True)
class Failed:
    """What comes in place of a result when the task raised an error of edgeprune's."""

    message: str
    exit_code: int

    def error(self) -> EdgepruneError:
        return (RequestError if self.exit_code == RequestError.exit_code else EdgepruneError)(self.message)


class Workers(Protocol):
    count: int
    """tasks that run at a time"""

    def submit(self, task: Task) -> None: ...

    def next(self) -> tuple[Task, Any]:
        """Waits for a task to end -> the task and its result, or Lost or Failed."""
        ...

    def close(self) -> None: ...


def run(workers: Workers, tasks: Sequence[Task], done: Callable[[Task, Any], None]) -> int:
    """Every task once, and one whose worker was lost again -> how many were lost.

    done: called with each task and its result

    Raises EdgepruneError when one loses its worker TRIES times; what a task raises, with its message.
    """
    waiting, lost, running = deque(tasks), Counter[Task](), 0
    while waiting or running:
        while waiting and running < workers.count:
            workers.submit(waiting.popleft())
            running += 1
        task, result = workers.next()
        running -= 1
        if isinstance(result, Failed):
            raise result.error()
        if isinstance(result, Lost):
            lost[task] += 1
            if lost[task] == TRIES:
                raise EdgepruneError(
                    f"{task.name} lost its worker {TRIES} times, the last one by a signal or for want of memory; "
                    "give fewer --workers"
                )
            waiting.appendleft(task)
        else:
            done(task, result)
    return sum(lost.values())


def called(function: Callable[..., Any], arguments: Sequence[Any], **named: Any) -> Any:
    """In a worker: errors of edgeprune's, which do not all travel, become Failed."""
    try:
        return function(*arguments, **named)
    except EdgepruneError as error:
        return Failed(str(error), error.exit_code)


def prepare() -> None:
    """In a worker: the imports that every task needs, seconds of them. Every worker is given this when it begins: the
    first task is one that all others wait for."""
    import transformers.modeling_utils  # noqa: F401

    import edgeprune.export.job  # noqa: F401


class Here:
    """In this process, one after the other."""

    count = 1

    def __init__(self) -> None:
        self._task: Task | None = None

    def submit(self, task: Task) -> None:
        self._task = task

    def next(self) -> tuple[Task, Any]:
        task, self._task = self._task, None
        assert task is not None
        return task, called(task.function, task.arguments, **_into(task))

    def close(self) -> None:
        pass


class Pool:
    """In processes of their own on this machine, which share its files."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._running: dict[Future[Any], Task] = {}
        self._ended: deque[tuple[Task, Any]] = deque()
        self._pool = self._new()

    def _new(self) -> ProcessPoolExecutor:
        # Not forked: torch and ONNX Runtime have threads by now, which a fork leaves behind.
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(self.count, context, initializer=_leave_signals_to_the_parent)
        for _ in range(self.count):
            pool.submit(prepare)
        return pool

    def submit(self, task: Task) -> None:
        try:
            future = self._pool.submit(called, task.function, task.arguments, **_into(task))
        except BrokenProcessPool:
            self._ended.append((task, Lost()))
            return
        self._running[future] = task

    def next(self) -> tuple[Task, Any]:
        if not self._ended:
            done, _ = wait(self._running, return_when=FIRST_COMPLETED)
            self._ended.extend(self._collect(done))
        return self._ended.popleft()

    def _collect(self, done: Iterable[Future[Any]]) -> list[tuple[Task, Any]]:
        finished: list[tuple[Task, Any]] = []
        broken = False
        for future in done:
            task = self._running.pop(future)
            try:
                finished.append((task, future.result()))
            except BrokenProcessPool:
                finished.append((task, Lost()))
                broken = True
        if broken:  # the executor ends them all when one is gone
            finished += [(task, Lost()) for task in self._running.values()]
            self._running.clear()
            self._pool.shutdown(wait=True)
            self._pool = self._new()
        return finished

    def close(self) -> None:
        if self._running:  # interrupted; else they end by themselves
            for process in list((self._pool._processes or {}).values()):
                process.terminate()
        self._pool.shutdown(wait=True, cancel_futures=True)


def _into(task: Task) -> dict[str, Path]:
    return {} if task.into is None else {"into": task.into}


def _leave_signals_to_the_parent() -> None:
    """Ctrl-C reaches every process of a terminal; the parent ends the others, which clean up behind themselves."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
