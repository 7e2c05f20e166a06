"""A ratio beside its limit. Seconds and memory belong to the machine and are printed; ratios are held to limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest


def hold(what: str, ratios: Sequence[float], most: float = float("inf"), least: float = 0.0) -> None:
    """Print the median of a ratio that was measured several times, its spread and its limits. Fails only where it is
    beyond a limit by more than the spread, which is half of the way from the lowest to the highest."""
    middle, spread = float(np.median(ratios)), (max(ratios) - min(ratios)) / 2
    limits = [f"{word} {limit:g}" for word, limit in (("at least", least), ("at most", most)) if 0 < limit < np.inf]
    print(f"{what}: {middle:.4f} +- {spread:.4f} of {len(ratios)} ({' and '.join(limits)})")
    assert middle - spread <= most, f"{what} must be at most {most:g}, it is {middle:.4f} with a spread of {spread:.4f}"
    assert middle + spread >= least, (
        f"{what} must be at least {least:g}, it is {middle:.4f} with a spread of {spread:.4f}"
    )


@pytest.fixture(name="hold", scope="session")
def hold_fixture() -> Callable[..., None]:
    return hold
