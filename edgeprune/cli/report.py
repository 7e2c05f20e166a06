"""`edgeprune report`: a bundle or a sweep as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeprune.cli import options
from edgeprune.cli.console import print_json, progress
from edgeprune.errors import ParityError

__all__ = ["command"]

SWEEP = "sweep.json"
"""by which the folder of a sweep is known"""


class Subject(options.Bundle):
    """A bundle, or the folder of a sweep."""

    name = "bundle|sweep"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        return Path(value) if (Path(value) / SWEEP).is_file() else super().convert(value, param, ctx)


@click.command("report")
@click.argument("subject", type=Subject(), metavar="BUNDLE|SWEEP")
@click.argument("images", type=options.Image(), nargs=-1, metavar="[IMAGE]...")
@click.option("--output", type=options.PATH, default=Path("report.html"), show_default=True, help="An .html file.")
@click.option("--device", type=options.devices, default="cpu", show_default=True, help="Where to run it.")
@click.option("--rounds", type=click.IntRange(min=1), help="Timed runs of each graph; default 20 to 60 seconds' worth.")
@click.option("--no-bench", is_flag=True, help="Take no times.")
@options.verb
def command(
    subject: Path,
    images: tuple[Path, ...],
    output: Path,
    device: str,
    rounds: int | None,
    no_bench: bool,
    as_json: bool,
) -> None:
    """Write one HTML page about a bundle or a sweep.

    What it keeps of its probes, or of your images, with a slider over the budget where kept sets nest; its times and
    multiply-adds beside the baselines; parity; the manifest. Of a sweep its curves and its table, and with the bundles
    that --keep-bundles left what each method keeps. The page holds all that it shows, and needs no network.

    \b
    edgeprune report my-bundle
    edgeprune report my-bundle photos/*.jpg --output photos.html
    edgeprune report tiny-sweep
    """
    from edgeprune.quality.report import describe_bundle, describe_sweep, write_report
    from edgeprune.quality.report.page import check_output

    check_output(output)
    with progress() as show:
        if (subject / SWEEP).is_file():
            page = describe_sweep(subject, images, device, show)
        else:
            page = describe_bundle(subject, images, device, not no_bench, rounds, show)
    write_report(page, output)
    if as_json:
        print_json({"report": str(output), "bytes": output.stat().st_size, "passed": not page.failed})
    else:
        click.echo(f"wrote {output}, {output.stat().st_size / 1024:,.0f} KiB: open it in a browser")
    if page.failed:
        raise ParityError(f"{page.failed}; {output} shows where")
