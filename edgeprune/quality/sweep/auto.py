"""`export --keep auto`: the budget is found on exported graphs, by bisection.

    --floor S         the fewest tokens with   accuracy(K) >= S * accuracy(N)      of a model that answers questions
                                               nearest(K) >= S                     else (`fidelity`)
    --ceiling-ms X    the most tokens whose graph takes X ms at most, here, in the median

Where sets nest, one graph that keeps all N is run once and cut to each K; elsewhere each K tried is an export of its
own. Bisection takes for granted that more tokens are no worse and no faster; every K tried and its figure is kept.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeprune.bundle import load as load_bundle
from edgeprune.errors import RequestError
from edgeprune.quality.errors import clustered
from edgeprune.quality.sweep import work
from edgeprune.quality.sweep.items import SCENES, Item, Shard, drawn, of_folder, of_questions
from edgeprune.quality.sweep.request import LONGEST, Request, place_of
from edgeprune.quality.sweep.work import RIGHT, Place
from edgeprune.runtime.backends.ort import open_encoder
from edgeprune.runtime.budgets import Budgets
from edgeprune.runtime.ledger.bench import measure, noise

if TYPE_CHECKING:
    from edgeprune import export
    from edgeprune.bundle import Manifest

__all__ = ["AUTO", "SEED", "Calibration", "Goal", "check_goal", "find_keep"]

AUTO = "auto"
SEED = 21_000
"""of the scenes that a budget is found on: neither those that are judged on nor those that were trained on"""
COUNT = 200
"""images at most"""
QUESTIONS = "questions.jsonl"
"""in the folder of images, where the model is to be asked about them"""
ROUNDS = 30

Show = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Goal:
    """One of both."""

    floor: float | None = None
    """in (0, 1]"""
    ceiling_ms: float | None = None


@dataclass(frozen=True)
class Calibration:
    """How a budget was found, as the manifest has it under `calibration`."""

    keep: int
    goal: str
    """floor or ceiling_ms"""
    wanted: float
    measured: float
    """at that budget: the share of the unpruned accuracy or fidelity; or median ms"""
    error: float | None
    """one standard error of the share, clustered by image; half the 95 % interval of the median; None: not known"""
    what: str
    """accuracy, nearest (`fidelity`), or ms"""
    data: str
    """drawn scenes, or the name of the folder"""
    images: int
    questions: int
    tried: Mapping[str, float]
    """tokens -> figure"""
    graphs: int
    """exports that were run; 1 where sets nest"""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def check_goal(goal: Goal, request: export.Request, calibrate: str | None) -> None:
    """What can be said before anything is read. Raises RequestError."""
    from edgeprune.export.request import spelled_out

    request = spelled_out(request)
    if (goal.floor is None) == (goal.ceiling_ms is None):
        raise RequestError("--keep auto needs --floor (a share, as 0.99) or --ceiling-ms, one of them")
    if goal.floor is not None and not 0 < goal.floor <= 1:
        raise RequestError(f"--floor must be in (0, 1], got {goal.floor:g}; 0.99 loses 1 % at most")
    if goal.ceiling_ms is not None and not goal.ceiling_ms > 0:
        raise RequestError(f"--ceiling-ms must be above 0, got {goal.ceiling_ms:g}")
    if goal.ceiling_ms is not None and calibrate is not None:
        raise RequestError("--calibrate goes with --floor; a time needs no images, leave it out")
    if goal.floor is not None and calibrate is None and request.model is not None:
        raise RequestError(f"--calibrate must name a folder of images, or {SCENES}, for {request.model}; it is missing")
    if calibrate not in (None, SCENES):
        _folder_items(Path(str(calibrate)))
    if request.inside is not None and not request.called:
        raise RequestError(
            "--keep auto finds the budget of a method behind the whole encoder, steps inside would change with it, "
            f"got --inside {request.inside}; give --keep a number"
        )
    if request.schedule not in (None, "official") and request.inside is not None:
        raise RequestError("--keep auto tries budgets, and --schedule names one; give --keep a number")
    if request.called and request.encoder_cost is not None:
        raise RequestError(f"--keep auto and --encoder-cost both say what {request.called} leaves; give one of them")
    if request.called and goal.ceiling_ms is not None:
        raise RequestError(f"--ceiling-ms needs a method that can keep all, {request.called} cannot; give --floor")
    if request.tiles > 1:
        raise RequestError(f"--keep auto tries single images, got --tiles {request.tiles}; give --keep a number")


def find_keep(
    request: export.Request, goal: Goal, calibrate: str | None = None, show: Show = lambda *_: None
) -> Calibration:
    """The budget that meets the goal, on graphs exported for the CPU in the precision asked for.

    request: of the export that follows; its budget is not looked at
    calibrate: a folder of images, asked about in its QUESTIONS if it has such; or SCENES; None: SCENES
    show: called with steps done, steps at most, and what comes next

    Raises RequestError (and its kinds) when the goal cannot be met, and as an export does.
    """
    from edgeprune import targets

    check_goal(goal, request, calibrate)
    precision = request.precision or targets.load(request.target).onnx.float
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as scratch:
        plain = replace(
            request, target="cpu", precision=precision, tiles=1, dynamic_batch=False, uint8=False, probes=None,
            baselines=False, runtime=False, push_to_hub=None, private=False,
        )  # fmt: skip
        return _Search(plain, Path(scratch), show).calibrated(goal, calibrate)


class _Search:
    def __init__(self, request: export.Request, scratch: Path, show: Show) -> None:
        self.request, self.scratch, self.show = request, scratch, show
        self.tried: dict[int, tuple[float, float | None]] = {}
        self.exports = 0

    def calibrated(self, goal: Goal, calibrate: str | None) -> Calibration:
        self.show(0, 1, "export unpruned")
        whole = self.export("none", 0)
        every = whole.patches
        self.steps = 2 + math.ceil(math.log2(every))
        if goal.ceiling_ms is not None:
            keep, measured, error = self.most(every, goal.ceiling_ms)
            return Calibration(
                keep, "ceiling_ms", goal.ceiling_ms, measured, error, "ms", "the CPU of this machine", 0, 0,
                self.figures(), self.exports,
            )  # fmt: skip
        assert goal.floor is not None
        place, items = self.data(calibrate)
        judge = _Judge(place, Shard(0, items), self.scratch / "none-0")
        nested = self.nested(every)
        keep, measured, error = self.fewest(every, goal.floor, judge, nested)
        return Calibration(
            keep, "floor", goal.floor, measured, error, judge.what,
            "drawn scenes" if calibrate in (None, SCENES) else Path(str(calibrate)).resolve().name,
            len(items), sum(len(item.queries) for item in items), self.figures(), 1 if nested else self.exports,
        )  # fmt: skip

    def figures(self) -> dict[str, float]:
        return {str(keep): round(value, 6) for keep, (value, _) in sorted(self.tried.items())}

    def export(self, method: str, keep: int) -> Manifest:
        """0: every token. Raises as an export does."""
        from edgeprune.export.job import export_bundle

        own = method != "none"
        request = replace(self.request, keep=keep or None, output=self.scratch / f"{method}-{keep}")
        if not own:
            request = replace(
                request, method=method, options={}, scorer=None, inside=None, schedule=None, encoder_cost=None,
                calibrate=None, correction=None, outputs=(),
            )  # fmt: skip
        manifest = export_bundle(request).manifest
        if manifest.kind != "tokens":
            instead = "use `bavit eval`" if manifest.kind == "detections" else "give --keep a number, or a share"
            raise RequestError(f"--keep auto judges tokens, {manifest.model.family} gives {manifest.kind}; {instead}")
        self.exports += own
        return manifest

    def nested(self, every: int) -> bool:
        """Whether one graph of all tokens serves every budget; it is exported then."""
        from edgeprune import pruners
        from edgeprune.export.request import spelled_out

        if not pruners.get(spelled_out(self.request).method).traits.nested:
            return False
        self.show(1, self.steps, f"export {self.request.method} {every}")
        return not Budgets.of(self.export(self.request.method, every)).refused

    def fewest(self, every: int, floor: float, judge: _Judge, nested: bool) -> tuple[int, float, float | None]:
        """That reach the floor; all of them do."""
        from edgeprune.export.request import spelled_out

        method, by_itself = self.request.method, spelled_out(self.request).called is not None

        def share(keep: int) -> float:
            self.show(1 + len(self.tried), self.steps, f"try {keep} tokens")
            if not nested:
                try:
                    self.export(method, keep)
                except RequestError:
                    if not by_itself:
                        raise
                    return 0.0  # steps cannot leave so few, and fewer even less
            folder = self.scratch / f"{method}-{every if nested else keep}"
            self.tried[keep] = judge.share(folder, keep)
            return self.tried[keep][0]

        low, high = 0, every
        while high - low > 1:
            middle = (low + high) // 2
            if share(middle) >= floor:
                high = middle
            else:
                low = middle
        if high not in self.tried:
            share(high)
        return (high, *self.tried[high])

    def most(self, every: int, ceiling: float) -> tuple[int, float, float | None]:
        """Whose graph takes no longer."""
        method = self.request.method

        def within(keep: int) -> bool:
            self.show(1 + len(self.tried), self.steps, f"time {keep} tokens")
            self.export(method, keep)
            self.tried[keep] = _median_ms(self.scratch / f"{method}-{keep}")
            return self.tried[keep][0] <= ceiling

        if within(every):
            return (every, *self.tried[every])
        if not within(1):
            raise RequestError(
                f"--ceiling-ms must be at least what one token takes, {self.tried[1][0]:.2f} ms with {method} here; "
                f"got {ceiling:g}"
            )
        low, high = 1, every
        while high - low > 1:
            middle = (low + high) // 2
            if within(middle):
                low = middle
            else:
                high = middle
        return (low, *self.tried[low])

    def data(self, calibrate: str | None) -> tuple[Place, tuple[Item, ...]]:
        """The model's place, and images with questions if it can be asked."""
        request = self.request
        as_sweep = Request(
            Path(), model=request.model, revision=request.revision, grid=request.grid, images=calibrate, workers=1,
            longest=1 if calibrate in (None, SCENES) else LONGEST,
        )  # fmt: skip
        place, _, language = place_of(as_sweep)
        items = drawn(COUNT, SEED) if calibrate in (None, SCENES) else _folder_items(Path(str(calibrate)))
        if language and all(item.queries for item in items):
            return place, items
        return place, tuple(Item(item.name, item.source) for item in items)


class _Judge:
    """What is left of the unpruned graph's accuracy, or fidelity without questions."""

    def __init__(self, place: Place, shard: Shard, unpruned: Path) -> None:
        self._place, self._shard, self._unpruned = place, shard, unpruned
        self.what = "accuracy" if shard.items[0].queries else "nearest"
        self._base: Sequence[float] = []

    def share(self, folder: Path, keep: int) -> tuple[float, float | None]:
        """Of the graph in a folder, cut to so many tokens, with its standard error."""
        wanted = [(keep, RIGHT)]
        if self.what == "nearest":
            (judged,) = work.faithful(self._place, folder, self._shard, wanted, self._unpruned)
            mean = clustered(judged["nearest"], range(len(judged["nearest"])))
            return mean.value, None if math.isnan(mean.error) else mean.error
        if not self._base:
            (judged,) = work.answers(self._place, self._unpruned, self._shard, [(0, RIGHT)])
            self._base = judged["score"]
        (judged,) = work.answers(self._place, folder, self._shard, wanted)
        return _ratio(judged["score"], self._base, self._shard.items)


def _ratio(values: Sequence[float], base: Sequence[float], items: Sequence[Item]) -> tuple[float, float | None]:
    """mean(values) / mean(base), with its error to first order, clustered by image. Raises RequestError."""
    own, other = np.asarray(values), np.asarray(base)
    if not other.any():
        raise RequestError("--floor is a share of the unpruned accuracy, which is 0 on these questions; give others")
    ratio = float(own.sum() / other.sum())
    groups = [at for at, item in enumerate(items) for _ in item.queries]
    error = clustered((own - ratio * other).tolist(), groups).error / float(other.mean())
    return ratio, None if math.isnan(error) else error


def _median_ms(folder: Path) -> tuple[float, float | None]:
    """Of the graph here, with half the interval that holds the median with 95 %."""
    session = open_encoder(load_bundle(folder))
    seconds = np.sort(measure({"graph": session}, {"graph": noise(session)}, ROUNDS)["graph"])
    off = math.ceil(0.98 * math.sqrt(len(seconds)))  # ranks, by the binomial's normal approximation
    middle = len(seconds) // 2
    low, high = seconds[max(0, middle - off)], seconds[min(len(seconds) - 1, middle + off)]
    return 1e3 * float(np.median(seconds)), 1e3 * float(high - low) / 2


def _folder_items(folder: Path) -> tuple[Item, ...]:
    """Of --calibrate. Raises RequestError and ImageError."""
    if not folder.is_dir():
        raise RequestError(f"--calibrate must be a folder of images, or {SCENES}; there is no folder {folder}")
    if (folder / QUESTIONS).is_file():
        return of_questions(folder / QUESTIONS, folder, COUNT)
    return of_folder(folder, COUNT, "--calibrate")
