"""A weight for each position that attention is taken times, a constant of the graph: what a place gets on every image.

    c[j] = mean over images of what a method ranks position j by      the [CLS] row, or the column means, of a layer
    w[j] = min c / c[j]                                                `--option position=fitted`
    w[j] = 0 where more than half of patch j is padding                `--option padding=480x640`

Sinks and borders are attended to whatever is there; divided by c, a position counts by how much more it gets than it
always does. Weights are at most 1, so that attention stays a share. Where fewer than K patches show the image, padding
fills the budget up: the count stays.

The papers' curves undo that a language model attends to what it read last, and fall along the raster: of an encoder
they would be wrong, and this one is fitted on its own attention. The mask is the official code's, whose count falls
with it, of images of one size; a camera has one.

Source  intcomp/attention-bias@e75ebe7 patches: the mask; the curve is ours
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from edgeprune.encoders import Encoder
from edgeprune.encoders._attention import recording
from edgeprune.pruners import Method

__all__ = ["fitted", "shown", "stored", "unpadded"]

TOGETHER = 8
"""images of one run"""
DIGITS = 6
"""of a weight, in the graph and in the manifest alike"""
LEAST = 1e-12
"""what a mean of nothing is taken for"""


def fitted(encoder: Encoder, method: Method, pixels: Tensor) -> dict[int, Tensor]:
    """The weights of every layer that the method reads, by layer, [N] float32.

    pixels: [M, 3, H, W] float32, as the tower takes them
    """
    tower, layers = encoder.tower, method.layers(encoder.layer)
    modules, sums = {layer: tower.attention[layer] for layer in layers}, dict.fromkeys(layers, torch.zeros(()))
    areas = encoder.areas
    with torch.inference_mode():
        for part in torch.split(pixels, TOGETHER if tower.batched else 1):
            with recording(tower.module, [*modules.values()], written_out=True) as seen:
                tower.module(part, output_hidden_states=True)
            for layer, module in modules.items():
                attended = seen.maps[module].mean(dim=1)
                attended = attended[:, 0] if method.by_cls else attended.mean(dim=1)
                patches = attended[:, tower.prefix : attended.shape[1] - tower.suffix].sum(dim=0)
                sums[layer] = sums[layer] + (patches if areas is None else areas @ patches)
    return {layer: torch.tensor(_digits(_even(total / len(pixels)))) for layer, total in sums.items()}


def _even(mean: Tensor) -> Tensor:
    mean = mean.double().clamp_min(LEAST)
    return mean.min() / mean


def _digits(weights: Tensor) -> list[float]:
    return [float(f"{weight:.{DIGITS}g}") for weight in weights.tolist()]


def unpadded(grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """[N] float32, 0 where more than half of a patch is padding, of an image put in the middle of a square.

    grid: rows and columns of patches; size: height and width of the images

    >>> unpadded((4, 4), (480, 640)).reshape(4, 4)[:, 0]
    tensor([1., 1., 1., 1.])
    >>> unpadded((8, 8), (360, 640)).reshape(8, 8)[:, 0]
    tensor([0., 0., 1., 1., 1., 1., 0., 0.])
    """
    side = max(size)
    shares = [_shown(count, side, length) for count, length in zip(grid, size, strict=True)]
    down, along = (torch.tensor(share) for share in shares)
    return (down[:, None] * along >= 0.5).float().flatten()


def _shown(count: int, side: int, length: int) -> list[float]:
    """Of each of so many patches along a side, the share that the image covers."""
    first, patch = (side - length) // 2, side / count
    return [max(0.0, min(first + length, (at + 1) * patch) - max(first, at * patch)) / patch for at in range(count)]


def stored(weighting: Mapping[int, Tensor]) -> dict[str, list[float]]:
    """As the manifest keeps them, by layer."""
    return {str(layer): _digits(one) for layer, one in weighting.items()}


def shown(learned: Mapping[str, Any]) -> tuple[str, ...]:
    """What of the method's source this departs from, as the manifest has it.

    learned: its `position` and `padding`, where there are such
    """
    said = []
    if "position" in learned:
        made = learned["position"]
        said.append(
            f"attention is taken times a weight for each position, fitted on {made['images']} images ({made['data']})"
        )
    if "padding" in learned:
        height, width = learned["padding"]["image"]
        said.append(f"attention to padding around images of {height}x{width} counts as 0")
    return tuple(said)
