"""Run a bundle's probes through every available backend, and compare with the reference that travels with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from numpy.typing import NDArray

from edgeprune import bundle as bundles
from edgeprune.bundle import Bundle
from edgeprune.errors import BundleError, ImageError, MissingPackageError, RequestError
from edgeprune.runtime.adopt import take_in
from edgeprune.runtime.backends.ort import DEVICES, available_devices
from edgeprune.runtime.backends.plan import DEVICE as PLAN_DEVICE
from edgeprune.runtime.halves import Halves
from edgeprune.runtime.loading import open_bundle
from edgeprune.runtime.parity.inside import followed
from edgeprune.runtime.parity.stored import REFERENCE, Probe, stored_probes
from edgeprune.runtime.parity.verdict import Verdict, worst
from edgeprune.runtime.parity.worth import FLAT
from edgeprune.runtime.runner import PIXELS, Runner

__all__ = ["FLAT", "BackendReport", "Forced", "Progress", "devices_of", "plans_not_run", "verify"]

Progress: TypeAlias = "Callable[[int, int, str], None]"
"""Called with probes done, probes in all, and what comes next."""

Forced: TypeAlias = "Callable[[str, Mapping[str, NDArray[Any]]], tuple[Mapping[str, Any], Mapping[str, Any]]]"
"""(name of a probe, what a device made of it) -> outputs and quantities of the reference whose steps inside the encoder
did what the device's did"""

PROVEN = 0.5
"""share of the decisions"""


@dataclass(frozen=True)
class BackendReport:
    device: str
    dtype: str
    probes: Mapping[str, Verdict]
    """probe -> its comparison, in the file's order"""
    not_run: str = ""
    """why the device could not be used; then there are no probes"""
    source: str = ""
    """name of the file that was run"""
    bounds: Mapping[str, Any] | None = None
    """by which a quantised graph was judged; None of a float one"""

    @property
    def worst(self) -> Verdict:
        return worst(self.probes.values())

    @property
    def passed(self) -> bool:
        """False when a probe failed. A device that was not run has not failed; look at `not_run`."""
        return self.worst.passed

    @property
    def decided(self) -> float:
        """Share of the decisions that a mistake would be seen in, on all probes but the flat ones; 1 of none."""
        telling = [one for name, one in self.probes.items() if name not in FLAT]
        decisions = sum(one.decisions for one in telling)
        return sum(one.decided for one in telling) / decisions if decisions else 1.0

    @property
    def proven(self) -> bool:
        """Whether at least half of the decisions are decided: below, parity says little about what is kept.

        Of a quantised graph, whose decisions are not judged one by one: whether on at least half of the probes a choice
        by chance would have failed, and tokens were compared.
        """
        if self.bounds is None:
            return self.decided >= PROVEN
        telling = [one for name, one in self.probes.items() if name not in FLAT and one.decisions]
        seen = sum(one.blind > self.bounds["regret"] for one in telling)
        return not telling or (seen >= PROVEN * len(telling) and any(one.tokens for one in telling))

    def to_json(self) -> dict[str, Any]:
        """`passed` is null for a device that was not run."""
        ran = not self.not_run
        return {
            "device": self.device,
            "source": self.source or None,
            "dtype": self.dtype,
            "bounds": None if self.bounds is None else dict(self.bounds),
            "passed": self.passed if ran else None,
            "not_run": self.not_run or None,
            "proven": self.proven if ran else None,
            "decided": self.decided if ran else None,
            "worst": self.worst.to_json() if ran else None,
            "probes": {name: report.to_json() for name, report in self.probes.items()},
        }


def verify(
    bundle_folder: str | os.PathLike[str],
    device: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    keep: int | None = None,
    forced: Forced | None = None,
) -> list[BackendReport]:
    """The parity of a bundle on one device, or (None) on every one that ONNX Runtime was built for, and of its plans.
    What build.sh left is taken in first, where it fits this machine (`edgeprune.runtime.adopt`).

    keep: of the first so many picks alone, where kept sets nest; None for all
    forced: where there is the reference itself: asked where steps inside the encoder differ within rounding, so that
        those behind them are judged, too; without it they count as undecided

    With None, a device that cannot be used is reported as not run, as long as another one can; named, it raises
    RequestError, as does a budget that is not there. Raises BundleError when the bundle is damaged or brings no usable
    reference, MissingPackageError without safetensors.
    """
    bundle, left = bundles.load(Path(bundle_folder)), dict[str, str]()
    if device in (None, PLAN_DEVICE):
        bundle, left = take_in(bundle)
    if device == PLAN_DEVICE and left and not bundle.manifest.engines:
        raise RequestError(next(iter(left.values())))
    devices = devices_of(bundle) if device is None else [device]
    with stored_probes(bundle) as (names, read):
        done, total = 0, len(names) * len(devices)
        reports: list[BackendReport] = []
        refused: RequestError | None = None

        def judged(runner: Runner, executor: str) -> BackendReport:
            nonlocal done
            results = {}
            for probe in names:
                if progress:
                    progress(done, total, f"{executor} {probe}")
                results[probe] = _run(runner, probe, read(probe) if keep is None else read(probe).cut(keep), forced)
                done += 1
            bounds = bundle.manifest.bounds
            shown = _dtype(runner) if bounds is None else bundle.manifest.precision
            return BackendReport(executor, shown, results, source=runner.session.source, bounds=bounds)

        for name in devices:
            try:
                runner = open_bundle(bundle, name, threads, keep=keep)
            except BundleError:
                raise
            except RequestError as error:
                if device is not None or (name == "cpu" and not isinstance(error, MissingPackageError)):
                    raise
                refused = refused or error
                reports.append(BackendReport(name, bundle.manifest.precision, {}, not_run=str(error)))
                total -= len(names)
                continue
            reports.append(judged(runner, name))
            runner.close()
            if bundle.manifest.halves and name in DEVICES and keep is None:
                total += len(names)
                runner.session = Halves(bundle, name, threads)
                reports.append(judged(runner, f"{name} halves"))
                runner.close()
    if device is None:
        reports += [BackendReport(PLAN_DEVICE, bundle.manifest.precision, {}, not_run=why) for why in left.values()]
    if refused is not None and not any(report.probes for report in reports):
        raise refused
    if progress:
        progress(total, total, "done")
    return reports


def plans_not_run(bundle_folder: str | os.PathLike[str], reports: Iterable[BackendReport]) -> list[str]:
    """The plans that lie in a bundle, listed or not, of which none of these reports shows anything."""
    ran = {report.source for report in reports if not report.not_run}
    return sorted(path.name for path in Path(bundle_folder).glob("encoder.*.plan") if path.name not in ran)


def devices_of(bundle: Bundle) -> list[str]:
    """What is there to be verified. A device that has TensorRT for a plan may do without ONNX Runtime."""
    if not bundle.manifest.engines:
        return available_devices()
    try:
        return [*available_devices(), PLAN_DEVICE]
    except MissingPackageError:
        return ["cpu", PLAN_DEVICE]


def _dtype(runner: Runner) -> str:
    """The float that it computes in: a weakly typed plan takes and gives the float32 of its graph, and computes in
    float16."""
    return "float16" if "FP16" in runner.session.flags else runner.manifest.computes


def _run(runner: Runner, name: str, probe: Probe, forced: Forced | None) -> Verdict:
    """Of a probe with images, pixel_values are made of them here, so that the preprocessing is judged, too."""
    try:
        feeds = probe.inputs
        if probe.images is not None:
            feeds = {**feeds, PIXELS: runner.prepare(list(probe.images))}
        got = runner.run(feeds)
    except ImageError as error:
        raise BundleError(
            f"{REFERENCE}: probe {name} does not fit the graph: {error}; export the bundle again"
        ) from None
    verdict = probe.compare(got, _dtype(runner))
    if forced is None or not verdict.passed or followed(probe.outputs, got):
        return verdict
    outputs, quantities = forced(name, got)
    return replace(probe, outputs=outputs, quantities=quantities).compare(got, _dtype(runner))
