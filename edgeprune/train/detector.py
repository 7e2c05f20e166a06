"""A small YOLOS that finds the shapes of drawn scenes: how the embedded one was trained.

    python -m edgeprune.train.detector --output DIR        once more, from nothing; goes on where DIR was left

The checkpoint is transformers' own class. Set prediction from nothing takes long to begin to learn, so the training,
and it alone, has help:

    places      the DET tokens stand on a grid, by their initial positions; at first a shape belongs to the token
                nearest to its centre, and only later to the one that predicts it best
    attention   queries and keys start as the identity: a token looks at what is near and alike
    dense loss  each patch says, before the last two layers, what it is part of and where that lies
    quality     a class is worth the IoU of its box, which ranks the detections

Needs scipy (assignment) and pycocotools (mAP).
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeprune.errors import MissingPackageError, RequestError
from edgeprune.probes.drawn import CLASSES, Scenes
from edgeprune.quality.detections import MEAN, STD, corners, detect, pixel_values
from edgeprune.quality.precision import Truth

__all__ = ["DetectorSettings", "new_detector", "train_detector"]

SIDE, PATCH, GRID = 80, 8, 10
"""pixels, pixels, patches per side"""
PLACES = 5
"""DET tokens per side of the image"""
WIDTH, LAYERS, HEADS, MLP = 96, 6, 4, 192
NO_OBJECT_WEIGHT = 0.25
BY_PLACE, BY_PREDICTION = 1000, 2500
"""steps: until the first a shape belongs to a place, from the second to a prediction"""
DENSE_LAYERS = LAYERS - 2
PART = 0.25
"""of a patch that a shape must cover for the dense loss to call it the shape's; patches with less are left out"""


@dataclass(frozen=True)
class DetectorSettings:
    scenes: int = 20_000
    validation: int = 600
    steps: int = 5000
    cooling: int = 1500
    """steps at the end in which the learning rate falls to 0; until then `steps` can still be changed"""
    batch: int = 32
    lr: float = 2.5e-3
    weight_decay: float = 0.05
    seed: int = 0
    """of the weights and the order; scenes have `seed`, those for validation `seed + 1`"""
    save_every: int = 100
    """steps between two states on disk, from which an interrupted training goes on"""


def new_detector(seed: int) -> Any:
    """An untrained YolosForObjectDetection whose DET tokens know their places; see the head of this file."""
    from transformers import YolosForObjectDetection

    torch.manual_seed(seed)
    model: Any = YolosForObjectDetection(_config())
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                gain = 0.5 / math.sqrt(2 * LAYERS) if name.endswith("output.dense.weight") else 0.8
                nn.init.normal_(weight, std=gain / math.sqrt(weight.shape[1]))
            if "attention.query.weight" in name or "attention.key.weight" in name:
                weight.mul_(0.3).add_(1.1 * torch.eye(WIDTH))
        embeddings = model.vit.embeddings
        nn.init.normal_(embeddings.patch_embeddings.projection.weight, std=0.04)
        nn.init.normal_(embeddings.cls_token, std=0.5)
        embeddings.detection_tokens.copy_(torch.randn(WIDTH) * 0.5 + torch.randn(PLACES**2, WIDTH) * 0.02)
        places = torch.cat([torch.zeros(1, WIDTH), _waves(GRID), _waves(PLACES)])
        embeddings.position_embeddings.copy_(places)
        model.vit.encoder.interpolation.mid_position_embeddings.copy_(0.3 * places)
        nn.init.constant_(model.class_labels_classifier.layers[-1].bias[-1], 2.0)
    return model


def _config() -> Any:
    from transformers import YolosConfig

    return YolosConfig(
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=MLP,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        image_size=[SIDE, SIDE],
        patch_size=PATCH,
        num_detection_tokens=PLACES**2,
        use_mid_position_embeddings=True,
        eos_coefficient=NO_OBJECT_WEIGHT,
        id2label=dict(enumerate(CLASSES)),
        label2id={name: i for i, name in enumerate(CLASSES)},
    )


def _waves(side: int) -> Tensor:
    """[side * side, WIDTH]: sines and cosines of the places of a grid. Each head has its own part and reach."""
    at = (torch.arange(side) + 0.5) * GRID / side
    count = WIDTH // HEADS // 4
    parts = []
    for reach in torch.linspace(0.5, 1.4, HEADS):
        angles = at[:, None] * torch.logspace(math.log10(0.2), math.log10(1.5), count) * reach
        one = torch.cat([angles.sin(), angles.cos()], dim=1)
        parts += [one[:, None].expand(-1, side, -1), one[None].expand(side, -1, -1)]
    return torch.cat(parts, dim=2).flatten(0, 1)


class Targets(NamedTuple):
    """A batch. M is the most shapes of one scene; those that are not there are NaN and -1."""

    boxes: Tensor
    """[B, M, 4] centre x, y, width, height, of the image's sides"""
    labels: Tensor
    """[B, M]"""
    owners: Tensor
    """[B, rows, columns]: which shape a patch is part of; -1 of none, -2 of one, but little"""


def _targets(samples: Scenes) -> tuple[np.ndarray[Any, Any], Targets]:
    """Every image [S, H, W, 3] uint8, and what is on it."""
    images = np.empty((len(samples), SIDE, SIDE, 3), np.uint8)
    boxes, labels = np.full((len(samples), 5, 4), np.nan, np.float32), np.full((len(samples), 5), -1)
    owners = np.full((len(samples), GRID, GRID), -1)
    for i in range(len(samples)):
        sample = samples[i]
        images[i], count = sample.image, len(sample.labels)
        x0, y0, x1, y1 = sample.boxes.T / SIDE
        boxes[i, :count] = np.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], axis=1)
        labels[i, :count] = sample.labels
        assert sample.masks is not None
        share = sample.masks.reshape(count, GRID, PATCH, GRID, PATCH).mean(axis=(2, 4))
        owners[i] = np.where(share.max(0) >= PART, share.argmax(0), np.where(share.max(0) > 0, -2, -1))
    return images, Targets(torch.from_numpy(boxes), torch.from_numpy(labels), torch.from_numpy(owners))


def _turned(pixels: Tensor, targets: Targets) -> tuple[Tensor, Targets]:
    """One of the eight ways to lay an image down, and one of the ways to mix up its colours, for the whole batch."""
    boxes, labels, owners = targets
    across, down, swap, negative = torch.randint(2, (4,)).tolist()
    x, y, w, h = boxes.unbind(-1)
    if across:
        pixels, owners, x = pixels.flip(3), owners.flip(2), 1 - x
    if down:
        pixels, owners, y = pixels.flip(2), owners.flip(1), 1 - y
    if swap:
        pixels, owners, x, y, w, h = pixels.transpose(2, 3), owners.transpose(1, 2), y, x, h, w
    pixels = pixels[:, torch.randperm(3)] * (1 - 2 * negative)
    return pixels.contiguous(), Targets(torch.stack([x, y, w, h], -1), labels, owners)


class _Dense(nn.Module):
    """Of the training alone: what each patch is part of, and where that lies from the patch."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, len(CLASSES) + 1 + 4)
        at = (torch.arange(GRID) + 0.5) / GRID
        self.register_buffer("centres", torch.cartesian_prod(at, at).flip(1))

    def forward(self, hidden: Tensor, targets: Targets) -> Tensor:
        """[B, N, C], the patches -> a number"""
        logits, offsets = self.head(self.norm(hidden)).split([len(CLASSES) + 1, 4], dim=-1)
        owners = targets.owners.flatten(1)
        image, patch = (owners >= 0).nonzero(as_tuple=True)
        shape = owners[image, patch]
        wanted = torch.where(owners == -1, len(CLASSES), -100)
        wanted[image, patch] = targets.labels[image, shape]
        centre, size = offsets[image, patch].split(2, dim=-1)
        boxes = torch.cat([centre + self.centres[patch], size], dim=-1)  # type: ignore[index]
        classes = F.cross_entropy(logits.flatten(0, 1), wanted.flatten())
        return classes + 5 * (boxes - targets.boxes[image, shape]).abs().sum(-1).mean()


def _set_loss(logits: Tensor, boxes: Tensor, targets: Targets, step: int) -> Tensor:
    """Set prediction: within the first steps it moves from places to predictions, and from certainty to quality."""
    chosen = _assigned(logits.detach(), boxes.detach(), targets, step)
    image, shape = (chosen >= 0).nonzero(as_tuple=True)
    token = chosen[image, shape]
    predicted, wanted = boxes[image, token], targets.boxes[image, shape]
    overlap, iou = _overlap(corners(predicted), corners(wanted))
    quality = 1 - min(1.0, step / BY_PREDICTION) * (1 - iou.detach())
    aim = torch.zeros_like(logits)
    aim[..., -1] = NO_OBJECT_WEIGHT
    aim[image, token] = 0.0
    aim[image, token, targets.labels[image, shape]] = quality
    aim[image, token, -1] = 1 - quality
    classes = -(aim * logits.log_softmax(-1)).sum() / aim.sum()
    return 2 * classes + 5 * (predicted - wanted).abs().sum(-1).mean() + 2 * (1 - overlap).mean()


def _assigned(logits: Tensor, boxes: Tensor, targets: Targets, step: int) -> Tensor:
    """[B, M]: the DET token of each shape, -1 of those that are not there."""
    from scipy.optimize import linear_sum_assignment

    there = targets.labels >= 0
    wanted = targets.boxes.nan_to_num(0.5)
    at = (torch.arange(PLACES) + 0.5) / PLACES
    places = torch.cartesian_prod(at, at).flip(1)
    cost = 20 * torch.cdist(wanted[..., :2], places)
    by_place = min(1.0, max(0.0, (BY_PREDICTION - step) / (BY_PREDICTION - BY_PLACE)))
    if by_place < 1:
        overlap, _ = _overlap(corners(boxes)[:, None], corners(wanted)[:, :, None])
        scores = logits.softmax(-1).transpose(1, 2).gather(1, targets.labels.clamp(min=0)[..., None].expand_as(cost))
        predicted = 5 * torch.cdist(wanted, boxes, p=1) - 2 * overlap - 2 * scores
        cost = by_place * cost + (1 - by_place) * predicted
    chosen = torch.full_like(targets.labels, -1)
    for i, (costs, count) in enumerate(zip(cost.numpy(), there.sum(1).tolist(), strict=True)):
        chosen[i, :count] = torch.from_numpy(linear_sum_assignment(costs[:count])[1])
    return chosen


def _overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """[..., 4] and [..., 4], corners -> generalised IoU and IoU, [...]."""
    inner = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    outer = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - inner
    iou = inner / union.clamp(min=1e-9)
    return iou - (outer - union) / outer.clamp(min=1e-9), iou


def _hidden_states(model: Any, pixels: Tensor) -> Iterator[Tensor]:
    """[B, 1 + N + Q, C] behind each layer, as YolosModel computes them; the last one before its norm."""
    hidden, mids = model.vit.embeddings(pixels), model.vit.encoder.interpolation(pixels.shape[2:])
    for i, layer in enumerate(model.vit.encoder.layer):
        hidden = layer(hidden)
        if i < LAYERS - 1:
            hidden = hidden + mids[i]
        yield hidden


def _loss(model: Any, dense: nn.Module, pixels: Tensor, targets: Targets, step: int) -> tuple[Tensor, Tensor]:
    """The set loss, also behind the layers that see the result of the dense one, and the dense loss."""
    loss, patches = torch.zeros(()), torch.zeros(())
    for layer, hidden in enumerate(_hidden_states(model, pixels), start=1):
        if layer == DENSE_LAYERS:
            patches = dense(hidden[:, 1 : -(PLACES**2)], targets)
        if layer >= DENSE_LAYERS:
            tokens = model.vit.layernorm(hidden[:, -(PLACES**2) :])
            boxes = model.bbox_predictor(tokens).sigmoid()
            part = _set_loss(model.class_labels_classifier(tokens), boxes, targets, step)
            loss = loss + part * (1.0 if layer == LAYERS else 0.3)
    return loss, patches


Tell = Callable[[int, dict[str, float]], None]


def train_detector(
    output: Path, settings: DetectorSettings = DetectorSettings(), report: Tell = lambda step, losses: None
) -> dict[str, float]:
    """Trains, writes the checkpoint to the folder `output`, and returns its mAP on the validation scenes.

    A state in `output` is gone on from, and leads to the same weights; it stays there. `report` is called at every
    `save_every` steps with the mean losses since. Raises RequestError when that state is of other settings, and
    MissingPackageError without scipy or pycocotools.
    """
    for package in ("scipy", "pycocotools"):  # now, not after an hour
        if importlib.util.find_spec(package) is None:
            raise MissingPackageError(package, "bavit")
    output.mkdir(parents=True, exist_ok=True)
    model = new_detector(settings.seed).train()
    trained = nn.ModuleDict({"model": model, "dense": _Dense()})
    optimizers = _optimizers(trained, settings)
    images, targets = _targets(Scenes(settings.scenes, settings.seed))
    done, state = 0, output / "training.pt"
    if state.exists():
        done = _resume(state, trained, optimizers, settings)
    losses: list[list[float]] = []
    for step in range(done, settings.steps):
        warm, cool = min(1.0, (step + 1) / 100), min(1.0, (settings.steps - step) / settings.cooling)
        chosen = torch.randint(len(images), (settings.batch,))
        pixels, wanted = _turned(pixel_values(images[chosen.numpy()]), Targets(*(each[chosen] for each in targets)))
        parts = _loss(model, trained["dense"], pixels, wanted, step)
        torch.autograd.backward(parts)
        nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = settings.lr * warm * cool
            optimizer.step()
            optimizer.zero_grad()
        losses.append([part.item() for part in parts])
        if (step + 1) % settings.save_every == 0 or step + 1 == settings.steps:
            _save(state, trained, optimizers, settings, step + 1)
            write_detector(model, output)
            report(step + 1, dict(zip(("set", "dense"), np.mean(losses, axis=0).tolist(), strict=True)))
            losses = []
    model.eval()
    validation = Scenes(settings.validation, settings.seed + 1)
    truth = Truth.of_samples((validation[i] for i in range(len(validation))), CLASSES)
    return truth.average_precision(detect(model, validation), CLASSES)


def _optimizers(trained: nn.Module, settings: DetectorSettings) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for everything else."""
    matrices = [weight for name, weight in trained.named_parameters() if ".layer." in name and weight.ndim == 2]
    inside = {id(weight) for weight in matrices}
    rest = [weight for weight in trained.parameters() if id(weight) not in inside]
    return [
        torch.optim.Muon(matrices, settings.lr, settings.weight_decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, settings.lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def write_detector(model: Any, folder: Path) -> None:
    """config.json, model.safetensors and preprocessor_config.json"""
    from transformers import YolosImageProcessor

    model.save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    YolosImageProcessor(size=size, do_pad=False, image_mean=MEAN, image_std=STD).save_pretrained(folder)


def _save(
    path: Path, trained: nn.Module, optimizers: list[torch.optim.Optimizer], settings: DetectorSettings, step: int
) -> None:
    state = {
        "settings": dataclasses.asdict(settings),
        "step": step,
        "trained": trained.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "random": torch.get_rng_state(),
    }
    torch.save(state, path.with_suffix(".part"))
    os.replace(path.with_suffix(".part"), path)


def _resume(path: Path, trained: nn.Module, optimizers: list[torch.optim.Optimizer], settings: DetectorSettings) -> int:
    """-> steps done. Another number of steps is as good, as long as no cooling has begun: the weights are the same."""
    state = torch.load(path, weights_only=True)
    before, done = DetectorSettings(**state["settings"]), int(state["step"])
    cooled = done > min(before.steps, settings.steps) - settings.cooling
    if dataclasses.replace(before, steps=settings.steps) != settings or (cooled and before.steps != settings.steps):
        raise RequestError(f"the training in {path.parent} has other settings: {state['settings']}; give a new folder")
    trained.load_state_dict(state["trained"])
    for optimizer, of_optimizer in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(of_optimizer)
    torch.set_rng_state(state["random"])
    return done


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m edgeprune.train.detector", description="Train the embedded YOLOS.")
    parser.add_argument("--output", type=Path, required=True, help="folder; a training begun there goes on")
    parser.add_argument("--steps", type=int, default=DetectorSettings.steps)
    parser.add_argument("--seed", type=int, default=DetectorSettings.seed)
    parser.add_argument("--threads", type=int, default=1, help="another number gives slightly other weights")
    given = parser.parse_args(arguments)
    import transformers

    torch.set_num_threads(given.threads)
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    began = time.monotonic()

    def report(step: int, losses: dict[str, float]) -> None:
        values = ", ".join(f"{name} {value:.3f}" for name, value in losses.items())
        print(f"step {step} of {given.steps}: {values}; {time.monotonic() - began:.0f} s", flush=True)

    precision = train_detector(given.output, DetectorSettings(steps=given.steps, seed=given.seed), report)
    print(", ".join(f"{name} {value:.1f}" for name, value in precision.items()))


if __name__ == "__main__":
    main()
