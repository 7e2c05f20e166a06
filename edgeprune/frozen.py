"""FlowCut's own counts, frozen: what its rule takes of images on the median is what goes at each step, on every image.

    behind layer i, an odd one from 0, of L layers in front of the last:
    n -= round((n - T) / sqrt(L - i - 1) * (1 - (H / log n)^2))        H: entropy of [CLS]'s attention over n rows
    behind the last of these T are left

Each count is taken with those in front of it frozen already, as the graph will have them. The official code takes the
largest H of a batch: here an image is one.

Source  TungChintao/FlowCut@a2ecd24 flowcut/modeling_clip_flowcut.py
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from edgeprune.encoders import Encoder
from edgeprune.encoders._attention import recording
from edgeprune.errors import MethodError, RequestError
from edgeprune.pruners import inside
from edgeprune.reference_steps import Steps
from edgeprune.schedule import Inside, Reduces, Step

__all__ = ["flowcut_steps"]

IMAGES = 16
"""of one run"""


def flowcut_steps(encoder: Encoder, pixels: Tensor, keep: int, reducer: Reduces | None = None) -> tuple[Step, ...]:
    """The official schedule of flowcut; `edgeprune export --schedule` takes it as `layer:keep,...`, too.

    pixels: [M, 3, H, W] float32, as the tower takes them; keep: T; reducer: flowcut with its options; None: as it comes

    Raises MethodError where there is no [CLS], RequestError where there are fewer than three layers, no image, or no
    fewer patches than T.
    """
    if not encoder.tower.has_cls:
        raise MethodError(f"flowcut reads the [CLS] row of the attention; {encoder.family} has no [CLS] token")
    if encoder.layer < 3 or not len(pixels) or not 0 < keep < encoder.patches:
        raise RequestError(
            f"counts are frozen on one image or more, of 3 layers or more, for 1..{encoder.patches - 1} tokens; got "
            f"{len(pixels)} images, {encoder.layer} layers and {keep} tokens"
        )
    reducer = reducer or inside.get("flowcut")()
    steps: tuple[Step, ...] = ()
    rows, end = encoder.patches, encoder.layer - 1
    for layer in range(2, end + 1, 2):
        left = keep
        if layer + 2 <= end:
            before = Inside("flowcut", reducer, steps)
            shares = [_shares(encoder, part, before, layer) for part in torch.split(pixels, IMAGES)]
            goes = torch.tensor([_cut(one, keep, end - layer) for one in torch.cat(shares)])
            left = max(keep, rows - int(goes.median()))
        if left < rows:
            steps, rows = (*steps, Step(layer, left)), left
    return steps


def _shares(encoder: Encoder, pixels: Tensor, before: Inside, layer: int) -> Tensor:
    """[B, n]: what of [CLS]'s attention each row gets in the layer in front, and all of them 1."""
    tower, module = encoder.tower, encoder.tower.attention[layer - 1]
    within = dataclasses.replace(encoder, inside=before)
    with (
        torch.inference_mode(),
        recording(tower.module, tower.attention[: encoder.layer], written_out=True) as seen,
        Steps(within, seen),
    ):
        tower.module(pixels, output_hidden_states=True)
    attended = seen.maps[module][:, :, 0, tower.prefix :].mean(dim=1)
    attended = attended[:, : attended.shape[1] - tower.suffix]
    return attended / attended.sum(dim=1, keepdim=True)


def _cut(shares: Tensor, keep: int, layers: int) -> int:
    """How many rows the rule takes of an image.

    shares: [n] of one image; layers: that follow in front of the last

    >>> _cut(torch.full((100,), 0.01), 20, 4), _cut(torch.eye(100)[0], 20, 4)
    (0, 40)
    """
    entropy = -float((shares * shares.clamp_min(1e-12).log()).sum())
    return round((len(shares) - keep) / math.sqrt(layers) * (1 - (entropy / math.log(len(shares))) ** 2))
