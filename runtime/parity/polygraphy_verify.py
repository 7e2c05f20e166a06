"""`verify` by way of Polygraphy: its runners run the probes, its Comparator compares them by our function.

A second opinion on how a graph or a plan is run: input, output and engine pass through NVIDIA's code instead of ours.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from numpy.typing import NDArray

from edgeprune import bundle as bundles
from edgeprune.bundle import ENCODE, SELECT, Bundle, Plan
from edgeprune.errors import BundleError, EdgepruneError, MissingPackageError, RequestError
from edgeprune.runtime.backends.ort import open_encoder
from edgeprune.runtime.backends.plan import DEVICE as PLAN_DEVICE
from edgeprune.runtime.halves import Halves
from edgeprune.runtime.parity.verdict import Verdict
from edgeprune.runtime.parity.verify import BackendReport, Progress, devices_of
from edgeprune.runtime.polygraphy_compare import REFERENCE, Probes

__all__ = ["verify"]

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
RTX = "POLYGRAPHY_USE_TENSORRT_RTX"
"""environment variable; Polygraphy reads it when it is imported, so one process has one kind of TensorRT"""


def verify(
    folder: str | os.PathLike[str],
    device: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> list[BackendReport]:
    """The parity of a bundle in Polygraphy, as `edgeprune.runtime.parity.verify.verify` reports it.

    device: cpu or cuda for ONNX Runtime, tensorrt for the bundle's plans; None for all, and what cannot be used is then
        reported as not run
    threads: CPU threads of ONNX Runtime, None for its own choice

    Raises MissingPackageError without polygraphy, RequestError when a named device cannot be used, BundleError for a
    damaged bundle, EdgepruneError when a runner fails.
    """
    if importlib.util.find_spec("polygraphy") is None:
        raise MissingPackageError("polygraphy", "polygraphy")
    bundle = bundles.load(Path(folder))
    _choose_tensorrt(bundle)
    probes = Probes(bundle)
    reports: list[BackendReport] = []
    refused: RequestError | None = None
    backends = _backends(bundle, device, threads)
    for at, backend in enumerate(backends):
        try:
            runner = backend.open()
        except BundleError:
            raise
        except RequestError as error:
            if device is not None:
                raise
            refused = refused or error
            reports.append(BackendReport(backend.name, backend.dtype, {}, not_run=str(error)))
            continue

        def show(done: int, what: str, first: int = at * len(probes.names), name: str = backend.name) -> None:
            if progress:
                progress(first + done, len(probes.names) * len(backends), f"{name} {what}")

        compared = _compared(runner, probes, backend.dtype, show)
        bounds = bundle.manifest.bounds
        shown = backend.dtype if bounds is None else bundle.manifest.precision
        reports.append(BackendReport(backend.name, shown, compared, source=backend.source, bounds=bounds))
    if refused is not None and not any(report.probes for report in reports):
        raise refused
    if progress:
        progress(1, 1, "done")
    return reports


@dataclass(frozen=True)
class _Backend:
    name: str
    dtype: str
    """what it computes in"""
    source: str
    """name of the file"""
    open: Callable[[], Any]
    """the runner of Polygraphy; raises RequestError when there can be none here"""


def _backends(bundle: Bundle, device: str | None, threads: int | None) -> list[_Backend]:
    engines, dtype = bundle.manifest.engines, bundle.manifest.computes
    if device == PLAN_DEVICE and not engines:
        raise RequestError(f"{bundle.folder} has no plan; make one with `edgeprune build`, or choose another --device")
    backends = []
    for one in devices_of(bundle) if device is None else [device]:
        if one != PLAN_DEVICE:
            backends.append(
                _Backend(f"ort {one}", dtype, bundle.manifest.encoder.file, partial(_onnxrt, bundle, one, threads))
            )
            if bundle.manifest.halves:
                source = " and ".join(bundle.manifest.graphs[half].file for half in (ENCODE, SELECT))
                backends.append(
                    _Backend(f"ort {one} halves", dtype, source, partial(_onnxrt_halves, bundle, one, threads))
                )
            continue
        for target, engine in engines.items():
            name = "trt" if len(engines) == 1 else f"trt {target}"
            computed = "float16" if "FP16" in engine.flags else dtype
            backends.append(_Backend(name, computed, engine.plan, partial(_trt, bundle, engine)))
    return backends


def _choose_tensorrt(bundle: Bundle) -> None:
    """Before Polygraphy is imported: the kind of TensorRT that is here and that a plan is of, the classic one first."""
    kinds = {engine.kind for engine in bundle.manifest.engines.values()}
    if RTX in os.environ or "polygraphy" in sys.modules:
        return
    here = [kind for kind, module in MODULES.items() if kind in kinds and importlib.util.find_spec(module)]
    os.environ[RTX] = str(int(here == ["tensorrt-rtx"]))
    try:
        import polygraphy.config  # noqa: F401
    finally:
        del os.environ[RTX]


def _onnxrt(bundle: Bundle, device: str, threads: int | None) -> Any:
    from polygraphy.backend.onnxrt import OnnxrtRunner

    return OnnxrtRunner(open_encoder(bundle, device, threads).raw)


def _onnxrt_halves(bundle: Bundle, device: str, threads: int | None) -> Any:
    from polygraphy.backend.onnxrt import OnnxrtRunner

    return OnnxrtRunner(_Both(Halves(bundle, device, threads)))


class _Both:
    """The halves as one session of ONNX Runtime, as far as Polygraphy's runner asks one."""

    def __init__(self, halves: Halves) -> None:
        encode, select = halves.raw
        self._halves = halves
        self._inputs = [*encode.get_inputs(), *(one for one in select.get_inputs() if one.name in halves.inputs)]

    def get_inputs(self) -> list[Any]:
        return self._inputs

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name=name) for name in self._halves.outputs]

    def run(self, _: None, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        return [*self._halves.run(feeds).values()]


def _trt(bundle: Bundle, engine: Plan) -> Any:
    """Not run here beyond the loading of a plan, which needs a GPU."""
    module, rtx = MODULES[engine.kind], engine.kind == "tensorrt-rtx"
    if importlib.util.find_spec(module) is None:
        raise RequestError(f"{engine.plan} needs the package {module} {engine.version}, which is not installed")
    from polygraphy import config

    if rtx is not getattr(config, "USE_TENSORRT_RTX", False):
        raise RequestError(f"{engine.plan} is of {engine.kind}; run it in a process with {RTX}={int(rtx)}")
    from polygraphy.backend.trt import EngineFromBytes, TrtRunner

    with _quiet():
        try:
            loaded = EngineFromBytes(bundle.path(engine.plan).read_bytes)()
        except Exception as error:  # of Polygraphy, of TensorRT, or of the binding between them
            raise RequestError(
                f"{engine.plan} cannot be loaded ({_line(error)}); `polygraphy run` of it, as in README.md, says why"
            ) from None
    return TrtRunner(loaded)


def _compared(runner: Any, probes: Probes, dtype: str, show: Callable[[int, str], None]) -> dict[str, Verdict]:
    """Raises EdgepruneError when the runner fails."""
    from polygraphy.comparator import Comparator, IterationResult

    reports: dict[str, Verdict] = {}

    def inputs() -> Iterator[dict[str, NDArray[Any]]]:
        for done, (name, values) in enumerate(zip(probes.names, probes.inputs(), strict=True)):
            show(done, name)
            yield values

    def compare_outputs(first: Any, second: Any) -> dict[str, bool]:
        name, report = probes.compare(first, second, dtype)
        reports[name] = report
        return {name: report.passed}

    with _quiet():
        try:
            results = Comparator.run([runner], data_loader=inputs())
        except EdgepruneError:
            raise
        except Exception as error:  # whatever a runner raises
            raise EdgepruneError(f"Polygraphy's {runner.name} failed: {_line(error)}") from None
        results.append((REFERENCE, [IterationResult({}, runner_name=name) for name in probes.names]))
        accurate = bool(Comparator.compare_accuracy(results, compare_func=compare_outputs))
    assert accurate == all(report.passed for report in reports.values())
    return reports


@contextmanager
def _quiet() -> Iterator[None]:
    """Polygraphy says on stdout what it does, and its errors twice."""
    from polygraphy.logger import G_LOGGER

    with G_LOGGER.verbosity(G_LOGGER.CRITICAL + 1):
        yield


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300].rstrip(".")
