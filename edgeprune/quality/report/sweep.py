"""The page of a sweep: what each method loses, and what it keeps where the bundles are still there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from edgeprune import bundle as bundles
from edgeprune.bundle import Manifest
from edgeprune.quality.report.bundle import gallery_of
from edgeprune.quality.report.charts import in_ink
from edgeprune.quality.report.page import Chart, Fact, Page, Part, Section, Table, Words
from edgeprune.quality.sweep.names import named
from edgeprune.quality.sweep.plots import PLOTS, plot
from edgeprune.quality.sweep.request import RESULT
from edgeprune.quality.sweep.rows import ALL, Row, Sweep, read
from edgeprune.quality.sweep.run import BUNDLES
from edgeprune.quality.sweep.texts import captions, headings, lines
from edgeprune.runtime.images.preprocess import ImageLike

__all__ = ["describe_sweep"]

FEW = 4
"""images of each method"""


def describe_sweep(
    folder: str | os.PathLike[str],
    images: Sequence[ImageLike] = (),
    device: str = "cpu",
    progress: Callable[[int, int, str], None] | None = None,
) -> Page:
    """What `edgeprune sweep` left in a folder; with `--keep-bundles`, also pictures of what each method keeps.

    images: to be drawn; without any, probes of the bundles

    Raises RequestError when there is no sweep, and what opening its bundles raises.
    """
    sweep = read(Path(folder) / RESULT)
    about = sweep.about
    said = [Words(line) for line in captions(sweep)]
    sections = [Section("What it loses", [*_curves(sweep), *_table(sweep), *said])]
    kept = list(_kept(Path(folder), images, device, progress))
    sections.append(Section("What is kept", kept or [Words("sweep --keep-bundles shows here what each method keeps.")]))
    refused = [[row.method, row.refused] for row in sweep.rows if row.refused]
    if refused:
        sections.append(Section("Refused", [Table(["method", "why"], refused)]))
    sections.append(Section("How it was measured", [Words(line) for line in _how(sweep)]))
    column = ALL if sweep.asked else sweep.columns[0]
    methods = len({row.method for row in _methods(sweep, column)})
    title = f"{methods} ways to keep fewer tokens of {about['model']}"
    return Page(title, f"{about['images']:,} images · {about['data']}", list(_headline(sweep)), sections)


def _curves(sweep: Sweep) -> Iterator[Part]:
    with tempfile.TemporaryDirectory() as scratch:
        for name, (axis, _) in PLOTS.items():
            file = Path(scratch) / f"{name}.svg"
            if svg := in_ink(lambda name=name, file=file: plot(sweep, name, file), file):  # type: ignore[misc]
                best = "" if name == "tokens" else " The line joins what nothing beats at its cost."
                yield Chart(svg, f"Against {axis}; bars are one standard error, clustered by image.{best}")


def _table(sweep: Sweep) -> Iterator[Part]:
    yield Table(headings(sweep), lines(sweep))


def _kept(
    folder: Path, images: Sequence[ImageLike], device: str, progress: Callable[[int, int, str], None] | None
) -> Iterator[Part]:
    places = sorted(path.parent for path in (folder / BUNDLES).glob(f"*/{bundles.MANIFEST}"))
    opened = [bundles.load(place) for place in places]
    pruned = [one for one in opened if one.manifest.keep < one.manifest.patches]
    pruned.sort(key=lambda one: (*_place(one.manifest), -one.manifest.cost.get("formula", 0)))
    for at, one in enumerate(pruned):
        if progress:
            progress(at, len(pruned), one.manifest.method)
        yield gallery_of(one, images, device, FEW, _title(one.manifest))


def _place(manifest: Manifest) -> tuple[str, str, str, int]:
    """Methods by name, what is inside below them, the largest budget first."""
    return manifest.method, str(manifest.inside.get("reducer", "")), str(manifest.options), -manifest.keep


def _title(manifest: Manifest) -> str:
    options = "".join(f" {name}={value}" for name, value in manifest.options.items())
    inside = f" + {manifest.inside['reducer']}" if manifest.inside else ""
    steps = ", ".join(f"{rows} behind layer {layer}" for layer, rows in manifest.steps)
    return f"{manifest.method}{options}{inside}, {manifest.budget}{f'; {steps}' if inside else ''}"


def _headline(sweep: Sweep) -> Iterator[Fact]:
    column = ALL if sweep.asked else sweep.columns[0]
    base = sweep.rows[0]
    yield Fact(f"{base.values[column].value:.1%}", f"right with all {base.keep} tokens" if sweep.asked else column)
    for keep in sorted({row.keep for row in _methods(sweep, column)}, reverse=True)[:3]:
        best = max(
            (row for row in _methods(sweep, column) if row.keep == keep), key=lambda row: row.values[column].value
        )
        yield Fact(f"{best.values[column].value:.1%}", f"with {keep} of them, by {_by(best)}")


def _by(row: Row) -> str:
    name = named(row)
    return f"{name.series} at {name.cost}" if name.inside else row.method


def _methods(sweep: Sweep, column: str) -> list[Row]:
    """Rows of pruned graphs, those apart that no device can run."""
    whole = sweep.rows[0].keep
    return [row for row in sweep.rows if 0 < row.keep < whole and column in row.values and "oracle" not in row.method]


def _how(sweep: Sweep) -> Iterator[str]:
    about = sweep.about
    yield f"{about['machine']}; {', '.join(f'{name} {version}' for name, version in about['versions'].items())}."
    yield from sweep.warnings
