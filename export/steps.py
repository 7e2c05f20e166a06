"""Steps inside the encoder, chosen for a share of the unpruned encoder's multiply-adds.

A reducer says at which depths it cuts best (`Reducer.depths`: of the layers in front of the features, the best one
first) and how much of the rows a step may be rid of (`gentle`). The fewest steps that reach the cost are taken: another
one merges again what was merged, and costs its kernels. The same share goes at each step. One number is left, how much
goes, and the cost falls with it: it is bisected. Counts are rounded down, so that the sequence with special tokens and
hidden rows is a multiple of what a target's tensor cores take, and the cost is at most what was asked for.

Where the depths do not reach the cost, the same number of steps is tried nearer to the front: deeper cuts lose less.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

from edgeprune.encoders import Encoder
from edgeprune.errors import RequestError
from edgeprune.export.baselines import unpruned
from edgeprune.export.cost import formula
from edgeprune.pruners import Method
from edgeprune.pruners.inside import Reducer
from edgeprune.schedule import Inside, Step

__all__ = ["chosen_steps", "own_steps"]

NEARER = (1.0, 0.85, 0.7, 0.55, 0.4)
"""of the reducer's own depths"""


def chosen_steps(
    encoder: Encoder, reducer: Reducer, name: str, method: Method, cost: float, multiple: int = 1
) -> tuple[Step, ...]:
    """The steps under which encoder and method cost at most a share of the unpruned encoder.

    method: of one that keeps all, its budget is the least that the last step may leave
    name: of the reducer; cost: in (0, 1); multiple: of tokens that a layer should see

    Raises RequestError when no steps reach it, or none are needed; the line says what can be had.
    """
    whole = formula(*unpruned(encoder))
    bare = formula(dataclasses.replace(encoder, inside=None), _behind(method, encoder.patches)) / whole
    if bare <= cost:
        raise RequestError(
            f"--encoder-cost must be below what it costs without steps inside, {bare:.3f} of the unpruned encoder, got "
            f"{cost:g}; give less, or leave --inside out"
        )

    def share(steps: Sequence[Step]) -> float:
        if not steps:
            return bare
        within = dataclasses.replace(encoder, inside=Inside(name, reducer, tuple(steps)))
        return formula(within, _behind(method, steps[-1].keep)) / whole

    least = bare
    special = encoder.tower.prefix + encoder.tower.suffix + reducer.hidden
    for layers in _depths(reducer, encoder.layer):

        def steps(goes: float, layers: Sequence[int] = layers) -> tuple[Step, ...]:
            counts = _counts(reducer, encoder.patches, method.keep, len(layers), goes, multiple, special)
            return _steps(layers, counts, encoder.patches)

        last = float(len(layers))
        if not steps(last):  # every patch is to be kept
            continue
        most = share(steps(last))
        least = min(least, most)
        if most > cost:
            continue
        low, high = 0.0, last  # at `low` too much is left
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (low, middle) if share(steps(middle)) <= cost else (middle, high)
        return steps(high)
    raise RequestError(
        f"--encoder-cost {cost:g} cannot be met with --inside {name} and {method.keep} tokens: the least is "
        f"{math.ceil(1000 * least) / 1000:g}; give that, or another reducer, or keep less"
    )


def _behind(method: Method, rows: int) -> Method:
    """The method on so many rows, where it takes all that there are."""
    return dataclasses.replace(method, keep=rows) if method.traits.keeps_all else method  # type: ignore[type-var]


def own_steps(encoder: Encoder, reducer: Reducer, keep: int, multiple: int = 1) -> tuple[Step, ...]:
    """The steps at the reducer's own depths, down to `keep` as it goes down; of one whose paper has no schedule.

    multiple: of tokens that a layer should see
    """
    special = encoder.tower.prefix + encoder.tower.suffix + reducer.hidden
    layers = _layers(reducer.depths, encoder.layer)
    counts = _counts(reducer, encoder.patches, keep, len(layers), 1.0, multiple, special)
    return _steps(layers, [*counts[:-1], keep], encoder.patches)


def _steps(layers: Sequence[int], counts: Sequence[int], patches: int) -> tuple[Step, ...]:
    """Those behind which fewer rows are left than before."""
    rows, steps = patches, []
    for layer, count in zip(layers, counts, strict=True):
        if count < rows:
            steps.append(Step(layer, count))
            rows = count
    return tuple(steps)


def _depths(reducer: Reducer, layers: int) -> Iterator[tuple[int, ...]]:
    """Where the steps stand, the reducer's own choice first: few of them, then more, then nearer to the front."""
    seen = set()
    fewest = 1 if reducer.few else len(reducer.depths)
    for nearer in NEARER:
        for count in range(fewest, len(reducer.depths) + 1):
            places = _layers(reducer.depths[:count], layers, nearer)
            if places not in seen:
                seen.add(places)
                yield places


def _layers(depths: Sequence[float], layers: int, nearer: float = 1.0) -> tuple[int, ...]:
    """How many layers stand in front of each step, ascending, each behind another one."""
    return tuple(sorted({min(max(round(depth * nearer * layers), 1), layers - 1) for depth in depths}))


def _counts(
    reducer: Reducer, patches: int, keep: int, steps: int, goes: float, multiple: int, special: int
) -> list[int]:
    """Rows behind each step; goes: 0 nothing, 1 down to `keep` at the last one, beyond it sooner.

    >>> from edgeprune.pruners.inside import get
    >>> _counts(get("drop")(), 576, 64, 2, 1.0, 1, 1), _counts(get("tome")(), 576, 64, 3, 0.75, 1, 1)
    ([231, 93], [340, 201, 119])
    """
    counts, rows = [], patches
    for step in range(1, steps + 1):
        wanted = patches * (keep / patches) ** (goes * step / steps)
        count = math.floor(wanted + 1e-9)
        if multiple > 1 and (rounded := (count + special) // multiple * multiple - special) >= keep:
            count = rounded
        count = max(count, keep, rows - math.floor(min(reducer.most, reducer.gentle) * rows))
        counts.append(count)
        rows = count
    return counts
