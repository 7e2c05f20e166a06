"""Options of the method and of the reducer, as text, before any weight is read. No torch."""

from __future__ import annotations

import re
from collections.abc import Mapping

from edgeprune import catalog
from edgeprune.catalog import Entry, ReducerEntry
from edgeprune.errors import MethodError, RequestError, unknown_name
from edgeprune.traits import WEIGHTING

__all__ = ["check_options", "pair"]


def check_options(
    method: Entry, reducer: ReducerEntry | None, options: Mapping[str, str], called: str | None = None
) -> None:
    """Of each, that the method has it, or else the reducer, and that its text is of its type.

    called: the reducer, where it was asked for as a method

    Raises MethodError, and RequestError where an option cannot go with the reducer.
    """
    both: tuple[Entry | ReducerEntry, ...] = (method,) if reducer is None else (method, reducer)
    for option, text in options.items():
        owner = next((one for one in both if option in one.options), None)
        if owner is None:
            raise MethodError(_not_had(option, method, reducer, called))
        catalog.option_value(owner.name, option, text, owner.options)
    if reducer is not None and "score" in reducer.options and "score" in options and "score" not in method.options:
        catalog.check_score(options["score"], {one.name: one.traits.ranks for one in catalog.methods()})
    _check_weighting(method, reducer, {name: text for name, text in options.items() if name in method.options})


def _not_had(option: str, method: Entry, reducer: ReducerEntry | None, called: str | None) -> str:
    """Where others have an option of that name, who they are; else which are near."""
    asked: list[Entry | ReducerEntry] = [method] if reducer is None else [reducer] if called else [method, reducer]
    if reducer is not None and (able := [one.name for one in catalog.reducers() if option in one.options]):
        flag, kind = ("--method" if called else "--inside"), "reducers"
        one: Entry | ReducerEntry = reducer
    elif able := [one.name for one in catalog.methods() if option in one.options]:
        flag, one = "--method", method
        kind = "methods that rank by attention" if option in WEIGHTING else "methods"
    else:
        names = " or ".join(one.name for one in asked)
        return unknown_name(f"option of {names}", option, [name for one in asked for name in one.options])
    has = f"whose options are {', '.join(one.options)}" if one.options else "which has no option"
    return (
        f"option {option} is of the {kind} {', '.join(able)}; got {flag} {one.name}, {has}; leave it out, or give one "
        "of these"
    )


def _check_weighting(method: Entry, reducer: ReducerEntry | None, options: Mapping[str, str]) -> None:
    """Of the method's options, those that every method by attention has."""
    own = {name: text for name, text in options.items() if name in WEIGHTING and text != WEIGHTING[name]}
    if not own or not method.traits.attends:
        return
    if own.get("position", "fitted") != "fitted":
        raise MethodError(
            f"option position must be none or fitted, got {own['position']}; give fitted, or leave it out"
        )
    if "padding" in own:
        pair("option padding", own["padding"], "none, or height x width of the images, as 480x640")
    if reducer is not None:
        raise RequestError(
            f"option {next(iter(own))} is of patches that stay in their places, got --inside {reducer.name}, which "
            "moves them; leave one of the two out"
        )


def pair(option: str, text: str | None, what: str) -> tuple[int, int] | None:
    """Two whole numbers above 0 with an x between them; None of None. Raises RequestError; what: it must be."""
    if text is None:
        return None
    if not (sides := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)):
        raise RequestError(f"{option} must be {what}, got {text}")
    return int(sides[1]), int(sides[2])
