"""Which cases of a test always run: those that cover it; the others are marked, and run where there is time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

__all__ = ["METHODS", "always", "of_methods", "parted"]

METHODS = (
    *("fastervlm", "uniform", "divprune", "mmtok", "visionzip", "aim", "hiprune", "forestprune"),
    *("holov", "vispruner", "prunesid", "bavit"),
)
"""of all methods, those that a matrix always runs on, one of each parity rule: the highest of [CLS]; fixed, inside;
greedy without [CLS]; asked; merged with weights, and pair by pair; stages, trees over frames, chunks, thinning, groups;
learned, in front of the encoder"""


def always(cases: Iterable[Any], *covering: Any, mark: str = "slow") -> list[Any]:
    """The cases, marked but for the covering ones, each of which must be among them.

    >>> [len(one.marks) for one in always(["a", "b"], "b")]
    [1, 0]
    """
    every = list(cases)
    assert all(one in every for one in covering), (
        f"not among the cases: {[one for one in covering if one not in every]}"
    )
    marks = getattr(pytest.mark, mark)
    return [
        pytest.param(*(one if isinstance(one, tuple) else (one,)), marks=() if one in covering else marks)
        for one in every
    ]


def of_methods(cases: Iterable[Any], *more: Any) -> list[Any]:
    """Cases of all methods, each a name or a tuple that begins with one: those of METHODS always run, and `more`.

    >>> [len(one.marks) for one in of_methods([("aot", 1), ("aim", 1), ("aim", 2)])]
    [1, 0, 0]
    """
    every = list(cases)
    return always(every, *(one for one in every if (one[0] if isinstance(one, tuple) else one) in METHODS), *more)


def parted(cases: Mapping[Any, Iterable[str]]) -> list[Any]:
    """Case -> the methods that it goes through, one after the other: (case, methods), once with those of METHODS, and
    once with the others, which is marked slow.

    >>> [(*one.values, len(one.marks)) for one in parted({"noise": ["aim", "aot"]})]
    [('noise', ['aim'], 0), ('noise', ['aot'], 1)]
    """
    parts = []
    for case, names in cases.items():
        covering, others = ([name for name in names if (name in METHODS) == wanted] for wanted in (True, False))
        parts += [pytest.param(case, covering)] if covering else []
        parts += [pytest.param(case, others, marks=pytest.mark.slow)] if others else []
    return parts
