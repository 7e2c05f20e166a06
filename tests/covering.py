"""Which cases of a test always run: those that cover it; the others are marked, and run where there is time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

__all__ = ["always"]


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
