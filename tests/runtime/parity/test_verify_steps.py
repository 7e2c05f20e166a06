"""verify, where the reference itself is at hand: it is asked where a step differs within rounding, and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeprune.runtime.parity.stored import Probe
from edgeprune.runtime.parity.verdict import Verdict
from edgeprune.runtime.parity.verify import _run
from tests.runtime.parity.test_inside import DROP, OTHER, Arrays, dropped

FORCED = dropped(**{**OTHER, "scores_1": dropped()["scores.1"][0]})
"""what the reference makes of it that did what the device did"""


def run(got: Arrays, asked: list[str]) -> Verdict:
    def forced(name: str, outputs: Mapping[str, Any]) -> tuple[Arrays, Arrays]:
        asked.append(name)
        assert np.array_equal(outputs["trail.1"], FORCED["trail.1"])
        return FORCED, {}

    session, manifest = SimpleNamespace(flags=()), SimpleNamespace(precision="float16", computes="float16")
    runner: Any = SimpleNamespace(session=session, manifest=manifest, run=lambda feeds: got)
    return _run(runner, "scene", Probe({}, dropped(), DROP, {}, True), forced)


def test_a_device_that_did_as_the_reference_did_is_judged_by_what_is_stored() -> None:
    asked: list[str] = []
    assert run(dropped(), asked).decided == 6
    assert asked == []


def test_one_that_fails_by_what_is_stored_has_failed() -> None:
    asked: list[str] = []
    assert run(dropped(trail_1=[-1, 0, 1, -1, 2, 2]), asked).reasons
    assert asked == []


@pytest.mark.parametrize(("tokens", "passed"), [([[1.0, 2.5], [3.0, 3.5]], True), ([[9.0, 9], [9, 9]], False)])
def test_one_that_differs_within_rounding_is_judged_by_the_reference_that_follows_it(
    tokens: list[list[float]], passed: bool
) -> None:
    asked: list[str] = []
    verdict = run(dropped(**{**OTHER, "tokens": tokens}), asked)
    assert (verdict.passed, verdict.tokens, asked) == (passed, 2, ["scene"])
