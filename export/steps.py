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
from collections.abc import Callable, Iterator, Sequence

from edgeprune.encoders import Encoder
from edgeprune.errors import RequestError
from edgeprune.export.baselines import unpruned
from edgeprune.export.cost import formula
from edgeprune.pruners import Method
from edgeprune.pruners.inside import Reducer
from edgeprune.schedule import Inside, Reduces, Step

__all__ = ["bent_steps", "chosen_steps", "layers_at", "own_steps", "share_of"]

NEARER = (1.0, 0.85, 0.7, 0.55, 0.4)
"""of the reducer's own depths"""
MOST_BENT = 16.0
"""the power up to which learned shares are bent"""


def chosen_steps(
    encoder: Encoder, reducer: Reducer, name: str, method: Method, cost: float, multiple: int = 1
) -> tuple[Step, ...]:
    """The steps under which encoder and method cost at most a share of the unpruned encoder.

    method: of one that keeps all, its budget is the least that the last step may leave
    name: of the reducer; cost: in (0, 1); multiple: of tokens that a layer should see

    Raises RequestError when no steps reach it, or none are needed; the line says what can be had.
    """
    share = share_of(encoder, reducer, name, method)
    least = _bare(share, cost)
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
        if most <= cost:
            return _bisected(steps, share, cost, last)
    raise _unmet(name, method, cost, least)


def bent_steps(
    encoder: Encoder,
    reducer: Reducer,
    name: str,
    method: Method,
    cost: float,
    passing: Sequence[Step],
    multiple: int = 1,
) -> tuple[Step, ...]:
    """The same, as near as may be to steps that were learned: what they leave of the patches, all to one power.

    passing: those that were learned; the others, and what is raised: as of `chosen_steps`
    """
    share = share_of(encoder, reducer, name, method)
    _bare(share, cost)
    special = encoder.tower.prefix + encoder.tower.suffix + reducer.hidden

    def steps(power: float) -> tuple[Step, ...]:
        wanted = [encoder.patches * (one.keep / encoder.patches) ** power for one in passing]
        counts = [max(method.keep, _rounded(one, method.keep, multiple, special)) for one in wanted]
        return _steps([one.layer for one in passing], counts, encoder.patches)

    if (least := share(steps(MOST_BENT))) > cost:
        raise _unmet(name, method, cost, least)
    return _bisected(steps, share, cost, MOST_BENT)


def share_of(encoder: Encoder, reducer: Reduces, name: str, method: Method) -> Callable[[Sequence[Step]], float]:
    """What an encoder costs under steps, of the unpruned one."""
    whole = formula(*unpruned(encoder))

    def share(steps: Sequence[Step]) -> float:
        within = dataclasses.replace(encoder, inside=Inside(name, reducer, tuple(steps)) if steps else None)
        return formula(within, _behind(method, steps[-1].keep if steps else encoder.patches)) / whole

    return share


def _bare(share: Callable[[Sequence[Step]], float], cost: float) -> float:
    """What it costs without steps. Raises RequestError where none are needed."""
    if (bare := share(())) <= cost:
        raise RequestError(
            f"--encoder-cost must be below what it costs without steps inside, {bare:.3f} of the unpruned encoder, got "
            f"{cost:g}; give less, or leave --inside out"
        )
    return bare


def _bisected(
    steps: Callable[[float], tuple[Step, ...]], share: Callable[[Sequence[Step]], float], cost: float, last: float
) -> tuple[Step, ...]:
    """The dearest steps of at most this cost, which falls from 0, where it is too much, to `last`, where it is met."""
    low, high = 0.0, last
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if share(steps(middle)) <= cost else (middle, high)
    return steps(high)


def _unmet(name: str, method: Method, cost: float, least: float) -> RequestError:
    return RequestError(
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
    layers = layers_at(reducer.depths, encoder.layer)
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
            places = layers_at(reducer.depths[:count], layers, nearer)
            if places not in seen:
                seen.add(places)
                yield places


def layers_at(depths: Sequence[float], layers: int, nearer: float = 1.0) -> tuple[int, ...]:
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
        gently = rows - math.floor(min(reducer.most, reducer.gentle) * rows)
        count = max(_rounded(wanted, keep, multiple, special), keep, gently)
        counts.append(count)
        rows = count
    return counts


def _rounded(wanted: float, keep: int, multiple: int, special: int) -> int:
    """Down, and to a multiple with the special tokens, unless that is below `keep`."""
    count = math.floor(wanted + 1e-9)
    rounded = (count + special) // multiple * multiple - special
    return rounded if rounded >= keep else count
