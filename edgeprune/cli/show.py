"""`edgeprune show`: images with what is kept of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeprune.cli import options
from edgeprune.cli.console import print_json, progress

__all__ = ["command"]

PICTURE, PICTURES = Path("kept.png"), Path("kept")


@click.command("show")
@options.bundle
@click.argument("images", type=options.Image(), nargs=-1, metavar="[IMAGE]...")
@click.option("--output", type=options.PATH, help="A .png; for several images a folder. Default kept.png, or kept.")
@options.image_range
@options.first
@click.option("--text", metavar="QUESTION", help="What is asked, of a bundle that brings its text side (--text-model).")
@click.option("--prior", type=click.Choice(["motion"]), help="Of a video: what moves, drawn beside what it keeps.")
@click.option(
    "--every", type=click.IntRange(min=1), default=5, show_default=True, help="Of its frames, one in so many."
)
@click.option("--threshold", type=float, default=0.5, show_default=True, help="Of the scores of a detector's boxes.")
@click.option(
    "--device", type=click.Choice(["auto", *options.devices.choices]), default="auto", show_default=True,
    help="Where to run it; auto: a plan that fits, else cuda, else cpu.",
)  # fmt: skip
@options.verb
def command(
    bundle: Path,
    images: tuple[Path, ...],
    output: Path | None,
    image_range: tuple[float, float] | None,
    keep: int | None,
    text: str | None,
    prior: str | None,
    every: int,
    threshold: float,
    device: str,
    as_json: bool,
) -> None:
    """Draw images with the patches that are kept.

    Without an image it is one that the bundle holds.

    \b
    edgeprune show my-bundle
    edgeprune show my-bundle photo.jpg --output kept.png
    edgeprune show my-bundle photos/*.jpg --output kept
    edgeprune show my-bundle clip.mp4 --prior motion --output frames
    """
    from edgeprune.runtime import load
    from edgeprune.runtime.images.preprocess import as_rgb, check_file
    from edgeprune.runtime.show import draw

    if not images and image_range is not None:
        raise click.UsageError("--image-range goes with an image, which is missing; give one, or leave it out")
    if prior is not None:
        _video(bundle, images, output or PICTURES, every, device, as_json)
        return
    places = _places(images, output)
    drawn: list[dict[str, Any]] = []
    asked = {} if text is None else {"text": text}
    with progress() as show:
        runner = bundle if len(places) == 1 else load(bundle, device)
        if len(places) > 1:  # behind what may be refused of the bundle, and of the images
            for path in images:
                check_file(path, image_range)
            _make(next(iter(places)).parent)
        for at, (place, image) in enumerate(places.items()):
            show(at, len(places), place.name)
            shown = image if image is None or image_range is None else as_rgb(image, True, image_range)
            picture = draw(runner, shown, place, threshold, keep, device, asked)
            classes = [{"label": label, "probability": share} for label, share in picture.info["classes"]]
            said = {"classes": classes} if classes else {}
            drawn.append({"picture": str(place), "size": list(picture.size), "view": picture.info["view"], **said})
    if as_json:
        print_json(drawn if len(images) > 1 else drawn[0])
        return
    for one in drawn:
        click.echo(f"wrote {one['picture']}{'; the encoder sees it ' + one['view'] if one['view'] else ''}")
        for one_class in one.get("classes", []):
            click.echo(f"  {one_class['probability']:6.1%}  {one_class['label']}")


def _video(bundle: Path, videos: tuple[Path, ...], folder: Path, every: int, device: str, as_json: bool) -> None:
    """A picture of each frame that is drawn, in a folder."""
    from edgeprune.runtime.show_video import draw_video

    if len(videos) != 1:
        raise click.UsageError(f"--prior motion takes one video, got {len(videos)} files; give it alone")
    _make(folder)
    with progress() as show:
        written = draw_video(bundle, videos[0], folder, every, device, lambda name: show(0, 1, name))
    if as_json:
        print_json([{"picture": str(place)} for place in written])
        return
    click.echo(f"wrote {len(written)} frames, {written[0]} to {written[-1].name}")


def _places(images: tuple[Path, ...], output: Path | None) -> dict[Path, Path | None]:
    """File -> the image that is drawn there, of several in one folder."""
    if len(images) < 2:
        return {output or PICTURE: images[0] if images else None}
    folder = output or PICTURES
    places: dict[Path, Path | None] = {folder / f"{image.stem}.png": image for image in images}
    if len(places) < len(images):
        raise click.UsageError("the names of several images must differ, as their pictures have them; give them apart")
    if (folder.exists() and not folder.is_dir()) or folder.suffix.lower() == ".png":
        raise click.UsageError(f"--output must be a folder for several images, got {folder}; name one, or leave it out")
    return places


def _make(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise click.UsageError(f"{folder} cannot be made: {error.strerror}; choose another --output") from None
