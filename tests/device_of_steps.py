"""A device whose sequence shortens inside the encoder, to plant faults in: the traced module itself, on two scenes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgeprune.encoders import Encoder
from edgeprune.export.manifest import rule_of
from edgeprune.export.precision import in_precision
from edgeprune.fit_inside import build_reducer, parse_steps, with_inside
from edgeprune.pruners import Method
from edgeprune.reference import OfficialEncoder
from edgeprune.runtime.parity import Verdict, compare
from edgeprune.runtime.parity.stored import replayed
from edgeprune.schedule import Reduction, Step
from edgeprune.taps import Taps
from edgeprune.trace import PrunedEncoder, outputs
from tests.device import Arrays, of_scenes

SCHEDULE = "2:80,3:48"
Fault = Callable[[Any, Step, Taps, Mapping[str, Tensor]], Reduction]


class Faulty:
    """A reducer that does one thing otherwise."""

    def __init__(self, own: Any, fault: Fault | None, **instead: Any) -> None:
        self._own, self._fault, self._instead = own, fault, instead

    def __getattr__(self, name: str) -> Any:
        return self._instead[name] if name in self._instead else getattr(self._own, name)

    def select(self, step: Step, taps: Taps, carried: Mapping[str, Tensor]) -> Reduction:
        found: Reduction = (
            self._own.select(step, taps, carried)
            if self._fault is None
            else self._fault(self._own, step, taps, carried)
        )
        return found


class Stepping:
    """One reducer in front of one method; what it hands out is kept, and not to be changed."""

    def __init__(self, reducer: str, method: str = "fastervlm", schedule: str = SCHEDULE, keep: int = 32) -> None:
        plain = of_scenes()
        self.method: Method = plain.method(method, keep)
        built = build_reducer(plain.encoder, reducer, self.method, method)
        self.encoder: Encoder = with_inside(
            plain.encoder, reducer, built, parse_steps(schedule), self.method, origin=True
        )
        self.rule = rule_of(self.method, self.encoder)
        self.pixels = plain.pixels

    @functools.cache  # noqa: B019 - a few devices for all tests
    def healthy(self, precision: str) -> Arrays:
        return self.run(precision)

    @functools.cache  # noqa: B019
    def cast(self, precision: str) -> tuple[Encoder, Method]:
        return in_precision(self.encoder, self.method, None, precision, False, "tiny")  # type: ignore[arg-type]

    def run(self, precision: str, fault: Fault | None = None, **instead: Any) -> Arrays:
        """Outputs by name; `fault` in place of the reducer's own `select`, `instead` of its attributes."""
        encoder, method = self.cast(precision)
        assert encoder.inside is not None
        if fault is not None or instead:
            reducer = Faulty(encoder.inside.reducer, fault, **instead)
            encoder = replace(encoder, inside=replace(encoder.inside, reducer=reducer))
        with torch.inference_mode():
            results = PrunedEncoder(encoder, method).eval()(self.pixels.to(getattr(torch, precision)))
        return {key: part.numpy() for key, part in zip(outputs(encoder, method), results, strict=True)}

    @functools.cache  # noqa: B019
    def reference(self) -> tuple[Arrays, Arrays]:
        return self.forced({})

    def forced(self, got: Mapping[str, np.ndarray]) -> tuple[Arrays, Arrays]:
        """Outputs and quantities of the reference, with the steps of a device, if one is given."""
        assert self.encoder.inside is not None
        done = {}
        for step in self.encoder.inside.steps if got else ():
            trail, scores = (torch.from_numpy(got[f"{name}.{step.layer}"]) for name in ("trail", "scores"))
            done[step.layer] = trail.to(torch.int64), scores
        with torch.inference_mode():
            results, chosen = OfficialEncoder(self.encoder, self.method).eval().choose(self.pixels, done)
        names = outputs(self.encoder, self.method)
        wanted = {key: part.numpy() for key, part in zip(names, results, strict=True)}
        return wanted, replayed({key: value.float().numpy() for key, value in chosen.quantities.items()})

    def judge(self, precision: str, got: Arrays, forced: bool = False) -> Verdict:
        wanted, quantities = self.forced(got) if forced else self.reference()
        return compare(wanted, got, precision, self.rule, quantities, True)


@functools.cache
def stepping(reducer: str, method: str = "fastervlm") -> Stepping:
    return Stepping(reducer, method)
