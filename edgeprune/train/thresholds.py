"""Train the thresholds of a reducer that drops what scores too low, and count what they leave.

    level[j] = score[j] / mean of the scores of the rows that are left
    m[j]    <- m[j] [level[j] > theta_l]              behind each layer l of `DEPTHS`, in the whole sequence
    logits of later layers += log m                   backwards [x > 0] is sigmoid(x / TAU)

    loss = sum m |f - f*|^2 / sum m |f*|^2 + WEIGHT |cost - wanted|

    f, f*    features behind these gates, and without them
    cost     share of the multiply-adds, by the formula at the mean counts of a batch and, backwards, its slope there
    wanted   what --encoder-cost asks for

Only thetas are trained, on unlabelled images. What the graph has of them are counts: as many rows as pass in the mean
over images, each with those in front of it frozen already. `edgeprune export --encoder-cost` bends them to that cost or
another one, all shares of the patches to one power (`edgeprune.export.steps`).

Paper   https://arxiv.org/abs/2209.13802, which trains its weights along, and compares scores as they are
Source  Cydia2018/AS-ViT@e57f445 vit.py, losses.py: gates straight through; of a batch the mean count goes on
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune.adapted import THRESHOLDS
from edgeprune.correction import digest_of
from edgeprune.encoders import Encoder
from edgeprune.errors import RequestError
from edgeprune.export.opening import opened
from edgeprune.export.request import Request, spelled_out
from edgeprune.export.steps import layers_at, share_of
from edgeprune.pruners import inside
from edgeprune.quality.sweep.items import Item
from edgeprune.runtime.saving import save
from edgeprune.schedule import Inside, Reduces, Reduction, Step
from edgeprune.taps import Taps
from edgeprune.targets import load
from edgeprune.trace import Reducing, run_steps
from edgeprune.train.adapt import AdaptSettings, Pixels
from edgeprune.train.calibrate import features
from edgeprune.train.loop import BETAS, Loop, Show, check_device
from edgeprune.train.resume import NAME as CHECKPOINT
from edgeprune.train.resume import State, check_begun, check_output
from edgeprune.train.schedule import drawn

__all__ = ["BRIEF", "DEPTHS", "train_thresholds"]

BRIEF = AdaptSettings(epochs=2, batch=8, lr=0.1)
"""there are three numbers to learn, by their logarithms"""
DEPTHS = 0.25, 0.5, 0.75
"""of the layers in front of the features, as the paper's 3, 6 and 9 of 12"""
FIRST = 0.2
"""a threshold before training; the mean level is 1. The first of the official code's over the mean of 196 patches"""
TAU = 0.1
"""wide enough that a gate which nearly all pass still learns; the official code's, 1e-4, is .02 of that mean"""
WEIGHT = 4.0
"""of what the cost is off by; not its square, as in the official code"""
SHUT = 1e-4
"""what is left of a row whose gate is shut, so that it has a logarithm"""


def train_thresholds(
    request: Request,
    items: Sequence[Item],
    output: Path,
    settings: AdaptSettings = BRIEF,
    *,
    data: str = "",
    device: str = "cpu",
    resume: bool = False,
    force: bool = False,
    show: Show = lambda *_: None,
) -> dict[str, Any]:
    """Trains the thresholds of a request's reducer for its tower and cost, and writes them to the folder `output` ->
    what the file holds (`edgeprune.adapted`), with the loss of each epoch.

    items: unlabelled images; data: what these are, in words; device: cpu or cuda

    Raises RequestError for a reducer that has no thresholds, without a cost or where it cannot be met, for fewer images
    than a batch, and when `output` is taken; ModelError when what is there is of other settings; Interrupted after
    SIGINT or SIGTERM, with everything saved; ImageError for an image that cannot be read; EdgepruneError when the loss
    is not finite or nothing can be written.
    """
    check_device(device)
    check_output(output, THRESHOLDS, "thresholds", resume, force)
    request = spelled_out(request)
    if resume:
        check_begun(output)
    if request.inside is None or not inside.get(request.inside).gated:
        able = ", ".join(name for name in inside.names() if inside.get(name).gated)
        raise RequestError(f"thresholds are of {able}, got --inside {request.inside or 'none'}; give that one")
    if request.encoder_cost is None:
        raise RequestError("thresholds are trained for a cost; give --encoder-cost, such as 0.6, and no schedule")
    if request.adapted is not None:
        raise RequestError("thresholds are trained of the tower as it is; leave --adapted out")
    if len(items) < settings.batch:
        raise RequestError(f"images must be {settings.batch} or more, as many as a batch, got {len(items)}")
    loaded = opened(request, load(request.target))
    encoder, own = loaded.encoder, loaded.encoder.inside
    assert own is not None
    made = {
        "reducer": own.name,
        "options": own.reducer.options(),
        "model": loaded.checkpoint.id,
        "tower": digest_of(encoder.tower.module),
        "layer": encoder.layer,
        "patches": encoder.patches,
        "encoder_cost": request.encoder_cost,
        "data": data,
        "images": len(items),
        **dataclasses.asdict(settings),
    }
    output.mkdir(parents=True, exist_ok=True)
    encoder.tower.module.to(device).requires_grad_(False)
    gates = Gates(layers_at(DEPTHS, encoder.layer)).to(device)
    pixels = Pixels(items, loaded.preprocessing, device)
    share = share_of(encoder, own.reducer, own.name, loaded.method)
    task = _Gating(encoder, own, gates, pixels, share, request.encoder_cost, settings)
    loop = Loop(
        task,
        gates,
        torch.optim.AdamW(gates.parameters(), settings.lr, BETAS, weight_decay=settings.weight_decay),
        State({**made, "threads": torch.get_num_threads()}),
        output,
        settings.epochs,
        len(items) // settings.batch,
        settings.lr,
    )
    made |= loop.carry_out(resume, show)
    passing = _passing(encoder, own, gates.numbers(), pixels, settings.batch)
    made["thresholds"] = {str(layer): round(value, 6) for layer, value in gates.numbers().items()}
    made["pass"] = {str(step.layer): step.keep for step in passing}
    save(output / THRESHOLDS, lambda file: file.write(f"{json.dumps(made, indent=2)}\n".encode()))
    (output / CHECKPOINT).unlink(missing_ok=True)
    return made


class Gates(nn.Module):
    """The thresholds, by layer."""

    def __init__(self, layers: Sequence[int]) -> None:
        super().__init__()
        self.layers = tuple(layers)
        self.logarithms = nn.Parameter(torch.full((len(layers),), math.log(FIRST)))

    def numbers(self) -> dict[int, float]:
        return dict(zip(self.layers, self.logarithms.detach().exp().tolist(), strict=True))

    def passed(self, layer: int, level: Tensor) -> Tensor:
        """[B, n], 1 of a row that passes and 0 of another; backwards a sigmoid."""
        over = level - self.logarithms[self.layers.index(layer)].exp()
        soft = (over / TAU).sigmoid()
        return (over > 0).to(soft.dtype) - soft.detach() + soft


class _Gated(inside.Reducer):
    """The reducer with gates in place of its cuts: all rows go on, some as good as gone."""

    bias = True
    merges = False

    def __init__(self, own: Reduces, gates: Gates) -> None:
        self._own, self._gates = own, gates

    @property
    def reads_maps(self) -> bool:
        return self._own.reads_maps

    def layers(self, step: Step) -> tuple[int, ...]:
        return self._own.layers(step)

    def select(self, step: Step, taps: Taps, carried: Mapping[str, Tensor]) -> Reduction:
        scores = self._own.select(step, taps, carried).scores
        left = torch.ones_like(scores) if taps.size is None else taps.size
        passed = self._gates.passed(step.layer, _levels(scores, left))
        rows = torch.arange(step.keep, device=scores.device).expand(len(scores), -1)
        return Reduction(rows, scores, size=left * (passed + SHUT * (1 - passed)))


def _levels(scores: Tensor, left: Tensor) -> Tensor:
    """[B, n]: scores over their mean; left: [B, n], how much of each row there is"""
    return scores * left.sum(dim=1, keepdim=True) / (scores * left).sum(dim=1, keepdim=True)


class _Gating:
    """What is learned: batches of pixels, and gates that cost what they should."""

    def __init__(
        self,
        encoder: Encoder,
        own: Inside,
        gates: Gates,
        pixels: Pixels,
        share: Callable[[Sequence[Step]], float],
        wanted: float,
        settings: AdaptSettings,
    ) -> None:
        steps = tuple(Step(layer, encoder.patches) for layer in gates.layers)
        self._whole = replace(encoder, inside=None)
        self._gated = replace(encoder, inside=replace(own, reducer=_Gated(own.reducer, gates), steps=steps))
        self._pixels, self._share, self._wanted, self._settings = pixels, share, wanted, settings

    def batches(self, epoch: int, first: int) -> Iterator[Tensor]:
        order, mirrored, _ = drawn(len(self._pixels), self._settings.batch, self._settings.seed, epoch)
        for numbers, flipped in zip(order[first:], mirrored[first:], strict=True):
            yield self._pixels(numbers.tolist(), flipped)

    def loss(self, batch: Tensor) -> tuple[Tensor, float]:
        with torch.no_grad():
            wanted = features(self._whole, batch)
        out, rows, _ = run_steps(self._gated, Reducing(self._gated), batch)
        off = (rows.rows(self._gated.hidden(out, rows.fit)) - wanted).square().mean(dim=-1)
        assert rows.size is not None
        distilled = (rows.size * off).sum() / (rows.size * wanted.square().mean(dim=-1)).sum()
        counts = {step.layer: _count(reduction.size) for step, reduction in rows.taken}
        loss = distilled + WEIGHT * (self._cost(counts) - self._wanted).abs()
        return loss, float(loss.detach())

    def _cost(self, counts: Mapping[int, Tensor]) -> Tensor:
        """By the formula, which takes whole numbers, and its slope."""
        steps = [Step(layer, max(2, round(float(count.detach())))) for layer, count in counts.items()]
        cost = torch.tensor(self._share(steps))
        for at, step in enumerate(steps):
            less, more = (
                self._share([*steps[:at], Step(step.layer, step.keep + by), *steps[at + 1 :]]) for by in (-1, 1)
            )
            cost = cost + (more - less) / 2 * (counts[step.layer] - step.keep)
        return cost


def _count(size: Tensor | None) -> Tensor:
    """Rows that are left, in the mean over images."""
    assert size is not None
    return size.sum(dim=1).mean()


class _Counting(_Gated):
    """The reducer's own cuts, with a count of what passes the threshold of a layer behind which all go on."""

    bias = False

    def __init__(self, own: Reduces, layer: int, threshold: float) -> None:
        self._own, self._layer, self._threshold = own, layer, threshold
        self.counts: list[Tensor] = []

    def select(self, step: Step, taps: Taps, carried: Mapping[str, Tensor]) -> Reduction:
        found = self._own.select(step, taps, carried)
        if step.layer == self._layer:
            passed = _levels(found.scores, torch.ones_like(found.scores)) > self._threshold
            self.counts.append(passed.sum(dim=1).double())
        return found


def _passing(
    encoder: Encoder, own: Inside, thresholds: Mapping[int, float], pixels: Pixels, batch: int
) -> tuple[Step, ...]:
    """As many rows as pass each threshold in the mean over images, those in front of it frozen already."""
    steps, rows = tuple[Step, ...](), encoder.patches
    for layer, threshold in thresholds.items():
        seen = _Counting(own.reducer, layer, threshold)
        within = replace(encoder, inside=replace(own, reducer=seen, steps=(*steps, Step(layer, rows))))
        with torch.inference_mode():
            for first in range(0, len(pixels), batch):
                run_steps(within, Reducing(within), pixels(range(first, min(first + batch, len(pixels)))))
        rows = max(1, round(float(torch.cat(seen.counts).mean())))
        steps = (*steps, Step(layer, rows))
    return steps
