"""Versions and their ranges, as targets say them: ">=10.3,<10.4"."""

from __future__ import annotations

import operator
import re

__all__ = ["accepts", "clauses", "release", "span"]

_COMPARE = {">=": operator.ge, "<=": operator.le, "<": operator.lt, "==": operator.eq}


def accepts(range_: str, version: str) -> bool:
    """Whether a version lies in a range; one that does not begin with a number is older than all others.

    >>> accepts(">=2.11,<2.14", "2.13.0+cu130"), accepts("", "anything"), accepts(">=2", "unknown")
    (True, True, False)
    """
    return all(_COMPARE[sign](release(version), release(bound)) for sign, bound in clauses(range_))


def release(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, without zeros at the end: 10.3 equals 10.3.0.

    >>> release("10.3.0"), release("10.14.1.48.post1")
    ((10, 3), (10, 14, 1, 48))
    """
    match = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(number) for number in match.group().split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def clauses(range_: str) -> list[tuple[str, str]]:
    return re.findall(r"(>=|<=|==|<)([\d.]+)", range_)


def span(range_: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The oldest and newest release of a range: infinite when it has no upper bound, just below the bound for `<`."""
    oldest: tuple[float, ...] = (0,)
    newest: tuple[float, ...] = (float("inf"),)
    for sign, bound in clauses(range_):
        end: tuple[float, ...] = release(bound)
        if sign in (">=", "=="):
            oldest = end
        if sign in ("<=", "=="):
            newest = end
        if sign == "<":
            newest = (*end[:-1], end[-1] - 0.5)
    return oldest, newest
