"""A picture of what a bundle keeps: the image as the encoder sees it, and the same with the dropped patches dimmed.

Where the bundle says which token each patch went to (`origin`), each token has a hue: the patch that it stands for
strong, those that became part of it in the same hue, lighter; one that is a patch alone is left as it is.
A detector draws its boxes on the second one, each with its class and score; of a classifier the caption says the
likeliest class.
"""

from __future__ import annotations

import colorsys
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from edgeprune import bundle as bundles
from edgeprune.errors import ImageError, RequestError
from edgeprune.ports import PRIOR
from edgeprune.runtime.budgets import Budgets, first_picks
from edgeprune.runtime.classes import Classes
from edgeprune.runtime.detections import THRESHOLD, Detections, decode
from edgeprune.runtime.devices import AUTO
from edgeprune.runtime.images.preprocess import ImageLike, Preprocessing, as_rgb
from edgeprune.runtime.loading import load
from edgeprune.runtime.parity.stored import own_image
from edgeprune.runtime.runner import Given, Images, Runner
from edgeprune.runtime.saving import save

__all__ = ["draw"]

UNSEEN = 0.02
"""a change of an image's proportions that is not worth a word"""
SHORT_SIDE = 480
"""pixels; small inputs are enlarged by a whole factor until they have it"""

_PAPER = (250, 250, 248)
_COLD, _HOT = np.array((28, 30, 44), np.float32), np.array((255, 176, 46), np.float32)
_INK = (38, 40, 46)
_FAINT = (128, 131, 140)
_BETWEEN = 0.35
"""opacity of the line between two kept patches"""
_SHADE = np.array((26, 30, 42), np.float32)
_STRIPE = 26.0
"""what stripes over dropped patches are lighter by"""
_TINT, _LIGHT = 0.5, 0.6
"""how much of a patch is its token's hue, where it stands and where it only went there"""
_COLOURS = ((255, 99, 71), (64, 180, 255), (255, 205, 60), (122, 220, 110), (222, 130, 255), (255, 150, 190))
"""of boxes, by class; bright, for dimmed patches are dark"""


def draw(
    bundle: str | os.PathLike[str] | Runner,
    image: ImageLike | None,
    output: Path | None = None,
    threshold: float = THRESHOLD,
    keep: int | None = None,
    device: str = AUTO,
    inputs: Mapping[str, Given] = MappingProxyType({}),
) -> Image.Image:
    """Left the preprocessed image, right its kept patches in colour and the dropped ones dimmed, below a caption.

    image: None for one that the bundle holds
    threshold: of the scores of a detector's boxes
    keep: only so many of the kept patches, where kept sets nest; None for all
    device: of a bundle that is not open yet, as `load` takes it
    inputs: what else the graph is given, as `Runner.outputs` takes it; a question in words stands in the caption

    A bundle that takes several images at a time is shown the same one in every place; of tiles, the whole image is
    drawn, or, where it is none of them, they are, as they lie in it. `info["view"]` of the picture says that the
    encoder sees the image squeezed, or cut at its sides; it is empty where it is neither. `info["classes"]` has the
    likeliest classes of a classifier and their probabilities; of any other bundle it is empty.

    Raises ImageError when the image cannot be read, RequestError when `output` is not a PNG or cannot be written (it is
    then as it was), or there are no such sets, and what `load` raises.
    """
    if output is not None and output.suffix.lower() != ".png":
        raise RequestError(f"show writes PNG, got {output.name}; choose a name that ends in .png")
    runner: Runner = bundle if isinstance(bundle, Runner) else load(bundle, device)
    if isinstance(image, np.ndarray) and image.dtype != np.uint8:
        raise ImageError(f"show needs an image, as a file or uint8 [height, width, 3]; got an array of {image.dtype}")
    if image is None:
        if isinstance(bundle, Runner):
            raise RequestError("an open bundle does not read its own image; give one, or the bundle's folder")
        image = own_image(bundles.load(Path(bundle)))
    steps, manifest = runner.preprocessing, runner.manifest
    view = _view(steps, image)
    tensors = _tensors(runner, [image] * manifest.tiles if steps.tiles is None else image, keep, inputs)
    pixels, cells = _seen(runner, image)
    pools, each = tensors["indices"].shape
    rows = tensors["indices"] + manifest.patches * np.arange(pools)[:, None]  # of all patches of the run
    kept = cells.flat[rows.ravel()]
    kept = kept[kept >= 0]
    grid = (pixels.shape[0] * runner.grid[0] // steps.size[0], pixels.shape[1] * runner.grid[1] // steps.size[1])
    share, boxes, went = _share(len(kept), grid[0] * grid[1]), None, None
    if (origin := tensors.get("origin")) is not None:
        token = np.where(origin >= 0, origin + each * np.arange(pools)[:, None], -1)
        token.flat[rows.ravel()] = np.arange(pools * each)
        went = _laid(token, cells)
        merged = int((went >= 0).sum()) - len(kept)
        share += f", {merged} more are part of them" if merged else ""
    classes = Classes(tensors["logits"][0], manifest.labels).top() if manifest.kind == "logits" else []
    share += "".join(f", says {label} ({probability:.0%})" for label, probability in classes[:1])
    if manifest.kind == "detections":
        boxes = decode(tensors["logits"][:1], tensors["pred_boxes"][:1], [(1, 1)], threshold)[0]
        share += _found(len(boxes.scores), threshold)
    share += f"; {view}" if view else ""
    share += "".join(f"; {text}" for text in inputs.values() if isinstance(text, str))
    inside = manifest.inside.get("reducer", "")
    name = f"{manifest.method} + {inside}" if inside else manifest.method
    known = inputs.get(PRIOR)
    prior = None if known is None else _laid(np.asarray(known, np.float32), cells).reshape(grid)
    picture = _picture(pixels, kept, grid, (name, share), boxes, manifest.labels, went, prior)
    picture.info |= {"view": view, "classes": classes}
    if output is not None:
        save(output, lambda file: picture.save(file, format="PNG"))
    return picture


def _seen(runner: Runner, image: ImageLike) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """What is drawn of an image, [H, W, 3], and [B, N] the cell of it, row by row, of each patch of a run; -1: none."""
    steps, tiles, (rows, columns) = runner.preprocessing, runner.preprocessing.tiles, runner.grid
    cells = np.full((runner.manifest.tiles, rows * columns), -1, np.int32)
    if tiles is None:
        cells[0] = np.arange(rows * columns)
        return steps.pixels(image), cells
    parts = steps.tiled_pixels(image)
    if tiles.whole:
        at = tiles.count - 1 if tiles.squeezed else 0
        cells[at] = np.arange(rows * columns)
        return parts[at], cells
    down, across = steps.tile_shape(image)
    laid = (
        np.arange(cells.size, dtype=np.int32).reshape(down, rows, across, columns).swapaxes(1, 2).reshape(cells.shape)
    )
    height, width = steps.size
    apart = parts.reshape(down, across, height, width, 3).swapaxes(1, 2)
    return apart.reshape(down * height, across * width, 3), laid


def _laid(values: NDArray[Any], cells: NDArray[np.int32]) -> NDArray[Any]:
    """[B, N], or [N] of each image alike, of a run's patches -> the same, cell by cell of what is drawn."""
    every = np.broadcast_to(values.reshape(-1, cells.shape[1]), cells.shape)
    drawn = np.empty((cells >= 0).sum(), values.dtype)
    drawn[cells[cells >= 0]] = every[cells >= 0]
    return drawn


def _tensors(runner: Runner, images: Images, keep: int | None, inputs: Mapping[str, Given]) -> dict[str, NDArray[Any]]:
    tensors = runner.outputs(images, **inputs)
    if keep is None:
        return tensors
    (budgets := Budgets.of(runner.manifest)).check(f"a budget of {keep}")
    return first_picks(tensors, keep, budgets.greedy)


def _found(objects: int, threshold: float) -> str:
    return f", finds {objects} object{'s' if objects != 1 else ''} (score > {threshold:g})"


def _view(steps: Preprocessing, image: ImageLike) -> str:
    """What of an image the encoder does not see as it is; tiles, sizes that stay and padding have nothing to say."""
    if steps.resize is None or steps.tiles is not None or steps.pad:
        return ""
    rgb = as_rgb(image, steps.convert_rgb)
    height, width = steps.size
    if abs(rgb.width * height - rgb.height * width) <= UNSEEN * rgb.height * width:
        return ""
    how = "cut" if "shortest_edge" in steps.resize else "squeezed"
    return f"{how} from {rgb.width}x{rgb.height} to {width}x{height}"


def _share(kept: int, patches: int) -> str:
    return f"keeps {kept} of {patches} patches ({kept / patches:.0%})"


def _picture(
    pixels: NDArray[np.uint8],
    kept: NDArray[np.int32],
    grid: tuple[int, int],
    caption: tuple[str, str],
    detections: Detections | None = None,
    labels: tuple[str, ...] = (),
    went: NDArray[np.int32] | None = None,
    prior: NDArray[np.float32] | None = None,
) -> Image.Image:
    """pixels: [H, W, 3]; kept: [K] -> margin | image | gap | pruned image | margin, with the caption under them; and
    the prior [rows, columns] behind a gap, if there is one: dark where it is 0, bright where it is the largest.

    detections: with boxes in parts of the image, to be drawn on the pruned one
    went: [N], the token that each patch went to, -1 for none; None: nothing is said of it
    """
    factor = math.ceil(SHORT_SIDE / min(pixels.shape[:2]))
    cell = (pixels.shape[0] // grid[0] * factor, pixels.shape[1] // grid[1] * factor)
    mask = np.zeros(grid[0] * grid[1], bool)
    mask[kept] = True
    mask = mask.reshape(grid)

    height, width = pixels.shape[0] * factor, pixels.shape[1] * factor
    left = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
    dimmed = _dimmed(np.asarray(left), mask, cell)
    if went is not None:
        dimmed = _tinted(dimmed, np.asarray(left), mask, went.reshape(grid), cell)
    right = Image.fromarray(_outline(dimmed, mask, cell))
    if detections is not None:
        _draw_boxes(right, detections, labels)

    margin, gap, text = height // 24, height // 40, height // 22
    panels = [left, right]
    if prior is not None:
        share = np.clip(prior / max(float(prior.max()), 1e-12), 0, 1)[..., None]
        colours = Image.fromarray((_COLD + share * (_HOT - _COLD)).astype(np.uint8))
        panels.append(colours.resize((width, height), Image.Resampling.NEAREST))
    across = len(panels) * (width + gap) - gap + 2 * margin
    canvas = Image.new("RGB", (across, height + 2 * margin + text + margin // 2), _PAPER)
    for at, panel in enumerate(panels):
        canvas.paste(panel, (margin + at * (width + gap), margin))
    pen = ImageDraw.Draw(canvas)
    font = _font(text)
    baseline = (margin, margin + height + margin // 2)
    pen.text(baseline, caption[0], fill=_INK, font=font)
    pen.text(
        (baseline[0] + pen.textlength(caption[0] + "   ", font=font), baseline[1]), caption[1], fill=_FAINT, font=font
    )
    return canvas


def _dimmed(pixels: NDArray[np.uint8], mask: NDArray[np.bool_], cell: tuple[int, int]) -> NDArray[np.uint8]:
    """[H, W, 3] uint8, mask [rows, columns] -> slate with thin stripes where nothing is kept, also where no patch
    reaches: on what is dark by itself that is lighter than the image.
    """
    grey = pixels @ np.array((0.299, 0.587, 0.114), np.float32)
    dark = 0.3 * (0.9 * grey[..., None] + 0.1 * pixels) + _SHADE
    step, diagonal = max(6, min(cell) // 4), np.add.outer(*map(np.arange, pixels.shape[:2]))
    dark += np.where(diagonal % step < max(1, step // 8), _STRIPE, 0)[..., None]
    shown = np.zeros(pixels.shape[:2], bool)
    rows, columns = mask.shape[0] * cell[0], mask.shape[1] * cell[1]
    shown[:rows, :columns] = mask.repeat(cell[0], 0).repeat(cell[1], 1)
    return np.where(shown[..., None], pixels, dark).astype(np.uint8)


def _tinted(
    drawn: NDArray[np.uint8],
    pixels: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    went: NDArray[np.int32],
    cell: tuple[int, int],
) -> NDArray[np.uint8]:
    """Every patch that went to a token in that token's hue, with a dark line where the neighbour's is another.

    drawn: [H, W, 3], what stays of the others; mask, went: [rows, columns]
    """
    tinted, width = drawn.astype(np.float32), max(1, min(cell) // 24)
    grey = pixels @ np.array((0.299, 0.587, 0.114), np.float32)
    tokens, patches = np.unique(went[went >= 0], return_counts=True)
    several = tokens[patches > 1]  # one of a single patch is that patch, as it is
    for row, column in np.argwhere(np.isin(went, several)).tolist():
        token = int(went[row, column])
        at = slice(row * cell[0], (row + 1) * cell[0]), slice(column * cell[1], (column + 1) * cell[1])
        if mask[row, column]:
            tinted[at] = (1 - _TINT) * pixels[at] + _TINT * _hue(token, 0.95, 0.9)
        else:
            tinted[at] = (1 - _LIGHT) * (0.5 * grey[at][..., None] + 0.5 * 255) + _LIGHT * _hue(token, 0.45, 1.0)
        if row and went[row - 1, column] != token:
            tinted[at][:width] *= 0.6
        if column and went[row, column - 1] != token:
            tinted[at][:, :width] *= 0.6
    return tinted.astype(np.uint8)


def _hue(token: int, saturation: float, value: float) -> NDArray[np.float32]:
    """RGB, of each token another; by the golden section, so that those that follow each other lie far apart."""
    return 255 * np.array(colorsys.hsv_to_rgb(token * 0.618034 % 1.0, saturation, value), np.float32)


def _outline(pixels: NDArray[np.uint8], mask: NDArray[np.bool_], cell: tuple[int, int]) -> NDArray[np.uint8]:
    """A white line around what is kept, and a faint one between two kept patches."""
    drawn = pixels.astype(np.float32)
    width = max(1, min(cell) // 20)
    framed = np.pad(mask, 1)
    for row, column in np.argwhere(mask).tolist():
        patch = drawn[row * cell[0] : (row + 1) * cell[0], column * cell[1] : (column + 1) * cell[1]]
        if framed[row, column + 1]:
            patch[:1] += _BETWEEN * (255 - patch[:1])
        if framed[row + 1, column]:
            patch[:, :1] += _BETWEEN * (255 - patch[:, :1])
        sides = (patch[:width], framed[row, column + 1]), (patch[-width:], framed[row + 2, column + 1])
        ends = (patch[:, :width], framed[row + 1, column]), (patch[:, -width:], framed[row + 1, column + 2])
        for line, neighbour_kept in (*sides, *ends):
            if not neighbour_kept:
                line[:] = 255
    return drawn.astype(np.uint8)


def _draw_boxes(picture: Image.Image, detections: Detections, labels: tuple[str, ...]) -> None:
    """In place; the best is drawn last, on top of the others."""
    pen, text = ImageDraw.Draw(picture), max(11, picture.height // 30)
    font, line = _font(text), max(2, picture.height // 180)
    size = np.array((picture.width, picture.height, picture.width, picture.height), np.float32)
    for at in np.argsort(detections.scores):
        label, (left, top, right, bottom) = int(detections.labels[at]), (detections.boxes[at] * size).tolist()
        colour = _COLOURS[label % len(_COLOURS)]
        pen.rectangle((left, top, max(left, right), max(top, bottom)), outline=colour, width=line)
        said = f"{labels[label] if label < len(labels) else label} {detections.scores[at]:.2f}"
        width = pen.textlength(said, font=font) + text // 2
        x, y = min(max(left, 0), picture.width - width), min(max(top - 1.3 * text, 0), picture.height - 1.3 * text)
        pen.rectangle((x, y, x + width, y + 1.3 * text), fill=colour)
        pen.text((x + text // 4, y), said, fill=_INK, font=font)


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    try:
        return ImageFont.load_default(size)
    except (TypeError, ImportError, OSError):  # Pillow before 10.1, or built without FreeType: its bitmap font
        return ImageFont.load_default()
