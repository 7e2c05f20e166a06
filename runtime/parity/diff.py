"""What became of a bundle: two of them on the same probes, and what they say of themselves. numpy only.

The probes are those of the old one. Where it keeps the images, each bundle makes its own pixel_values of them, so that
another preprocessing shows; else both are given the stored ones, which they must take alike. Neither is right: `verify`
judges a bundle, this says by how much two differ.

set change    share of the larger kept set that the other one does not keep: 0 where both keep the same patches
token error   the largest ||new - old|| / ||old|| of the tokens of the same patches; of a head, of its rows
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune import bundle as bundles
from edgeprune.bundle import Bundle, Manifest
from edgeprune.bundle.onnx_data import external_files
from edgeprune.errors import ImageError
from edgeprune.runtime.loading import open_bundle
from edgeprune.runtime.parity.stored import Probe, stored_probes
from edgeprune.runtime.parity.verdict import relative
from edgeprune.runtime.parity.verify import FLAT
from edgeprune.runtime.runner import PIXELS

__all__ = ["Diff", "ProbeDiff", "diff"]

APART = ("cost", "deviations", "engines", "files", "graphs", "quantised", "schema_version", "versions")
"""fields of a manifest that are compared in a way of their own, or not at all"""
ROWS = ("logits", "pred_boxes")
"""outputs of a head, which have no patch"""

Outputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class ProbeDiff:
    old_kept: int
    new_kept: int
    common: int
    """patches that both keep, of all images"""
    token_error: float | None
    """None where no token is of the same patch, or they have no common width"""

    @property
    def set_change(self) -> float:
        return 1 - self.common / max(self.old_kept, self.new_kept, 1)


@dataclass(frozen=True)
class Diff:
    fields: Mapping[str, tuple[Any, Any]]
    """what the manifests say differently, by name: (old, new), None where one says nothing"""
    versions: Mapping[str, tuple[str | None, str | None]]
    """of the tools, where they differ"""
    deviations: tuple[tuple[str, ...], tuple[str, ...]]
    """from the official code: (those that are gone, those that are new)"""
    cost: tuple[int, int]
    """multiply-adds of the graph, one run: (old, new); 0 where the manifest does not say"""
    encoder_nbytes: tuple[int, int]
    """the pruned graph with its weights"""
    bundle_nbytes: tuple[int, int]
    probes: Mapping[str, ProbeDiff]
    not_compared: Mapping[str, str]
    """probe -> why it was not; `every probe` where none could be"""

    @property
    def set_change(self) -> float | None:
        """The largest of the probes whose patches are not all alike; None where none was compared."""
        return _largest(one.set_change for name, one in self.probes.items() if name not in FLAT)

    @property
    def token_error(self) -> float | None:
        return _largest(one.token_error for one in self.probes.values() if one.token_error is not None)

    @property
    def cost_ratio(self) -> float | None:
        """Multiply-adds, new over old."""
        old, new = self.cost
        return new / old if old and new else None

    def beyond(
        self, set_change: float | None = None, token_error: float | None = None, cost: float | None = None
    ) -> list[str]:
        """What exceeds these bounds, each in a line; a bound on what could not be measured is exceeded, too."""
        reasons = []
        for what, value, bound in (
            ("set change", self.set_change, set_change),
            ("token error", self.token_error, token_error),
            ("multiply-adds, new over old,", self.cost_ratio, cost),
        ):
            if bound is not None and (value is None or not value <= bound):
                is_ = "is not known" if value is None else f"is {value:.3g}"
                reasons.append(f"{what} must be at most {bound:g}, it {is_}")
        return reasons

    def to_json(self) -> dict[str, Any]:
        """Pairs become {"old", "new"}; an error that is not finite becomes null."""
        probes = {
            name: {**dataclasses.asdict(one), "set_change": one.set_change, "token_error": _finite(one.token_error)}
            for name, one in self.probes.items()
        }
        return {
            "set_change": self.set_change,
            "token_error": _finite(self.token_error),
            "cost_ratio": self.cost_ratio,
            **{name: _pair(getattr(self, name)) for name in ("cost", "encoder_nbytes", "bundle_nbytes")},
            "fields": {name: _pair(both) for name, both in self.fields.items()},
            "versions": {name: _pair(both) for name, both in self.versions.items()},
            "deviations": {"gone": list(self.deviations[0]), "new": list(self.deviations[1])},
            "probes": probes,
            "not_compared": dict(self.not_compared),
        }


def diff(
    old: str | os.PathLike[str],
    new: str | os.PathLike[str],
    device: str = "cpu",
    threads: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Diff:
    """Compare two bundles, run on one device.

    Bundles that cannot be run on the same probes (another grid, other inputs) are compared by what they say.

    Raises as `edgeprune.runtime.load` does for either, BundleError where the old one brings no usable probes.
    """
    pair = bundles.load(Path(old)), bundles.load(Path(new))
    first, second = (one.manifest for one in pair)
    probes: dict[str, ProbeDiff] = {}
    not_compared: dict[str, str] = {}
    if why := _unlike(first, second):
        not_compared["every probe"] = why
    else:
        runs, not_compared = _runs(pair, device, threads, progress)
        probes = {name: _compare(*outputs) for name, outputs in runs.items()}
    fields, others = _said(first), _said(second)
    gone, fresh = (
        tuple(one for one in these if one not in those)
        for these, those in ((first.deviations, second.deviations), (second.deviations, first.deviations))
    )
    return Diff(
        fields=_differing(fields, others),
        versions=_differing(first.versions, second.versions),
        deviations=(gone, fresh),
        cost=(first.cost.get("graph", 0), second.cost.get("graph", 0)),
        encoder_nbytes=(_encoder_nbytes(pair[0]), _encoder_nbytes(pair[1])),
        bundle_nbytes=(_nbytes(first), _nbytes(second)),
        probes=probes,
        not_compared=not_compared,
    )


def _unlike(old: Manifest, new: Manifest) -> str:
    """Why they cannot be run on the same probes; empty where they can."""
    for what, one, other in (
        ("grids of patches", *("x".join(map(str, both.grid)) for both in (old, new))),
        ("images per run", *(both.inputs[PIXELS].shape[0] for both in (old, new))),
        ("inputs", *(", ".join(both.inputs) for both in (old, new))),
        ("kinds", old.kind, new.kind),
    ):
        if one != other:
            return f"they have different {what} ({one}, and {other})"
    return ""


def _runs(
    pair: tuple[Bundle, Bundle],
    device: str,
    threads: int | None,
    progress: Callable[[int, int, str], None] | None,
) -> tuple[dict[str, list[Outputs]], dict[str, str]]:
    """Probe -> outputs of both, one bundle open at a time; and probe -> why it was not run."""
    runs: dict[str, list[Outputs]] = {}
    refused: dict[str, str] = {}
    alike = _said(pair[0].manifest, "preprocessing") == _said(pair[1].manifest, "preprocessing") and (
        pair[0].manifest.inputs[PIXELS].shape == pair[1].manifest.inputs[PIXELS].shape
    )
    with stored_probes(pair[0]) as (names, read):
        for at, bundle in enumerate(pair):
            with open_bundle(bundle, device, threads) as runner:
                for step, name in enumerate(names):
                    if progress:
                        progress(at * len(names) + step, 2 * len(names), f"{bundle.folder.name} {name}")
                    probe = read(name)
                    if probe.images is None and not alike:
                        refused[name] = "they do not take the same pixel_values, and the old one keeps no image of it"
                        continue
                    try:
                        runs.setdefault(name, []).append(runner.run(_feeds(probe, runner.prepare)))
                    except ImageError as error:
                        refused[name] = f"{bundle.folder} does not take it: {error}"
    return {name: both for name, both in runs.items() if len(both) == 2}, refused


def _feeds(probe: Probe, prepare: Callable[[Any], NDArray[Any]]) -> Outputs:
    if probe.images is None:
        return probe.inputs
    return {**probe.inputs, PIXELS: prepare(list(probe.images))}


def _compare(old: Outputs, new: Outputs) -> ProbeDiff:
    common, errors = 0, []
    for at in range(len(old["indices"])):
        _, here, there = np.intersect1d(old["indices"][at], new["indices"][at], return_indices=True)
        common += len(here)
        if "tokens" in old and old["tokens"].shape[-1] == new["tokens"].shape[-1]:
            errors.append(relative(old["tokens"][at][here], new["tokens"][at][there]))
    if "tokens" not in old:
        rows = [name for name in ROWS if name in old and name in new and old[name].shape == new[name].shape]
        errors = [relative(old[name], new[name]).ravel() for name in rows]
    every = np.concatenate(errors) if errors else np.zeros(0)
    return ProbeDiff(old["indices"].size, new["indices"].size, common, float(every.max()) if len(every) else None)


def _said(manifest: Manifest, *only: str) -> dict[str, Any]:
    """The fields of a manifest, what is nested in them by `field.name`."""
    flat: dict[str, Any] = {}
    for name, value in dataclasses.asdict(manifest).items():
        if name in APART or (only and name not in only):
            continue
        flat |= {f"{name}.{key}": one for key, one in value.items()} if isinstance(value, dict) else {name: value}
    if not only:
        tensors = {**manifest.inputs, **manifest.outputs}
        flat |= {f"tensor.{name}": f"{spec.dtype} {list(spec.shape)}" for name, spec in tensors.items()}
        flat |= {f"engine.{target}": f"{one.kind} {one.version}" for target, one in manifest.engines.items()}
        flat |= _quantised(manifest.quantised or {})
    return flat


def _quantised(given: Mapping[str, Any]) -> dict[str, Any]:
    """In a few words: every product has its own error, and every tensor its range."""
    said = {f"quantised.{name}": given[name] for name in ("activations", "bounds") if name in given}
    if products := given.get("products"):
        floats = [product["name"] for product in products if product.get("float")]
        said["quantised.products"] = f"{len(products) - len(floats)} of {len(products)}"
        said["quantised.float"] = ", ".join(floats) or "none"
    if calibration := given.get("calibration"):
        said["quantised.calibration"] = f"{calibration.get('images')} images, {calibration.get('source')}"
    return said


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = [*old, *(name for name in new if name not in old)]
    return {name: (old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)}


def _encoder_nbytes(bundle: Bundle) -> int:
    graph = bundle.path(bundle.manifest.encoder.file)
    return sum(bundle.manifest.files[name].size for name in (graph.name, *external_files(graph)))


def _nbytes(manifest: Manifest) -> int:
    return sum(file.size for file in manifest.files.values())


def _largest(values: Iterable[float]) -> float | None:
    """NaN where one is, which `max` may miss."""
    known = [*values]
    return float(np.max(known)) if known else None


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _pair(both: tuple[Any, Any]) -> dict[str, Any]:
    return dict(zip(("old", "new"), both, strict=True))
