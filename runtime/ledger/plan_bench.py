"""What a plan costs on the device that it was built for.

    trtexec   where it is there, for a plan of TensorRT, with the target's flags: a run is what the GPU computes
    runtime   else edgeprune's own session: a run is what a caller waits for, transfers and copies included

Either way the GPU's time and the time to start a run stand apart. A plan has no baselines: the manifest lists none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgeprune import targets
from edgeprune.bundle import Bundle, Plan
from edgeprune.runtime.backends import plan as plans
from edgeprune.runtime.backends.plan_session import PlanSession, open_plan
from edgeprune.runtime.ledger.trtexec import Trtexec, bench_flags, find_trtexec

__all__ = ["Latency", "PlanTimes", "time_plan"]

TIMED_APART = (20, 200)
"""runs of which the GPU's own time is taken, at least and at most"""


@dataclass(frozen=True)
class Latency:
    median_ms: float
    p95_ms: float
    p99_ms: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency:
        """
        >>> Latency.of([0.001, 0.002, 0.003]).median_ms
        2.0
        """
        return cls(*(1e3 * float(np.percentile(seconds, q)) for q in (50, 95, 99)))


@dataclass(frozen=True)
class PlanTimes:
    """How a plan was timed, and what the GPU and the CPU had of it."""

    plan: str
    kind: str
    version: str
    sm: tuple[int, ...]
    by: str
    """`trtexec 10.3.0` or `edgeprune`"""
    flags: tuple[str, ...]
    """of trtexec"""
    cuda_graph: str
    """who captured the run, or why nobody did; empty where the flags say it"""
    gpu: str
    """its name, where the driver gives it"""
    compute: Latency
    """on the GPU, without transfers"""
    enqueue: Latency
    """on the CPU, to start a run"""


def time_plan(
    bundle: Bundle, rounds: int | None, measure: Callable[[PlanSession], list[float]]
) -> tuple[list[float], PlanTimes]:
    """Seconds of each run of the plan that fits this machine, and how they were taken.

    rounds: timed runs; None takes what the target asks of trtexec
    measure: times the runs of an open session

    Raises RequestError when no plan fits, EdgepruneError when the one that does fails.
    """
    have = plans.here(engine.kind for engine in bundle.manifest.engines.values())
    every = {name: _trtexec(name, engine) for name, engine in bundle.manifest.engines.items()}
    tools = {name: tool for name, tool in every.items() if tool is not None}
    for tool in tools.values():  # it does without the Python package
        have = dataclasses.replace(have, versions={**have.versions, "tensorrt": tool.version})
    engine = plans.choose(bundle, have)
    name = plans.target_of(bundle, engine)
    if name in tools:
        return _by_trtexec(bundle, name, engine, tools[name], rounds, have.gpu.name)
    session = open_plan(bundle)
    seconds = measure(session)
    compute, enqueue = session.times(int(np.clip(len(seconds), *TIMED_APART)))
    return seconds, PlanTimes(
        plan=engine.plan,
        kind=engine.kind,
        version=engine.version,
        sm=engine.sm,
        by="edgeprune",
        flags=(),
        cuda_graph=session.cuda_graph,
        gpu=have.gpu.name,
        compute=Latency.of(compute),
        enqueue=Latency.of(enqueue),
    )


def _trtexec(target: str, engine: Plan) -> Trtexec | None:
    """The one of the release that built the plan; of any other, it could not open it."""
    tool = find_trtexec(_target(target)) if engine.kind == "tensorrt" else None
    return tool if tool is not None and plans.same_release(tool.version, engine.version) else None


def _target(name: str) -> targets.Target | None:
    """None for a file of the user's own, of which the manifest has no more than the name."""
    return targets.load(name) if name in targets.names() else None


def _by_trtexec(
    bundle: Bundle, name: str, engine: Plan, tool: Trtexec, rounds: int | None, gpu: str
) -> tuple[list[float], PlanTimes]:
    flags = bench_flags(_target(name), rounds)
    timing = tool.time(bundle.path(engine.plan), flags)
    return list(timing.compute), PlanTimes(
        plan=engine.plan,
        kind=engine.kind,
        version=engine.version,
        sm=engine.sm,
        by=f"trtexec {tool.version}",
        flags=flags,
        cuda_graph="",
        gpu=gpu,
        compute=Latency.of(timing.compute),
        enqueue=Latency.of(timing.enqueue),
    )
