"""Train the background classifier: cross-entropy summed over the patches of an image, mean over the images.

    loss = - 1/B sum_b sum_patches  y log p + (1 - y) log (1 - p)        y: foreground or not
    coarse    y is the share of foreground among the m x m patches that one of its own stands for, so that blocks are
              ranked by how much foreground they hold
    trunk     only the norm and the head train; the layers in front of them are the detector's, frozen

AdamW, a warm-up and half a cosine, images mirrored at random. See `edgeprune.train.resume` for interruptions.

Paper   https://arxiv.org/abs/2410.09324 ("accumulative" cross-entropy, read as the sum over patches)
"""

from __future__ import annotations

import dataclasses
import json
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from edgeprune import __version__
from edgeprune.errors import EdgepruneError, RequestError
from edgeprune.pruners._scorer import BACKGROUND, FOREGROUND, Scorer, ScorerConfig
from edgeprune.quality import ranking as rankings
from edgeprune.quality.data import Samples
from edgeprune.quality.labels import THRESHOLD, grid_of
from edgeprune.quality.ranking import Ranking
from edgeprune.quality.trunk import IMAGENET_MEAN, IMAGENET_STD, Trunk, read_detector
from edgeprune.train.loop import BETAS, Loop, Show, check_device
from edgeprune.train.patches import Patches, loader_workers
from edgeprune.train.resume import NAME as CHECKPOINT
from edgeprune.train.resume import State, check_output, check_same, interruptible
from edgeprune.train.schedule import drawn

__all__ = ["IMAGES", "SCENES", "ScorerSettings", "train"]

SCORER, CONFIG, REPORT, PLOT = "scorer.safetensors", "config.json", "report.json", "report.png"
COARSE = 2
"""patches of the model along a side of a coarse scorer's own"""


@dataclass(frozen=True)
class ScorerSettings:
    """What decides the result, together with the data."""

    kind: Literal["front", "coarse", "trunk"] = "front"
    layers: int = 2
    width: int = 384
    heads: int = 6
    mlp_width: int = 1536
    patch_size: int = 16
    """pixels, of the model behind it"""
    size: tuple[int, int] = (512, 864)
    """(height, width) in pixels that the model takes; images are stretched to it"""
    threshold: float = THRESHOLD
    """share of a patch that objects must cover to make it foreground"""
    epochs: int = 10
    batch: int = 16
    lr: float = 5e-4
    weight_decay: float = 0.05
    seed: int = 0
    model: str = ""
    """folder or Hugging Face id of the detector, of kind trunk"""


IMAGES = ScorerSettings()
"""for photographs, the width of BAViT-small"""
SCENES = ScorerSettings(width=48, heads=3, mlp_width=96, patch_size=8, size=(80, 80), epochs=4, batch=64, lr=3e-3)
"""for the drawn scenes; narrow, since a detector of theirs is small, too"""


def train(
    data: Samples,
    validation: Samples,
    settings: ScorerSettings,
    output: Path,
    *,
    source: str = "",
    threads: int | None = None,
    device: Literal["cpu", "cuda"] = "cpu",
    resume: bool = False,
    force: bool = False,
    show: Show = lambda *_: None,
) -> Ranking:
    """Trains a scorer and writes it to the folder `output`: scorer.safetensors, config.json, report.json, report.png.

    source: what the data are, in words; a training only goes on with the same
    resume: go on with the training in `output`; of one that is complete, its report is read
    force: replace what is there; it stays until what replaces it is whole
    show: called as show(done, total, what)

    Raises RequestError when the settings contradict each other or the data, or `output` is taken; Interrupted after
    SIGINT or SIGTERM, with everything saved; EdgepruneError when the loss is not finite or nothing can be written.
    """
    rankings.check_packages()
    config, trunk, settings = _prepared(settings)
    request = {**dataclasses.asdict(settings), "data": source, "images": len(data)}
    check_output(output, SCORER, "scorer", resume, force)
    if resume and (output / REPORT).is_file() and not (output / CHECKPOINT).is_file():
        return _finished(output, request)
    threads_before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads or threads_before)
        run = _Run(settings, config, trunk, output, device, request)
        return run.train(data, validation, resume, show)
    finally:
        torch.set_num_threads(threads_before)


class _Run:
    """One training: the modules and what they need, on one device."""

    def __init__(
        self,
        settings: ScorerSettings,
        config: ScorerConfig,
        trunk: Trunk | None,
        output: Path,
        device: str,
        request: dict[str, Any],
    ) -> None:
        check_device(device)
        torch.manual_seed(settings.seed)
        self.settings, self.output, self.device, self.request = settings, output, device, request
        self.scorer = Scorer(config).to(device)
        self.trunk = None if trunk is None else trunk.to(device)
        self._mean, self._std = (
            255 * torch.tensor(one, device=device).view(3, 1, 1) for one in (config.mean, config.std)
        )

    def train(self, data: Samples, validation: Samples, resume: bool, show: Show) -> Ranking:
        s = self.settings
        matrices = [one for one in self.scorer.parameters() if one.dim() == 2]
        others = [one for one in self.scorer.parameters() if one.dim() != 2]
        groups = [{"params": matrices, "weight_decay": s.weight_decay}, {"params": others, "weight_decay": 0.0}]
        optimizer, per_epoch = torch.optim.AdamW(groups, lr=s.lr, betas=BETAS), max(1, len(data) // s.batch)
        self.loop = Loop(self, self.scorer, optimizer, State(self.request), self.output, s.epochs, per_epoch, s.lr)
        if resume:  # before the images are read: it refuses what does not fit
            self.loop.restore()
        self.patches, held_out = self._patches(data, "training", show), self._patches(validation, "validation", show)
        if not resume:
            self.output.mkdir(parents=True, exist_ok=True)
            self.loop.save()
        with interruptible() as asked:
            self.loop.run(asked, show)
            report = self._report(held_out, data, asked, show)
            self._write(report)
        return report

    def _patches(self, samples: Samples, what: str, show: Show) -> Patches:
        s, name = self.settings, f"{what} images"
        return Patches(samples, s.size, s.patch_size, s.threshold, lambda at, total: show(at, total, name))

    def batches(self, epoch: int, first: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Images uint8 [B, 3, H, W], labels bool [B, rows, columns], and which are mirrored, bool [B]."""
        order, mirrored, _ = drawn(len(self.patches), self.settings.batch, self.settings.seed, epoch)
        pairs = self.patches.batches(order[first:].tolist(), loader_workers(self.device))
        for (images, labels), flips in zip(pairs, torch.from_numpy(mirrored[first:]), strict=True):
            yield images, labels, flips

    def loss(self, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, float]:
        """The mean over the images of the sum over their patches, and the mean per patch."""
        images, labels, flips = batch
        images[flips], labels[flips] = images[flips].flip(-1), labels[flips].flip(-1)
        likely = torch.log_softmax(self._logits(images), dim=-1)
        target = _targets(labels, self.scorer.config.grid).to(self.device)
        summed = -(target * likely[..., FOREGROUND] + (1 - target) * likely[..., BACKGROUND]).sum()
        return summed / len(images), summed.item() / target.numel()

    def _logits(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] -> [B, n, 2]"""
        x = (images.to(self.device).float() - self._mean) / self._std
        if self.trunk is not None:
            with torch.no_grad():
                x = self.trunk(x)
        logits: Tensor = self.scorer(x)
        return logits

    @torch.no_grad()
    def _report(self, held_out: Patches, data: Samples, asked: list[int], show: Show) -> Ranking:
        self.scorer.eval()
        size, count = self.settings.batch, len(held_out)
        numbers = [list(range(at, min(at + size, count))) for at in range(0, count, size)]
        scores, labels, grid = [], [], self.scorer.config.grid
        for images, true in held_out.batches(numbers, loader_workers(self.device)):
            logits, block = self._logits(images), true.shape[1] // grid[0]
            one = (logits[..., FOREGROUND] - logits[..., BACKGROUND]).view(-1, *grid)
            scores.append(one.repeat_interleave(block, 1).repeat_interleave(block, 2).cpu().numpy())
            labels.append(true.numpy())
            show(sum(map(len, labels)), count, "validation")
            self.loop.stop_if(asked)
        training = {
            **self.request,
            "classes": data.classes,
            "problems": {name: dataclasses.asdict(one) for name, one in getattr(data, "problems", {}).items()},
            "seconds": round(self.loop.state.seconds, 1),
            "loss": [round(loss, 5) for loss in self.loop.state.losses],
            "threads": torch.get_num_threads(),
            "device": self.device,
            "versions": {"edgeprune": __version__, "torch": torch.__version__, "python": platform.python_version()},
        }
        return rankings.evaluate(np.concatenate(scores), np.concatenate(labels), block, training)

    def _write(self, report: Ranking) -> None:
        """Each file is whole before the first of them takes its name; the checkpoint goes when all have."""
        scorer = self.scorer.cpu()
        scorer.config = dataclasses.replace(scorer.config, foreground=dict(report.foreground))
        config = {"scorer": dataclasses.asdict(scorer.config), "training": report.training}
        fresh = {name: self.output / f".{name}" for name in (CONFIG, SCORER, PLOT, REPORT)}
        try:
            fresh[CONFIG].write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
            scorer.save(fresh[SCORER])
            shutil.copymode(fresh[CONFIG], fresh[SCORER])  # safetensors writes files that only their owner may read
            rankings.plot(report, fresh[PLOT])
            fresh[REPORT].write_text(json.dumps(report.to_json(), indent=2) + "\n", encoding="utf-8")
            for name, path in fresh.items():
                path.replace(self.output / name)
        except (OSError, SafetensorError) as error:
            for path in fresh.values():
                path.unlink(missing_ok=True)
            raise EdgepruneError(
                f"the scorer cannot be written to {self.output}: {error}; make room and run it again with --resume"
            ) from None
        (self.output / CHECKPOINT).unlink(missing_ok=True)


def _prepared(settings: ScorerSettings) -> tuple[ScorerConfig, Trunk | None, ScorerSettings]:
    """What is trained, what stands frozen in front of it, and the settings with the detector's numbers in them."""
    trunk, mean, std = None, IMAGENET_MEAN, IMAGENET_STD
    if settings.kind == "trunk":
        detector = read_detector(settings.model)
        numbers = ("width", "heads", "mlp_width", "patch_size")
        settings = dataclasses.replace(settings, **{name: getattr(detector, name) for name in numbers})
        mean, std = detector.mean, detector.std
        trunk = Trunk(detector, settings.layers)
    if settings.width % settings.heads:
        raise RequestError(f"--width must be a multiple of --heads, got {settings.width} and {settings.heads}")
    patch_size = settings.patch_size * (COARSE if settings.kind == "coarse" else 1)
    config = ScorerConfig(
        kind=settings.kind,
        layers=settings.layers,
        width=settings.width,
        heads=settings.heads,
        mlp_width=settings.mlp_width,
        patch_size=patch_size,
        grid=grid_of(settings.size, patch_size),
        mean=mean,
        std=std,
    )
    return config, trunk, settings


def _finished(output: Path, request: dict[str, Any]) -> Ranking:
    """The report of a training that is complete."""
    try:
        report = rankings.read(output / REPORT)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RequestError(f"{output / REPORT} is damaged: {error}; train anew with --force") from None
    check_same(output, {name: report.training.get(name) for name in request}, request)
    return report


def _targets(labels: Tensor, grid: tuple[int, int]) -> Tensor:
    """bool [B, rows, columns] -> [B, n], the share of foreground in each patch of the scorer's grid."""
    rows, columns = labels.shape[1] // grid[0], labels.shape[2] // grid[1]
    return labels.float().view(-1, grid[0], rows, grid[1], columns).mean((2, 4)).flatten(1)
