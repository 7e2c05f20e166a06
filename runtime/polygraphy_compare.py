"""Parity of a bundle in Polygraphy: its probes, and a comparison that judges decisions. No torch.

    polygraphy run encoder.onnx --onnxrt \\
        --data-loader-script compare.py --load-outputs probes.json --compare-func-script compare.py

`compare.py` of a bundle passes on to this file. Polygraphy's own comparisons go position by position, and one swap of
two tied patches moves every token behind it. `probes.json` is a run of Polygraphy without outputs: it says which probe
each iteration is, so that the function knows which part of `reference.safetensors` to compare with.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgeprune import bundle as bundles
from edgeprune import targets
from edgeprune.bundle import Bundle
from edgeprune.errors import EdgepruneError, RequestError
from edgeprune.runtime.parity.stored import stored_probes
from edgeprune.runtime.parity.verdict import Verdict

__all__ = ["COMPARE", "PROBES", "REFERENCE", "Probes", "compare_outputs", "load_data", "probes_json"]

COMPARE = "compare.py"
PROBES = "probes.json"
REFERENCE = "reference"
"""how Polygraphy calls the run in PROBES"""


def probes_json(names: Iterable[str]) -> str:
    """The text of PROBES: a RunResults of Polygraphy with one iteration for each probe, empty and named like it."""
    iterations: list[dict[str, Any]] = [
        {"outputs": {}, "runtime": None, "runner_name": name, "polygraphy_class": "IterationResult"}
        for name in sorted(names)
    ]
    return json.dumps({"lst": [[REFERENCE, iterations]], "polygraphy_class": "RunResults"}, indent=2) + "\n"


def load_data(folder: str | os.PathLike[str]) -> Iterator[dict[str, NDArray[Any]]]:
    """The inputs of the probes, as the graph takes them, in the order of PROBES: for --data-loader-script."""
    with _critical():
        yield from _opened(os.fspath(folder)).inputs()


def compare_outputs(folder: str | os.PathLike[str], first: Any, second: Any) -> dict[str, bool]:
    """Name of the probe -> whether it has parity with the reference: for --compare-func-script.

    first, second: the IterationResult of a runner and one of PROBES, in either order
    """
    from polygraphy.logger import G_LOGGER

    with _critical():
        probe, report = _opened(os.fspath(folder)).compare(first, second)
    G_LOGGER.finish(f"{probe} | {_measured(report)}")
    for reason in report.reasons:
        G_LOGGER.error(f"{probe} | {reason}")
    return {probe: report.passed}


class Probes:
    """The probes of a bundle beside what a runner of Polygraphy makes of them."""

    def __init__(self, bundle: Bundle) -> None:
        """Raises BundleError when the bundle brings no usable reference."""
        self.bundle = bundle
        with stored_probes(bundle) as (names, _):
            self.names = names

    def inputs(self) -> Iterator[dict[str, NDArray[Any]]]:
        """What the graph is given for each probe, by the names of its inputs."""
        specs = self.bundle.manifest.inputs
        with stored_probes(self.bundle) as (names, read):
            for probe in names:
                given = read(probe).inputs
                yield {name: given[name].astype(spec.dtype, copy=False) for name, spec in specs.items()}

    def compare(self, first: Any, second: Any, dtype: str | None = None) -> tuple[str, Verdict]:
        """The probe's name, and how the runner's outputs compare with the reference's.

        dtype: what the runner computes in; None goes by its name and the bundle

        Raises RequestError when neither of the two is one of PROBES.
        """
        named = [one for one in (first, second) if not len(one) and one.runner_name in self.names]
        if len(named) != 1:
            raise RequestError(
                f"every run must be compared with {PROBES}, got {first.runner_name} and {second.runner_name}; "
                f"give one runner, and --load-outputs {PROBES}"
            )
        (which,) = named
        got = second if which is first else first
        if dtype is None:
            weak = got.runner_name.startswith("trt") and _weakly_typed(self.bundle)
            dtype = "float16" if weak else self.bundle.manifest.computes
        return which.runner_name, self._compare(which.runner_name, got.runner_name, dict(got.items()), dtype)

    def _compare(self, probe: str, runner: str, got: Mapping[str, NDArray[Any]], dtype: str) -> Verdict:
        manifest = self.bundle.manifest
        if missing := manifest.outputs.keys() - got.keys():
            raise RequestError(
                f"the graph must hand out {', '.join(manifest.outputs)}, {runner} lacks {', '.join(sorted(missing))}; "
                "give Polygraphy the bundle's own encoder"
            )
        with stored_probes(self.bundle) as (_, read):
            expected = read(probe)
        return expected.compare({name: got[name] for name in manifest.outputs}, dtype)


def _weakly_typed(bundle: Bundle) -> bool:
    """Whether TensorRT takes float16 for the bundle's graph, whatever goes in and comes out.

    Where build.sh made the plan the manifest has no entry, and the target says so.
    """
    name = bundle.manifest.target
    if name in bundle.manifest.engines:
        return "FP16" in bundle.manifest.engines[name].flags
    return name in targets.names() and targets.load(name).engine.typing == "weak_fp16"


@cache
def _opened(folder: str) -> Probes:
    """Once per process: every file is checked, and Polygraphy imports its scripts anew for each iteration."""
    return Probes(bundles.load(Path(folder)))


@contextmanager
def _critical() -> Iterator[None]:
    """An error of edgeprune is one of Polygraphy, which ends its run in one line instead of a traceback."""
    from polygraphy.logger import G_LOGGER

    try:
        yield
    except EdgepruneError as error:
        G_LOGGER.critical(str(error))


def _measured(verdict: Verdict) -> str:
    return (
        f"{verdict.decided} of {verdict.decisions} decisions decided, {verdict.within} within rounding, "
        f"{verdict.wrong} wrong, score error {verdict.error_relative:.1e}, token error {verdict.token_error:.1e}"
    )
