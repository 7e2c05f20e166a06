"""The methods of a sweep, each with its options: those that were asked for, and those that always stand beside them.

fastervlm                       as it comes
hiprune:alpha=0.2               with an option; one that is the default is as if it were not given
fastervlm+tome@0.5              with steps inside the encoder: reducer, and share of the unpruned multiply-adds
fastervlm+cells@0.5:bias=false  with an option of the reducer
fastervlm+adapted cells@0.5     with the weights or thresholds that `edgeprune adapt` wrote, where some are given
tome                            a reducer by itself: all that it leaves, on the schedule of its paper
random:seed=0, 1, 2; uniform; pool; none        always: what a method has to beat, and what it is measured from
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgeprune import catalog
from edgeprune.errors import MethodError, unknown_name

__all__ = ["RANDOM", "UNPRUNED", "Variant", "variants"]


@dataclass(frozen=True, order=True)
class Variant:
    """A method with its options."""

    method: str
    options: tuple[tuple[str, str], ...] = ()
    """those that are not the default, by name, as text; of the reducer as well"""
    inside: str = ""
    """the reducer, if there is one"""
    cost: float = 1.0
    """of the encoder with its steps, of the unpruned one's"""
    adapted: str = ""
    """what `edgeprune adapt` wrote for such steps, if it was given"""

    @property
    def name(self) -> str:
        """As it is written on the command line, where it can be."""
        inside = f"adapted {self.inside}" if self.adapted else self.inside
        method = f"{self.method}+{inside}@{self.cost:g}" if inside else self.method
        return ":".join([method, *(f"{option}={value}" for option, value in self.options)])

    def request(self) -> dict[str, Any]:
        """What `edgeprune export` is asked for."""
        inside = {"inside": self.inside, "encoder_cost": self.cost} if self.inside else {}
        adapted = {"adapted": Path(self.adapted)} if self.adapted else {}
        return {"method": self.method, "options": dict(self.options), **inside, **adapted}


UNPRUNED = Variant("none")
RANDOM = tuple(Variant("random", (("seed", str(seed)),) if seed else ()) for seed in range(3))
CONTROLS = (*RANDOM, Variant("uniform"), Variant("pool"))


def variants(
    given: Sequence[str] = (),
    inside: Sequence[str] = (),
    costs: Sequence[float] = (),
    adapted: Mapping[str, str] | None = None,
) -> tuple[Variant, ...]:
    """What was asked for, then what always stands beside it; without any, every method. `none` comes first.

    inside, costs: reducers and shares of the unpruned multiply-adds that each of the methods is tried with as well
    adapted: reducer -> what was adapted to its steps, which these are tried with once more

    >>> [one.name for one in variants(["fastervlm"], ["tome"], [0.6, 0.5])][1:4]
    ['fastervlm', 'fastervlm+tome@0.6', 'fastervlm+tome@0.5']

    >>> [one.name for one in variants(["hiprune:alpha=0.2", "divprune"])][:4]
    ['none', 'hiprune:alpha=0.2', 'divprune', 'random']

    Raises MethodError for a name or an option that does not exist.
    """
    entries = {entry.name: entry for entry in catalog.methods()}
    reducers = {entry.name: entry for entry in catalog.reducers()}
    asked = [_read(text, entries, reducers) for text in given] or [
        Variant(name) for name in entries if Variant(name) not in (UNPRUNED, *CONTROLS)
    ]
    for reducer in inside:
        if reducer not in reducers:
            raise MethodError(unknown_name("reducer", reducer, reducers))

    def within(one: Variant) -> Sequence[str]:
        return () if one.method in reducers else inside

    asked = [
        each
        for one in asked
        for each in (one, *(replace(one, inside=name, cost=cost) for name in within(one) for cost in costs))
    ]
    trained = adapted or {}
    asked = [
        each
        for one in asked
        for each in (one, *([replace(one, adapted=trained[one.inside])] if one.inside in trained else []))
    ]
    return tuple(dict.fromkeys((UNPRUNED, *asked, *CONTROLS)))


def _read(text: str, entries: dict[str, catalog.Entry], reducers: dict[str, catalog.ReducerEntry]) -> Variant:
    whole, *settings = text.split(":")
    name, plus, inside = whole.partition("+")
    if name not in entries and name.replace("-", "_") in reducers and not plus:
        name = name.replace("-", "_")
    reducer, at, cost = inside.partition("@")
    if name not in entries and (plus or name not in reducers):
        raise MethodError(unknown_name("method", name, [*entries, *reducers]))
    if plus and (reducer not in reducers or not at):
        if at:
            raise MethodError(unknown_name("reducer", reducer, reducers))
        raise MethodError(f"steps inside the encoder are written REDUCER@COST, as {name}+tome@0.5, got {whole!r}")
    options: dict[str, str] = {}
    for setting in settings:
        option, equals, value = setting.partition("=")
        if not equals:
            raise MethodError(f"an option in --methods must be NAME=VALUE behind a colon, got {setting!r} in {text!r}")
        entry: catalog.Entry | catalog.ReducerEntry = entries.get(name) or reducers[name]
        if plus and option not in entry.options:
            entry = reducers[reducer]
        typed = catalog.option_value(entry.name, option, value, entry.options)
        if repr(typed) != entry.defaults[option]:
            options[option] = str(typed).lower() if isinstance(typed, bool) else str(typed)
    return Variant(name, tuple(sorted(options.items())), reducer, _cost(cost, whole) if plus else 1.0)


def _cost(text: str, whole: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise MethodError(
            f"the cost of steps inside must be a share, as in tome@0.5, got {text!r} in {whole!r}"
        ) from None
