"""The benchmark: what the pruned encoder costs, next to what it must beat, measured in one run.

    pruned     the bundle's encoder
    unpruned   the same layers and projector with fused attention, every token kept
    official   the official code exported as it is written
    pool       plain average pooling to the same number of tokens
    matmul     a large matrix product: what this machine and backend can do at best

or whole bundles beside it, as one of another precision or method: each by the name of its folder.

The graphs take turns, with the same input, device and thread count, so that a machine that slows down slows all of
them; figures are medians, ratios are ratios of medians, and one that the runs do not bear out is not told (`spread`).
Which part of the encoder the time goes to comes from ONNX Runtime's own profile, in runs apart from the timed ones.

On device tensorrt, the plan is measured alone (`plan_bench`). On a Jetson, the state of the board stands beside the
figures, and a run that was throttled is no result (`jetson`).
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeprune import bundle as bundles
from edgeprune.bundle import Bundle
from edgeprune.errors import BundleError, RequestError
from edgeprune.runtime.adopt import take_in
from edgeprune.runtime.backends import Backend
from edgeprune.runtime.backends.ort import Session, open_encoder, open_session
from edgeprune.runtime.backends.plan import DEVICE as PLAN_DEVICE
from edgeprune.runtime.budgets import Budgets, Cut
from edgeprune.runtime.ledger.jetson import Board, watching
from edgeprune.runtime.ledger.plan_bench import PlanTimes, time_plan
from edgeprune.runtime.ledger.spread import ratio_of, settled

__all__ = ["Ledger", "Row", "bench", "machine", "measure", "noise", "parts"]

PRUNED, PEAK = "pruned", "matmul"
WARM_UP = 2
BUDGET_S = 20.0
"""without --rounds: about this long, within ROUNDS"""
ROUNDS = (7, 200)
LONGER = 3
"""times as many rounds, at most, where the first ones do not settle a ratio"""
PROFILED_RUNS = 5
PARTS = ("encoder", "selection", "projector")
ORDER = ("unpruned", "official", "naive", "pool", PEAK)
"""naive: what `official` was called before schema 2.0"""

Feeds: TypeAlias = "Mapping[str, NDArray[Any]]"
"""what a graph is given, by the names of its inputs"""


@dataclass(frozen=True)
class Row:
    name: str
    median_ms: float
    p95_ms: float
    p99_ms: float
    ratio: float | None
    """median of the pruned encoder over this one's: below 1, pruning is faster; None where the runs say too little"""
    interval: tuple[float, float] | None
    """in which the ratio lies with 95 %; None of the pruned encoder itself, and of too few rounds"""
    doubt: str
    """why there is no ratio; empty where there is one"""
    multiply_adds: int
    """of the graph, one run"""
    peak_fraction: float | None
    """of the multiply-adds per second that `matmul` reached; None without it"""


@dataclass(frozen=True)
class Ledger:
    rows: tuple[Row, ...]
    parts: Mapping[str, float]
    """share of the pruned encoder's kernel time, by part; empty for a plan"""
    formula: int
    """multiply-adds that the method promises for one run"""
    device: str
    threads: int | None
    rounds: int
    peak_gmacs: float | None
    """10^9 multiply-adds per second of `matmul`"""
    versions: Mapping[str, str]
    plan: PlanTimes | None = None
    """how the plan was timed, on device tensorrt"""
    keep: int | None = None
    """tokens that each run was cut to, None for all that the graph keeps"""
    board: Board | None = None
    """the state of a Jetson while it was measured"""

    def row(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def bench(
    folder: str | os.PathLike[str],
    device: str = "cpu",
    threads: int | None = None,
    rounds: int | None = None,
    against: Iterable[str | Path] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    keep: int | None = None,
) -> Ledger:
    """Measure a bundle against its baselines.

    threads: CPU threads of every graph, None for ONNX Runtime's own choice
    rounds: timed runs of each graph, None for as many as fit into about 20 seconds (7 to 200), and up to three times as
        many where these do not settle a ratio
    against: names of baselines, and folders of other bundles; None for all baselines that the bundle brings. Each is
        held in memory at once
    progress: called with rounds done, rounds in all, and what comes next
    keep: cut each run of the pruned encoder to its first so many picks, which is in its time; trtexec cannot

    Raises RequestError for a baseline that the bundle does not bring, and as `edgeprune.runtime.loading` does;
    EdgepruneError when the run was throttled, or a plan fails.
    """
    bundle = bundles.load(Path(folder))
    if rounds is not None and rounds < 1:
        raise RequestError(f"--rounds must be at least 1, got {rounds}")
    if device == PLAN_DEVICE:
        bundle, left = take_in(bundle)
        if left and not bundle.manifest.engines:
            raise RequestError(next(iter(left.values())))
        return _bench_plan(bundle, threads, rounds, against, progress, keep)
    graphs = _graphs(bundle, against)
    sessions: dict[str, Backend] = {
        name: open_encoder(graph, device, threads)
        if isinstance(graph, Bundle)
        else open_session(graph, device, threads)
        for name, graph in graphs.items()
    }
    sessions[PRUNED] = _first(bundle, sessions[PRUNED], keep)
    inputs = {name: noise(session) for name, session in sessions.items()}
    names = list(sessions)
    with watching() as watch:
        times = measure(sessions, inputs, rounds, progress, _settled)
    if watch.board:
        watch.board.check(gpu=device != "cpu")
    rounds = len(times[PRUNED])
    if progress:
        progress(rounds, rounds, "profile")
    del sessions
    peak = _macs(bundle, PEAK) / float(np.median(times[PEAK])) if PEAK in times else None
    macs = {
        name: _cost(one, "graph") if isinstance(one, Bundle) else _macs(bundle, name) for name, one in graphs.items()
    }
    return Ledger(
        rows=tuple(_row(name, times, macs[name], peak) for name in names if name != PEAK),
        parts=parts(partial(open_encoder, bundle, device, threads), inputs[PRUNED]),
        formula=_cost(bundle, "formula"),
        device=device,
        threads=threads,
        rounds=rounds,
        peak_gmacs=None if peak is None else peak / 1e9,
        versions=_versions(),
        keep=keep,
        board=watch.board,
    )


def _bench_plan(
    bundle: Bundle,
    threads: int | None,
    rounds: int | None,
    against: Iterable[str | Path] | None,
    progress: Callable[[int, int, str], None] | None,
    keep: int | None,
) -> Ledger:
    if unwanted := [*(against or ())]:
        raise RequestError(f"a plan is measured alone, without a baseline '{unwanted[0]}'; leave out --against")
    if threads is not None:
        raise RequestError(f"a plan runs on the GPU and takes no --threads, got {threads}; leave it out")

    def turns(session: Backend) -> list[float]:
        cut = _first(bundle, session, keep)
        return measure({PRUNED: cut}, {PRUNED: noise(cut)}, rounds, progress)[PRUNED]

    if progress:
        progress(0, rounds or 1, "open")
    with watching() as watch:
        seconds, plan = time_plan(bundle, rounds, turns)
    if watch.board:
        watch.board.check()
    if progress:
        progress(len(seconds), len(seconds), "done")
    return Ledger(
        rows=(_row(PRUNED, {PRUNED: seconds}, _macs(bundle, PRUNED), None),),
        parts={},
        formula=_cost(bundle, "formula"),
        device=PLAN_DEVICE,
        threads=None,
        rounds=len(seconds),
        peak_gmacs=None,
        versions={plan.kind: plan.version, "python": platform.python_version(), "machine": machine()},
        plan=plan,
        keep=keep,
        board=watch.board,
    )


def _first(bundle: Bundle, session: Backend, keep: int | None) -> Backend:
    return session if keep is None else Cut(session, Budgets.of(bundle.manifest), keep)


def measure(
    sessions: Mapping[str, Backend],
    inputs: Mapping[str, Feeds],
    rounds: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    enough: Callable[[Mapping[str, list[float]]], bool] = lambda times: True,
) -> dict[str, list[float]]:
    """Name -> seconds of each run. The sessions take turns; each follows each other one equally often.

    inputs: what each is given, by the names of its inputs
    rounds: exactly so many; None for about 20 seconds' worth, and again as many, twice at most, until it is `enough`
    """
    warm = {name: min(_time(sessions[name], inputs[name]) for _ in range(WARM_UP)) for name in sessions}
    first = rounds or int(np.clip(BUDGET_S / sum(warm.values()), *ROUNDS))
    times: dict[str, list[float]] = {name: [] for name in sessions}
    names = list(sessions)
    for total in range(first, first * (1 if rounds else LONGER) + 1, first):
        for turn in range(total - first, total):
            if progress:
                progress(turn, total, "measure" if total == first else "measure longer")
            for offset in range(len(names)):
                name = names[(turn + offset) % len(names)]
                times[name].append(_time(sessions[name], inputs[name]))
        if enough(times):
            break
    return times


def _settled(times: Mapping[str, Sequence[float]]) -> bool:
    """Whether every ratio of the ledger can be told."""
    return settled({name: seconds for name, seconds in times.items() if name != PEAK}, PRUNED)


def _graphs(bundle: Bundle, against: Iterable[str | Path] | None) -> dict[str, Bundle | Path]:
    """What takes turns, by name: bundles, and graphs of baselines."""
    have = bundle.baselines
    wanted = [name for name in ORDER if name in have] if against is None else [*against, *({PEAK} & set(have))]
    graphs: dict[str, Bundle | Path] = {PRUNED: bundle}
    for one in wanted:
        if isinstance(one, Path):
            graphs[_called(one, graphs)] = bundles.load(one)
        elif one in have:
            graphs[one] = have[one]
        else:
            raise RequestError(f"no baseline '{one}' in {bundle.folder}; it has {', '.join(have) or 'none'}")
    return graphs


def _called(folder: Path, taken: Iterable[str]) -> str:
    """A bundle's name in the table, one that no other graph has."""
    return str(folder) if (name := folder.resolve().name) in (*ORDER, *taken) else name


def noise(session: Backend) -> dict[str, NDArray[Any]]:
    """Seeded noise for every input of a graph, 1 for a free batch; zeros where it takes whole numbers that are no
    pixels, which may be positions in something."""
    feeds: dict[str, NDArray[Any]] = {}
    for name, spec in session.inputs.items():
        shape, dtype = [size if isinstance(size, int) else 1 for size in spec.shape], np.dtype(spec.dtype)
        generator = np.random.default_rng(0)
        if dtype == np.uint8:
            feeds[name] = generator.integers(0, 256, shape, dtype=np.uint8)
        elif dtype.kind == "f":
            feeds[name] = generator.standard_normal(shape, dtype=np.float32).astype(dtype)
        else:
            feeds[name] = np.zeros(shape, dtype)
    return feeds


def _time(session: Backend, feeds: Feeds) -> float:
    start = time.perf_counter()
    session.run(feeds)
    return time.perf_counter() - start


def _row(name: str, times: Mapping[str, list[float]], macs: int, peak: float | None) -> Row:
    median, p95, p99 = (float(np.percentile(times[name], q)) for q in (50, 95, 99))
    ratio = None if name == PRUNED else ratio_of(times[PRUNED], times[name], (PRUNED, name))
    return Row(
        name=name,
        median_ms=1e3 * median,
        p95_ms=1e3 * p95,
        p99_ms=1e3 * p99,
        ratio=1.0 if ratio is None else None if ratio.doubt else ratio.value,
        interval=None if ratio is None else ratio.interval,
        doubt="" if ratio is None else ratio.doubt,
        multiply_adds=macs,
        peak_fraction=None if peak is None else macs / median / peak,
    )


def _macs(bundle: Bundle, name: str) -> int:
    return _cost(bundle, "graph" if name == PRUNED else f"{name}_graph")


def _cost(bundle: Bundle, key: str) -> int:
    if key not in bundle.manifest.cost:
        raise BundleError(f"{bundle.folder}: the manifest's cost lacks {key}; export the bundle again")
    return bundle.manifest.cost[key]


def parts(opened: Callable[..., Session], feeds: Feeds) -> dict[str, float]:
    """Share of a pruned graph's kernel time by part of the encoder, by ONNX Runtime's profile.

    opened: opens it with the given `profile`
    """
    with tempfile.TemporaryDirectory() as scratch:
        session = opened(profile=Path(scratch) / "profile")
        for _ in range(PROFILED_RUNS):
            session.run(feeds)
        events = json.loads(Path(session.raw.end_profiling()).read_text(encoding="utf-8"))
    kernels = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    return part_shares((event["name"].removesuffix("_kernel_time"), event["dur"]) for event in _outermost(kernels))


def _outermost(events: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Without those that ran inside another: the body of a Scan is in the time of the Scan.

    >>> scan, body, behind = {"ts": 0, "dur": 9}, {"ts": 2, "dur": 3}, {"ts": 9, "dur": 1}
    >>> list(_outermost([scan, body, behind])) == [scan, behind]
    True
    """
    end = -1.0
    for event in sorted(events, key=lambda event: (event["ts"], -event["dur"])):
        if event["ts"] >= end:
            end = event["ts"] + event["dur"]
            yield event


def part_shares(kernels: Iterable[tuple[str, float]]) -> dict[str, float]:
    """(node name, duration) in the order they ran -> share of the time by part of the encoder.

    A node that ONNX Runtime made up itself carries no part's name; it counts to the next one that does, whose input
    it prepares.

    >>> part_shares([("encoder.a/MatMul", 6.0), ("reshape", 1.0), ("projector.b/MatMul", 1.0), ("selection/TopK", 2.0)])
    {'encoder': 0.6, 'selection': 0.2, 'projector': 0.2}
    """
    spent = dict.fromkeys(PARTS, 0.0)
    pending = 0.0
    part = PARTS[0]
    for name, duration in kernels:
        pending += duration
        first = name.split("/")[0].split(".")[0]
        if first in PARTS:
            part = first
            spent[part] += pending
            pending = 0.0
    spent[part] += pending
    total = sum(spent.values()) or 1.0
    return {part: spent[part] / total for part in PARTS}


def _versions() -> dict[str, str]:
    import onnxruntime

    return {"onnxruntime": onnxruntime.__version__, "python": platform.python_version(), "machine": machine()}


def machine() -> str:
    """The processor's name, and how many CPUs there are."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{model or platform.processor() or platform.machine()}, {os.cpu_count()} CPUs"
