"""`edgeprune calibrate`: bring the features behind steps nearer to those of the whole encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeprune.cli import options
from edgeprune.cli.console import needs, print_json, progress, warn

__all__ = ["command"]


@click.command("calibrate", short_help="Fit a correction of what steps inside change.")
@options.shortened
@click.option("--images", metavar="DIR", help="Unlabelled images; default drawn scenes.")
@click.option("--count", type=click.IntRange(min=1), default=200, show_default=True, help="Images at most.")
@click.option(
    "--kind", default="affine", show_default=True, type=click.Choice(["affine", "shift"]),
    help="affine: by ridge regression. shift: of the mean alone.",
)  # fmt: skip
@click.option(
    "--output", type=options.PATH, default=Path("correction.safetensors"), show_default=True, help="File to write."
)
@click.option("--force", is_flag=True, help="Replace the file.")
@options.verb
def command(as_json: bool, images: str | None, count: int, kind: str, output: Path, force: bool, **given: Any) -> None:
    """Fit an affine correction of the features that steps inside leave.

    It is folded into the projector by `edgeprune export --correction FILE`, with the same options, and costs nothing
    there.

    \b
    edgeprune calibrate --method fastervlm --keep 32 \\
        --inside drop --encoder-cost 0.5
    """
    from edgeprune.errors import RequestError
    from edgeprune.export.request import check
    from edgeprune.quality.sweep.items import drawn, of_folder
    from edgeprune.runtime.saving import save

    request = options.shortened_request(given)
    check(request, exported=False)
    if output.is_dir():
        raise RequestError(f"--output must be a file, {output} is a folder; choose another")
    if output.exists() and not force:
        raise RequestError(f"{output} exists; choose another --output, or replace it with --force")
    items = drawn(count, seed=CALIBRATION_SEED) if images is None else of_folder(Path(images), count)
    with needs("export"):
        from edgeprune.train.calibrate import ENOUGH, calibrate
    with progress() as show:
        correction = calibrate(request, items, kind, show)
    save(output, lambda file: file.write(correction.packed()))
    if len(items) < ENOUGH and kind == "affine":
        warn(f"{len(items)} images are few for an affine correction; give {ENOUGH} or more")
    before, behind = correction.made["residual"]
    if as_json:
        print_json({"output": str(output), **correction.made})
        return
    what = "held-out images" if correction.made["held_out"] else "the same images"
    judged = correction.made["held_out"] or len(items)
    click.echo(f"residual of the features {before:.3f} -> {behind:.3f}, on {what} ({judged} of {len(items)})")
    click.echo(f"wrote {output}")


CALIBRATION_SEED = 41
"""of drawn scenes; not the held-out one, and not that of the probes"""
