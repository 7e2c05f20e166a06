"""`edgeprune calibrate`: bring the features behind steps nearer to those of the whole encoder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeprune.cli import options
from edgeprune.cli.console import needs, print_json, progress, warn

if TYPE_CHECKING:
    from edgeprune.export.request import Request
    from edgeprune.quality.sweep.items import Item

__all__ = ["command"]


@click.command("calibrate", short_help="Fit a correction of what steps inside change.")
@options.shortened
@click.option("--images", metavar="DIR", help="Unlabelled images; default drawn scenes.")
@click.option("--count", type=click.IntRange(min=1), default=200, show_default=True, help="Images at most.")
@click.option(
    "--kind", default="affine", show_default=True, type=click.Choice(["affine", "shift"]),
    help="affine: by ridge regression. shift: of the mean alone.",
)  # fmt: skip
@click.option("--output", type=options.PATH, help="File to write; default correction.safetensors.")
@click.option("--force", is_flag=True, help="Replace the file.")
@options.verb
def command(
    as_json: bool, images: str | None, count: int, kind: str, output: Path | None, force: bool, **given: Any
) -> None:
    """Fit an affine correction of the features that steps inside leave.

    It is folded into the projector by `edgeprune export --correction FILE`, with the same options, and costs nothing
    there.

    Or, of a method that reads keys of the language model (hawk), the weights of its heads, by leaving out one after the
    other, for `--option weights=FILE`; by default in heads.json.

    \b
    edgeprune calibrate --method fastervlm --keep 32 \\
        --inside drop --encoder-cost 0.5
    """
    from edgeprune.catalog import methods
    from edgeprune.errors import RequestError
    from edgeprune.export.request import check
    from edgeprune.quality.sweep.items import drawn, of_folder
    from edgeprune.runtime.saving import save

    request = options.shortened_request(given)
    of_heads = any(one.name == request.method and one.traits.reads_language for one in methods())
    output = output or Path("heads.json" if of_heads else "correction.safetensors")
    check(request, exported=False)
    if output.is_dir():
        raise RequestError(f"--output must be a file, {output} is a folder; choose another")
    if output.exists() and not force:
        raise RequestError(f"{output} exists; choose another --output, or replace it with --force")
    items = drawn(count, seed=CALIBRATION_SEED) if images is None else of_folder(Path(images), count)
    if of_heads:
        _of_heads(as_json, request, items, output)
        return
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


def _of_heads(as_json: bool, request: Request, items: Sequence[Item], output: Path) -> None:
    from edgeprune.runtime.saving import save

    with needs("export"):
        from edgeprune.train.heads import weigh_heads
    with progress() as show:
        made = weigh_heads(request, items, show)
    save(output, lambda file: file.write(f"{json.dumps(made, indent=2)}\n".encode()))
    if as_json:
        print_json({"output": str(output), **made})
        return
    for head, (weight, right) in enumerate(zip(made["weights"], made["without"], strict=True)):
        click.echo(f"head {head}: {weight:.3f}; without it {100 * right:.1f} % right of {100 * made['right']:.1f} %")
    click.echo(f"wrote {output}")


CALIBRATION_SEED = 41
"""of drawn scenes; not the held-out one, and not that of the probes"""
