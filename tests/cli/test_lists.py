"""`edgeprune methods` and `targets`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

Done = Any
Run = Callable[..., Any]


def test_methods_and_targets_are_listed(run: Run) -> None:
    from edgeprune import pruners, targets
    from edgeprune.pruners import inside

    every = [*pruners.names(), *inside.names()]
    for verb, names in (("methods", every), ("targets", targets.names())):
        done = run(verb)
        assert (done.code, done.err) == (0, "")
        assert [name for name in names if not re.search(rf"^ {name} ", done.out, re.MULTILINE)] == []


def test_one_target_is_shown(run: Run) -> None:
    done = run("targets", "jetson-orin")
    assert (done.code, done.err) == (0, "")
    assert re.search(r"^engine +tensorrt >=10\.3,<10\.4, built on-device", done.out, re.MULTILINE)
