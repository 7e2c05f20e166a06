"""Run a bundle's probes through every backend that is here, and compare with the reference that travels with it.

`reference.safetensors` holds, for each probe, `<probe>/<name>` for the graph's input and its three outputs, each with
the leading batch dimension B:

    scene00/pixel_values  [B, 3, H, W] float32, or uint8 [B, H, W, 3]
    scene00/tokens        [B, K, D] float32
    scene00/indices       [B, K] int32
    scene00/scores        [B, N] float32

and what else the graph hands out, and where the reference is in doubt (`edgeprune.runtime.doubt`): `<probe>/order`, ...
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from numpy.typing import NDArray

from edgeprune import bundle as bundles
from edgeprune.bundle import Bundle
from edgeprune.errors import BundleError, ImageError, MissingPackageError, RequestError
from edgeprune.runtime import Encoder, available_devices
from edgeprune.runtime.doubt import DOUBTS, Doubt, doubt_of
from edgeprune.runtime.parity import Report, compare, worst
from edgeprune.runtime.plan import DEVICE as PLAN_DEVICE
from edgeprune.runtime.plan_session import PlanSession

__all__ = ["REFERENCE", "BackendReport", "Progress", "verify"]

REFERENCE = "reference.safetensors"

Progress: TypeAlias = "Callable[[int, int, str], None]"
"""Called with probes done, probes in all, and what comes next."""


@dataclass(frozen=True)
class BackendReport:
    device: str
    dtype: str
    probes: Mapping[str, Report]
    """probe -> its comparison, in the file's order"""
    not_run: str = ""
    """why the device could not be used; then there are no probes"""

    @property
    def worst(self) -> Report:
        return worst(self.probes.values())

    @property
    def passed(self) -> bool:
        """False when a probe failed. A device that was not run has not failed; look at `not_run`."""
        return self.worst.passed

    def to_json(self) -> dict[str, Any]:
        """`passed` is null for a device that was not run."""
        ran = not self.not_run
        return {
            "device": self.device,
            "dtype": self.dtype,
            "passed": self.passed if ran else None,
            "not_run": self.not_run or None,
            "worst": self.worst.to_json() if ran else None,
            "probes": {name: report.to_json() for name, report in self.probes.items()},
        }


def verify(
    bundle_folder: str | os.PathLike[str],
    device: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> list[BackendReport]:
    """The parity of a bundle on one device, or (None) on every one that ONNX Runtime was built for, and of its plans.

    With None, a device that cannot be used is reported as not run, as long as another one can; named, it raises
    RequestError. Raises BundleError when the bundle is damaged or brings no usable reference, MissingPackageError
    without safetensors.
    """
    bundle = bundles.load(Path(bundle_folder))
    devices = _devices(bundle) if device is None else [device]
    with _probes(bundle) as (names, read):
        done, total = 0, len(names) * len(devices)
        reports: list[BackendReport] = []
        refused: RequestError | None = None
        for name in devices:
            try:
                encoder = Encoder(bundle, name, threads)
            except BundleError:
                raise
            except RequestError as error:
                if device is not None or (name == "cpu" and not isinstance(error, MissingPackageError)):
                    raise
                refused = refused or error
                reports.append(BackendReport(name, bundle.manifest.dtype, {}, not_run=str(error)))
                total -= len(names)
                continue
            results = {}
            for probe in names:
                if progress:
                    progress(done, total, f"{name} {probe}")
                results[probe] = _run(encoder, probe, read(probe))
                done += 1
            reports.append(BackendReport(name, _dtype(encoder), results))
    if refused is not None and not any(report.probes for report in reports):
        raise refused
    if progress:
        progress(total, total, "done")
    return reports


def _devices(bundle: Bundle) -> list[str]:
    """What is there to be verified. A device that has TensorRT for a plan may do without ONNX Runtime."""
    if not bundle.manifest.engines:
        return available_devices()
    try:
        return [*available_devices(), PLAN_DEVICE]
    except MissingPackageError:
        return ["cpu", PLAN_DEVICE]


def _dtype(encoder: Encoder) -> str:
    """What it computes in: a weakly typed plan takes and gives the float32 of its graph, and computes in float16."""
    engine = encoder.session.engine if isinstance(encoder.session, PlanSession) else None
    return "float16" if engine and "FP16" in engine.flags else encoder.manifest.dtype


@dataclass(frozen=True)
class _Probe:
    values: NDArray[Any]
    outputs: Mapping[str, NDArray[Any]]
    doubt: Doubt


def _run(encoder: Encoder, name: str, probe: _Probe) -> Report:
    try:
        got = encoder.outputs(probe.values)
    except ImageError as error:
        raise BundleError(
            f"{REFERENCE}: probe {name} does not fit the graph: {error}; export the bundle again"
        ) from None
    (reference, more), (found, others) = _split(probe.outputs), _split(got)
    dtype = _dtype(encoder)
    if dtype != encoder.manifest.dtype and found.tokens is not None:  # the bounds go with the dtype of the tokens
        found = found._replace(tokens=found.tokens.astype(dtype))
    return compare(reference, found, dtype, probe.doubt, (more, others))


class _Found(NamedTuple):
    tokens: NDArray[Any] | None
    indices: NDArray[Any]
    scores: NDArray[Any]


def _split(outputs: Mapping[str, NDArray[Any]]) -> tuple[_Found, dict[str, NDArray[Any]]]:
    """What every encoder has, a detector without tokens, and the rest."""
    rest = {name: value for name, value in outputs.items() if name not in _Found._fields}
    return _Found(*(outputs.get(name) for name in _Found._fields)), rest  # type: ignore[arg-type]


@contextlib.contextmanager
def _probes(bundle: Bundle) -> Iterator[tuple[list[str], Callable[[str], _Probe]]]:
    """The names of the probes, and a function that reads one; one is in memory at a time."""
    try:
        import safetensors
    except ImportError:
        raise MissingPackageError("safetensors", "cpu") from None
    try:
        opened = safetensors.safe_open(bundle.path(REFERENCE), framework="numpy")
    except (safetensors.SafetensorError, OSError) as error:
        raise BundleError(f"{bundle.folder}: {REFERENCE} cannot be read ({error}); export the bundle again") from None
    with opened as file:
        have: dict[str, set[str]] = {}
        for key in file.keys():  # noqa: SIM118 - it is no dict
            probe, _, field = key.rpartition("/")
            have.setdefault(probe, set()).add(field)
        (inputs,), outputs = bundle.manifest.inputs, bundle.manifest.outputs
        doubts = sorted({field for fields in have.values() for field in fields} & DOUBTS)
        needed = (inputs, *outputs, *doubts)  # what one probe has, every probe has
        missing = [f"{name}/{field}" for name in sorted(have) for field in needed if field not in have[name]]
        if missing or not have:
            raise BundleError(
                f"{bundle.folder}: {REFERENCE} lacks {missing[0] if missing else 'any probe'}; export the bundle again"
            )

        def read(name: str) -> _Probe:
            def tensor(field: str) -> NDArray[Any]:
                found: NDArray[Any] = file.get_tensor(f"{name}/{field}")
                return found

            return _Probe(tensor(inputs), {one: tensor(one) for one in outputs}, doubt_of(doubts, tensor))

        yield sorted(have), read
