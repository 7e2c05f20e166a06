"""`edgeprune show`: an image with what is kept of it."""

from __future__ import annotations

from pathlib import Path

import click

from edgeprune.cli import options
from edgeprune.cli.console import print_json

__all__ = ["command"]


@click.command("show")
@options.bundle
@click.argument("image", type=options.Image(), required=False)
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
    image: Path | None,
    output: Path,
    image_range: tuple[float, float] | None,
    keep: int | None,
    threshold: float,
    device: str,
    as_json: bool,
) -> None:
    """Draw an image with the patches that are kept.

    Without an image it is one that the bundle holds.

    \b
    edgeprune show my-bundle
    edgeprune show my-bundle photo.jpg --output kept.png
    """
    from edgeprune.runtime.images.preprocess import as_rgb
    from edgeprune.runtime.show import draw

    if image is None and image_range is not None:
        raise click.UsageError("--image-range goes with an image, which is missing; give one, or leave it out")
    shown = image if image is None or image_range is None else as_rgb(image, True, image_range)
    picture = draw(bundle, shown, output, threshold, keep, device)
    if as_json:
        print_json({"picture": str(output), "size": list(picture.size), "view": picture.info["view"]})
    else:
        seen = f"; the encoder sees it {view}" if (view := picture.info["view"]) else ""
        click.echo(f"wrote {output}{seen}")
