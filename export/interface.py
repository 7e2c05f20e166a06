"""The inputs and outputs of a bundle in words and numbers, for programs in other languages."""

from __future__ import annotations

from edgeprune.bundle import Manifest
from edgeprune.runtime.images.preprocess import Preprocessing
from edgeprune.runtime.images.resize import PILLOW
from edgeprune.runtime.runner import NEXT, STATE

__all__ = ["inputs", "outputs"]

FILTERS = ("nearest", "Lanczos", "bilinear", "bicubic", "box", "Hamming")
"""of Pillow, by number"""


def inputs(manifest: Manifest) -> list[str]:
    """The steps from an image file to `pixel_values`, one each, and to what else the graph takes."""
    return [*_pixels(manifest), *_ports(manifest), *_state(manifest)]


def _ports(manifest: Manifest) -> list[str]:
    """What else the graph is given, a line each."""
    lines = []
    for name, port in manifest.ports.items():
        spec, blank = manifest.inputs[name], port["blank"]
        rest = "it has to be given" if blank is None else f"without one, {blank:g} everywhere"
        lines.append(f"`{name}` {list(spec.shape)} {spec.dtype}: {port['what']}; {rest}.")
    if manifest.halves:
        lines.append(
            "To ask about one image often: `encode.onnx` once with `pixel_values`, then `select.onnx` with all that it "
            "gave and the inputs above; `load(...).encode(image).select(...)` and, in C, `edgeprune_encode` and "
            "`edgeprune_select` do so."
        )
    return lines


def _state(manifest: Manifest) -> list[str]:
    kept = [name for name in manifest.inputs if name.startswith(STATE)]
    if not kept:
        return []
    first, left = kept[0], NEXT + kept[0].removeprefix(STATE)
    return [
        f"The frame before: each input `{STATE}*` takes the output `{NEXT}*` of the same name, `{first}` that of "
        f"`{left}`; zeros in front of the first frame of a video. `load(...).stream()` and the C library's "
        "`edgeprune_run`, where these are left out, do so by themselves."
    ]


def _pixels(manifest: Manifest) -> list[str]:
    steps = Preprocessing.from_json(manifest.preprocessing)
    pixels = manifest.inputs["pixel_values"]
    shape = f"`pixel_values` {list(pixels.shape)} {pixels.dtype}"
    lines = ["Decode the image to RGB, 8 bits a channel, upright (apply its EXIF orientation), without alpha."]
    if steps.tiles is None:
        lines += _resized(steps)
    else:
        whole = f"the whole image squeezed into the {'last' if steps.tiles.squeezed else 'first'}"
        lines.append(
            f"Cut it into {steps.tiles.count} tiles of {_by(steps.size)}, "
            f"{whole if steps.tiles.whole else 'the whole image not among them'}: how "
            "says `edgeprune/runtime/images/tiles.py`, with the numbers of `preprocessing.tiles` in `manifest.json`."
        )
    if pixels.dtype == "uint8":
        return [*lines, f"That is {shape}, channels last; the graph normalises."]
    mean, std = (", ".join(f"{value:.7g}" for value in values) for values in (steps.mean, steps.std))
    inverse = 1 / steps.rescale if steps.rescale else 0
    scaled = f"/ {inverse:.7g}" if abs(inverse - round(inverse)) < 1e-6 else f"* {steps.rescale:.9g}"
    return [
        *lines,
        f"For red, green and blue: `(value {scaled} - mean) / std`, mean {mean}, std {std}, in float32.",
        f"That is {shape}, channels first: all of red, row by row, then green, then blue.",
    ]


def _resized(steps: Preprocessing) -> list[str]:
    lines = []
    torch = "torch's antialiased {} filter, on 8 bits (`edgeprune/runtime/images/resize.py`)"
    whose = "Pillow's {} filter, on 8 bits" if steps.resizer == PILLOW else torch
    how = (
        f"with {whose.format(FILTERS[steps.resample])}. It averages where it shrinks, which OpenCV and "
        "most resizes of a GPU do not: other pixels may keep other patches"
    )
    if steps.resize is None:
        lines.append(f"It must have {_by(steps.size)} pixels.")
    elif "shortest_edge" in steps.resize:
        short = steps.resize["shortest_edge"]
        lines.append(
            f"Resize it to a shorter side of {short} and a longer one of `int({short} * longer / shorter)`, {how}."
        )
    elif "max_height" in steps.resize:
        most = _by((steps.resize["max_height"], steps.resize["max_width"]))
        lines.append(f"Resize it to fit {most}, in its proportions, sides rounded down, {how}.")
    else:
        lines.append(f"Resize it to {_by((steps.resize['height'], steps.resize['width']))}, whatever its shape, {how}.")
    if steps.crop is not None:
        lines.append(
            f"Cut {_by(steps.crop)} from its middle, left at `(width - {steps.crop[1]}) // 2`, top at "
            f"`(height - {steps.crop[0]}) // 2`; what lies outside is 0."
        )
    if steps.pad:
        lines.append(
            f"Put it into the upper left corner of {_by(steps.size)}; what is left is 0 behind the step below."
        )
    return lines


def outputs(manifest: Manifest) -> list[str]:
    """A line for each output that a program may need, in the order of the graph."""
    own = {"tokens": _tokens, "detections": _detected, "logits": _classified}[manifest.kind]
    said = {**_kept(manifest), **own(manifest)}
    return [f"`{name}`: {said[name]}" for name in manifest.outputs if name in said]


def _kept(manifest: Manifest) -> dict[str, str]:
    rows, columns = manifest.grid
    where, place = f"{rows} x {columns} patches", f"row * {columns} + column"
    if manifest.pooled:
        image = "tile" if manifest.tiled else "frame"
        where, place = f"{where} of all {manifest.tiles} {image}s", f"{image} * {rows * columns} + {place}"
    said = {
        "indices": f"which of the {where} the tokens are, `{place}`, ascending.",
        "scores": "what the method ranked the patches by, for all of them; higher is kept.",
        "picks": "the same patches in the order in which the method chose them, most wanted first.",
        "origin": "for every patch, which of the kept tokens it was merged into; -1 for none.",
        "positions": "the place of each token in the rotary positions of the language model: time, row, column.",
    }
    if manifest.rule.get("name") == "greedy":
        said["scores"] = (
            "for each kept patch what it added when it was picked, for every other one -inf: the method chooses one "
            "after the other, so there is no ranking of all patches, and no threshold to set."
        )
    return said


def _tokens(manifest: Manifest) -> dict[str, str]:
    batch, keep, width = manifest.outputs["tokens"].shape
    tiles = manifest.tiles if manifest.tiled or manifest.pooled else 1
    kept, every = keep if manifest.pooled else int(keep) * tiles, manifest.patches * tiles
    of_each = "" if batch == 1 else f", for each image of a run ({batch})"
    layout = f" Their layout: {manifest.layout}." if manifest.layout else ""
    return {
        "tokens": f"{keep} vectors of {width}{of_each}, in the order of the patches. In front of a language model they "
        f"stand where the image's {every} would: the prompt must hold exactly {kept} image placeholders, not {every}, "
        f"since each of them becomes one token. A processor made for the unpruned model puts {every} there.{layout}"
    }


def _detected(manifest: Manifest) -> dict[str, str]:
    return {
        "logits": f"of each box, of its {len(manifest.labels)} classes and, last, of no object; softmax gives scores.",
        "pred_boxes": "each box as centre x, centre y, width, height, in shares of the image.",
    }


def _classified(manifest: Manifest) -> dict[str, str]:
    return {
        "logits": f"of the {len(manifest.labels)} classes of `labels` in `manifest.json`; softmax gives probabilities."
    }


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]} (height x width)"
