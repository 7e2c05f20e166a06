"""Fit the correction of an encoder with steps inside: ridge regression of its features to those of the whole encoder.

    min over D, b   sum |f + D f + b - f*|^2 + r t |D|^2         W = 1 + D        t: mean variance of f, per channel
    f     features of the K kept tokens, in front of the projector; f*    those of the same patches without steps

A strong ridge leaves W = 1 and the shift of the means alone. One image in five is held out: r is the one of RIDGES that
leaves least on these, and what is left there is what is reported. Nothing is held in memory but sums.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edgeprune.correction import Correction
from edgeprune.encoders import Encoder
from edgeprune.errors import EdgepruneError, RequestError
from edgeprune.export.baselines import unpruned
from edgeprune.export.manifest import rule_of
from edgeprune.export.opening import Opened, fits_of, opened
from edgeprune.export.request import Request
from edgeprune.quality.sweep.items import Item
from edgeprune.runtime.parity.inside import places
from edgeprune.targets import load
from edgeprune.trace import PrunedEncoder, outputs

__all__ = ["ENOUGH", "KINDS", "calibrate", "features"]

KINDS = ("affine", "shift")
LEAST, ENOUGH = 10, 50
"""images that an affine map needs at least, and those below which it is warned of"""
RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
HELD_OUT = 5
"""every so many images one is held out"""

Show = Callable[[int, int, str], None]
Pair = tuple[Tensor, Tensor]


def calibrate(
    request: Request, items: Sequence[Item], kind: str = "affine", show: Show = lambda *_: None
) -> Correction:
    """The correction for what a request exports, of its images.

    items: unlabelled images; kind: one of KINDS

    Raises RequestError for too few images, where no step shortens the sequence, and as `opened`; ImageError for an
    image that cannot be read; EdgepruneError where features are not finite.
    """
    if kind not in KINDS:
        raise RequestError(f"--kind must be one of {', '.join(KINDS)}, got {kind}")
    if kind == "affine" and len(items) < LEAST:
        raise RequestError(f"an affine correction needs {LEAST} images or more, got {len(items)}; or give --kind shift")
    target = load(request.target)
    loaded = opened(request, target)
    fits = fits_of(request, loaded)
    fitted, held = _Sums(), _Sums()
    for at, (given, wanted) in enumerate(_pairs(loaded, items, show)):
        if not (given.isfinite().all() and wanted.isfinite().all()):
            raise EdgepruneError(f"features of {items[at].name} are not finite; leave the image out")
        sums = held if len(items) >= HELD_OUT and at % HELD_OUT == HELD_OUT - 1 else fitted
        sums.add(given, wanted)
    judge = held if held.count else fitted
    width = fitted.mean[0].numel()
    candidates = [fitted.solved(ridge) for ridge in RIDGES] if kind == "affine" else []
    shift = torch.zeros(width, width, dtype=torch.float64), fitted.mean[1] - fitted.mean[0]
    best = min([shift, *candidates], key=lambda one: judge.left(*one))
    nothing = torch.zeros_like(best[0]), torch.zeros_like(best[1])
    made = {
        "kind": kind,
        "images": len(items),
        "held_out": len(items) // HELD_OUT if held.count else 0,
        "residual": [round(judge.left(*one), 6) for one in (nothing, best)],
        "fits": fits,
    }
    weight = torch.eye(width, dtype=torch.float64) + best[0]
    return Correction(weight.float(), best[1].float(), made)


def features(encoder: Encoder, pixels: Tensor) -> Tensor:
    """[B, N, C] in front of the projector, without steps."""
    out = encoder.tower.module(pixels, output_hidden_states=True)
    hidden: Tensor = encoder.hidden(out)
    return encoder.arrange(hidden[:, encoder.tower.prefix : hidden.shape[1] - encoder.tower.suffix])


def _pairs(loaded: Opened, items: Sequence[Item], show: Show) -> Iterator[Pair]:
    """Of each image the features of its kept tokens, [K, C], with steps and without."""
    encoder, method = loaded.encoder, loaded.method
    pruned, names = PrunedEncoder(encoder, method).eval(), outputs(encoder, method)
    rule = rule_of(method, encoder)
    whole, _ = unpruned(encoder)
    seen: list[Tensor] = []
    hook = pruned.projector.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        for at, item in enumerate(items):
            show(at, len(items), item.name)
            pixels = torch.from_numpy(_tiles(loaded, item))
            with torch.inference_mode():
                seen.clear()
                handed = dict(zip(names, pruned(pixels), strict=True))
                every = features(whole, pixels)
            for image, indices in enumerate(handed["indices"].long()):
                rows = seen[0][image]
                if len(rows) != len(indices):  # all that the steps left went through the projector
                    one = {name: value[image].numpy() for name, value in handed.items()}
                    row_of = places(one, rule.get("steps", []))
                    rows = rows[torch.from_numpy(row_of[one["indices"]])]
                yield rows.double(), every[image, indices].double()
    finally:
        hook.remove()


def _tiles(loaded: Opened, item: Item) -> np.ndarray:
    """[B, 3, H, W] float32 of an image, or of its tiles."""
    preprocessing = loaded.preprocessing
    if preprocessing.tiles is None:
        return preprocessing(item.image())[None]
    return preprocessing.tiled(item.image())


@dataclass
class _Sums:
    """What ridge regression needs of f and of f* - f, without them."""

    count: int = 0
    first: Tensor = dataclasses.field(default_factory=lambda: torch.zeros(()))
    """sum of f; delta: of f* - f; wanted: of f*"""
    delta: Tensor = dataclasses.field(default_factory=lambda: torch.zeros(()))
    wanted: Tensor = dataclasses.field(default_factory=lambda: torch.zeros(()))
    gram: Tensor = dataclasses.field(default_factory=lambda: torch.zeros(()))
    """sum of f f'; cross: of f (f* - f)'"""
    cross: Tensor = dataclasses.field(default_factory=lambda: torch.zeros(()))
    squared: float = 0.0
    """sum of |f* - f|^2"""
    length: float = 0.0
    """sum of |f*|^2"""

    def add(self, given: Tensor, wanted: Tensor) -> None:
        """[K, C] float64 twice"""
        delta = wanted - given
        self.count += len(given)
        self.first = self.first + given.sum(dim=0)
        self.delta = self.delta + delta.sum(dim=0)
        self.wanted = self.wanted + wanted.sum(dim=0)
        self.gram = self.gram + given.T @ given
        self.cross = self.cross + given.T @ delta
        self.squared += float(delta.square().sum())
        self.length += float(wanted.square().sum())

    @property
    def mean(self) -> Pair:
        """of f and of f*"""
        return self.first / self.count, self.wanted / self.count

    def solved(self, ridge: float) -> Pair:
        """D [C, C] and b [C] of the least squares: f* - f is about D f + b"""
        mean, shift = self.first / self.count, self.delta / self.count
        gram = self.gram / self.count - torch.outer(mean, mean)
        cross = self.cross / self.count - torch.outer(mean, shift)
        penalty = ridge * gram.diagonal().mean() * torch.eye(len(mean), dtype=gram.dtype)
        change = torch.linalg.solve(gram + penalty, cross).T
        return change, shift - change @ mean

    def left(self, change: Tensor, bias: Tensor) -> float:
        """sqrt(sum |f + D f + b - f*|^2 / sum |f*|^2)"""
        moved = (change @ self.gram * change).sum() + 2 * (change @ self.first) @ bias + self.count * bias @ bias
        met = (change.T * self.cross).sum() + bias @ self.delta
        return math.sqrt(max(self.squared + float(moved) - 2 * float(met), 0.0) / self.length)
