"""The page of a bundle: what it keeps, what that costs, whether it is proven, what it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune import bundle as bundles
from edgeprune.bundle import Bundle, Manifest
from edgeprune.bundle.schema import words
from edgeprune.quality.report.charts import bars
from edgeprune.quality.report.gallery import Gallery, Shown, data_url, ranks
from edgeprune.quality.report.page import Chart, Fact, Page, Part, Section, Table, Words
from edgeprune.runtime.images.preprocess import ImageLike, Preprocessing
from edgeprune.runtime.ledger.bench import Ledger, bench
from edgeprune.runtime.loading import open_bundle
from edgeprune.runtime.parity.stored import stored_probes
from edgeprune.runtime.parity.verify import FLAT, BackendReport, verify
from edgeprune.runtime.runner import PIXELS, Runner

__all__ = ["describe_bundle", "gallery_of"]

Progress = Callable[[int, int, str], None]
MOST = 12
"""images in a gallery"""


def describe_bundle(
    folder: str | os.PathLike[str],
    images: Sequence[ImageLike] = (),
    device: str = "cpu",
    measured: bool = True,
    rounds: int | None = None,
    progress: Progress | None = None,
) -> Page:
    """Verify a bundle, measure it, and draw what it keeps.

    images: to be drawn, each with its file's name; without any, the bundle's probes
    device: cpu, cuda or tensorrt
    measured: whether times are taken, which is half a minute and more
    rounds: timed runs of each graph, as `bench` takes them

    Raises as `load`, `verify` and `bench` do, and ImageError for an image that cannot be read.
    """
    tell = progress or (lambda done, total, what: None)
    bundle = bundles.load(Path(folder))
    manifest = bundle.manifest
    tell(0, 4, "what is kept")
    gallery = gallery_of(bundle, images, device)
    tell(1, 4, "parity")
    reports = verify(bundle.folder, device)
    tell(2, 4, "times")
    ledger = bench(bundle.folder, device, rounds=rounds) if measured else None
    tell(4, 4, "done")
    sections = [Section("What is kept", [gallery])]
    sections += [Section("What it costs", list(_cost(manifest, ledger)))]
    sections += [Section("Parity with the reference", list(_parity(reports)))]
    sections += [Section("What it is", list(_facts(manifest))), Section("Files", [_files(manifest)], folded=True)]
    title = f"{manifest.method} keeps {manifest.budget}"
    subtitle = f"{manifest.model.id} · {manifest.precision} · {manifest.target}"
    return Page(title, subtitle, _headline(manifest, reports, ledger), sections, _failed(folder, reports))


def _failed(folder: str | os.PathLike[str], reports: Sequence[BackendReport]) -> str:
    for report in reports:
        if not report.passed:
            return f"{folder} differs from its reference on {report.device}: {report.worst.reasons[0]}"
    return ""


def gallery_of(bundle: Bundle, images: Sequence[ImageLike], device: str, most: int = MOST, title: str = "") -> Gallery:
    """What is kept of these images, or of the bundle's probes, at most so many."""
    manifest = bundle.manifest
    with open_bundle(bundle, device) as runner:
        source = _given(images[:most], runner) if images else _probes(bundle, runner, most)
        shown = [
            Shown(name, data_url(pixels), ranks(manifest.patches, _order(tensors))) for name, pixels, tensors in source
        ]
    return Gallery(*manifest.grid, manifest.keep, manifest.nested, shown, title)


def _order(tensors: dict[str, NDArray[Any]]) -> list[int]:
    """The patches of the first image, most wanted first where there is an order."""
    kept = tensors.get("picks", tensors["indices"])[0]
    return [int(patch) for patch in kept]


Drawn = Iterator[tuple[str, NDArray[np.uint8], dict[str, NDArray[Any]]]]


def _probes(bundle: Bundle, runner: Runner, most: int) -> Drawn:
    with stored_probes(bundle) as (names, read):
        for name in [one for one in names if one not in FLAT][-most:]:
            inputs = read(name).inputs
            yield name, _pixels(inputs[PIXELS][0], runner.preprocessing), runner.run(inputs)


def _given(images: Sequence[ImageLike], runner: Runner) -> Drawn:
    steps = runner.preprocessing
    for at, image in enumerate(images):
        name = Path(image).name if isinstance(image, (str, os.PathLike)) else f"image {at}"
        if steps.tiles is None:
            yield name, steps.pixels(image), runner.outputs([image] * runner.manifest.tiles)
        else:  # the first tile is the whole image, as a rule
            yield name, steps.tiled_pixels(image)[0], runner.outputs(image)


def _pixels(values: NDArray[Any], steps: Preprocessing) -> NDArray[np.uint8]:
    """What a probe's pixel_values are a picture of: [3, H, W] float, or [H, W, 3] uint8 -> [H, W, 3] uint8"""
    if values.dtype == np.uint8:
        return values
    levels = values.astype(np.float64).transpose(1, 2, 0) * np.array(steps.std) + np.array(steps.mean)
    pixels: NDArray[np.uint8] = np.rint(np.clip(levels / steps.rescale, 0, 255)).astype(np.uint8)
    return pixels


def _headline(manifest: Manifest, reports: Sequence[BackendReport], ledger: Ledger | None) -> list[Fact]:
    facts = [Fact(f"{manifest.keep / max(manifest.patches, 1):.0%}", f"of {manifest.patches} tokens are kept")]
    for report in reports:
        if not report.not_run:
            mood = "good" if report.passed and report.proven else "bad"
            word = ("proven" if report.proven else "not proven") if report.passed else "differs"
            lost, decided = (
                f"{report.worst.lost:.2%} lost by the choice",
                f"{report.decided:.0%} of the decisions decided",
            )
            facts.append(Fact(word, f"on {report.device}, {decided if report.bounds is None else lost}", mood))
    unpruned, formula = manifest.cost.get("unpruned_formula", 0), manifest.cost.get("formula", 0)
    if unpruned:
        facts.append(Fact(f"{formula / unpruned:.1%}", "of the encoder's multiply-adds are left"))
    if ledger is not None:
        facts.append(Fact(f"{ledger.rows[0].median_ms:,.3g} ms", f"an image on {ledger.device}, median"))
        for row in ledger.rows[1:]:
            if row.ratio is not None and row.name.endswith("unpruned"):
                facts.append(Fact(f"{row.ratio:.3f}x", "of the unpruned encoder's time"))
    return facts


def _cost(manifest: Manifest, ledger: Ledger | None) -> Iterator[Part]:
    if ledger is not None:
        rows = ledger.rows
        chart = bars(
            [row.name for row in rows], [row.median_ms for row in rows], [row.p95_ms for row in rows], "ms an image"
        )
        yield Chart(chart, f"Median of {ledger.rounds} interleaved runs on {ledger.device}; the line goes to the 95th "
                           f"percentile. {ledger.versions['machine']}.")  # fmt: skip
        columns = ["graph", "median, ms >", "p95, ms >", "p99, ms >", "pruned / this >", "95 % interval >"]
        yield Table(columns, [
            [
                row.name, f"{row.median_ms:.2f}", f"{row.p95_ms:.2f}", f"{row.p99_ms:.2f}",
                "" if row.ratio is None or row is rows[0] else f"{row.ratio:.3f}",
                "" if row.interval is None else "{:.3f}-{:.3f}".format(*row.interval),
            ]
            for row in rows
        ])  # fmt: skip
        for row in rows:
            if row.doubt:
                yield Words(f"No ratio to {row.name}: {row.doubt}.")
    names = {"graph": "pruned", **{f"{one}_graph": one for one in manifest.baselines if one != "matmul"}}
    counts = {name: manifest.cost[key] / 1e6 for key, name in names.items() if key in manifest.cost}
    if counts:
        yield Chart(bars([*counts], [*counts.values()], None, "million multiply-adds"), "Counted in the graphs.")


def _parity(reports: Sequence[BackendReport]) -> Iterator[Part]:
    for report in reports:
        if report.not_run:
            yield Words(f"Not run on {report.device}: {report.not_run}.")
            continue
        if report.bounds is not None:
            yield from _bounded(report, report.bounds)
            continue
        yield Words(
            f"{report.source} on {report.device} in {report.dtype}: each decision of the device, given those before "
            "it, is held against the reference's numbers. Decided: a mistake there would be seen."
        )
        columns = ["probe", "decided >", "within rounding >", "wrong >", "regret / tolerance >", "score error >"]
        yield Table([*columns, "token error >", ""], [
            [
                name, f"{one.decided} of {one.decisions}", str(one.within), str(one.wrong), f"{one.regret:.2g}",
                f"{one.error_relative:.1e}", f"{one.token_error:.1e}" if one.tokens else "",
                "pass" if one.passed else "FAIL: " + "; ".join(one.reasons),
            ]
            for name, one in report.probes.items()
        ])  # fmt: skip


def _bounded(report: BackendReport, bounds: Mapping[str, Any]) -> Iterator[Part]:
    """Of a quantised graph."""
    yield Words(
        f"{report.source} on {report.device} in {report.dtype}: what it chooses is held against the best choice by the "
        f"reference's numbers, of whose worth it may lose {bounds['regret']:.2%}; tokens may be off by "
        f"{bounds['token_median']:g} in the median, and {bounds['token_each']:g} each."
    )
    columns = [
        "probe",
        "decided >",
        "lost >",
        "lost by chance >",
        "score error >",
        "token median >",
        "token error >",
        "",
    ]
    yield Table(columns, [
        [
            name, f"{one.decided} of {one.decisions}", f"{one.lost:.2%}", f"{one.blind:.1%}",
            f"{one.error_relative:.1e}",
            *(f"{error:.1e}" if one.tokens else "" for error in (one.token_median, one.token_error)),
            "pass" if one.passed else "FAIL: " + "; ".join(one.reasons),
        ]
        for name, one in report.probes.items()
    ])  # fmt: skip


def _facts(manifest: Manifest) -> Iterator[Part]:
    model = manifest.model
    rows = [
        ("model", f"{model.id}, {model.family}, {model.layer} layers, {model.features}"),
        ("revision", model.revision),
        ("method", " ".join([manifest.method, *(f"{name}={value}" for name, value in manifest.options.items())])),
        ("inside", _inside(manifest)),
        *((name, words(made)) for name, made in manifest.learned.items()),
        ("grid", f"{manifest.grid[0]} x {manifest.grid[1]} patches"),
        *((name, f"{spec.dtype} {list(spec.shape)}") for name, spec in manifest.inputs.items()),
        *((name, f"{spec.dtype} {list(spec.shape)}") for name, spec in manifest.outputs.items()),
        *(("deviation", one) for one in manifest.deviations),
        *((name, version) for name, version in manifest.versions.items()),
    ]
    yield Table(["", ""], [list(row) for row in rows if row[1]])


def _inside(manifest: Manifest) -> str:
    """What shortens the sequence on the way, and to how many rows."""
    if not manifest.inside:
        return ""
    rows = ", ".join(f"{keep} behind layer {layer}" for layer, keep in manifest.steps)
    own = words(manifest.inside.get("options", {}))
    return f"{manifest.inside.get('reducer')}{f' {own}' if own else ''}: {manifest.patches} tokens become {rows}"


def _files(manifest: Manifest) -> Table:
    rows = [[name, f"{file.size:,}", file.sha256[:16]] for name, file in manifest.files.items()]
    return Table(["file", "bytes >", "sha256"], rows)
