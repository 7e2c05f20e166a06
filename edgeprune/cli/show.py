"""`edgeprune show`: an image with what is kept of it."""

from __future__ import annotations

from pathlib import Path

import click

from edgeprune.cli import options
from edgeprune.cli.console import print_json

__all__ = ["command"]


@click.command("show")
@options.bundle
@click.argument("image", type=options.Image())
@click.option("--output", type=options.PATH, default=Path("kept.png"), show_default=True, help="A .png.")
@options.image_range
@options.first
@click.option("--threshold", type=float, default=0.5, show_default=True, help="Of the scores of a detector's boxes.")
@click.option(
    "--device", type=click.Choice(["auto", *options.devices.choices]), default="auto", show_default=True,
    help="Where to run it; auto: a plan that fits, else cuda, else cpu.",
)  # fmt: skip
@options.verb
def command(
    bundle: Path,
    image: Path,
    output: Path,
    image_range: tuple[float, float] | None,
    keep: int | None,
    threshold: float,
    device: str,
    as_json: bool,
) -> None:
    """Draw an image with the patches that are kept.

    \b
    edgeprune show my-bundle photo.jpg --output kept.png
    """
    from edgeprune.runtime.images.preprocess import as_rgb
    from edgeprune.runtime.show import draw

    shown = image if image_range is None else as_rgb(image, True, image_range)
    picture = draw(bundle, shown, output, threshold, keep, device)
    if as_json:
        print_json({"picture": str(output), "size": list(picture.size)})
    else:
        click.echo(f"wrote {output}")
