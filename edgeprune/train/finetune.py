"""Sparse fine-tuning: a YOLOS detector learns to do with the patches that a scorer keeps, whatever their number.

    for each batch:  share ~ uniform(low, high);  rows = scorer's best share of the patches, without a gradient
                     loss = transformers' own for YOLOS (assignment, classes, boxes) behind the dropped patches

One such model serves every budget. Its control is trained as long on all patches, with the same images in the same
order and the same learning rates: what it gains, the images gave, and not the dropping. The scorer stays as it is; of
kind `trunk`, so does what it reads.

AdamW, a warm-up and half a cosine, images mirrored at random. See `edgeprune.train.resume` for interruptions.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import math
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeprune import __version__
from edgeprune.errors import EdgepruneError, MissingPackageError, ModelError, RequestError
from edgeprune.quality.data import Samples
from edgeprune.quality.sparse import SparseDetector, numbered
from edgeprune.train.loop import BETAS, Loop, Show, check_device
from edgeprune.train.objects import Labels, Objects, mirrored
from edgeprune.train.patches import loader_workers
from edgeprune.train.resume import NAME as CHECKPOINT
from edgeprune.train.resume import State, check_output, check_same, interruptible
from edgeprune.train.schedule import drawn

__all__ = ["IMAGES", "RECORD", "SCENES", "TuningSettings", "control_folder", "finetune"]

RECORD = "finetune.json"
"""the settings and the losses; written last, so that where it is, the rest is"""
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
LARGEST_GRADIENT = 1.0
"""norm that the gradient of a step is cut to: an unlucky assignment moves boxes across the image"""
DENSE = (1.0, 1.0)
"""the shares kept of the control"""


@dataclass(frozen=True)
class TuningSettings:
    """What decides the result, together with the model, the scorer and the data."""

    keep: tuple[float, float] = (0.3, 1.0)
    """lowest and highest share of the patches kept; one is drawn for each batch"""
    epochs: int = 5
    batch: int = 8
    lr: float = 2e-5
    weight_decay: float = 1e-4
    seed: int = 0


IMAGES = TuningSettings()
"""for photographs; no training of that size has been run"""
SCENES = TuningSettings(epochs=2, batch=32, lr=5e-4, weight_decay=0.01)
"""for the drawn scenes"""


def control_folder(output: Path) -> Path:
    """Where the control of a fine-tuning goes."""
    return output.with_name(f"{output.name}-control")


def finetune(
    detector: SparseDetector,
    data: Samples,
    output: Path,
    settings: TuningSettings = IMAGES,
    *,
    control: bool = False,
    source: str = "",
    threads: int | None = None,
    device: Literal["cpu", "cuda"] = "cpu",
    resume: bool = False,
    force: bool = False,
    show: Show = lambda *_: None,
) -> list[dict[str, Any]]:
    """Trains the detector, and writes it to the folder `output` as `from_pretrained` and `edgeprune export` take it.

    control: write a control beside it, too (`control_folder`), from the same weights
    source: what the data are, in words; a training only goes on with the same
    resume: go on with the training in `output`; what is complete stays
    force: replace what is there; it stays until what replaces it is whole
    show: called as show(done, total, what)

    Returns what is in the record of each. Raises RequestError when the settings contradict each other, the detector or
    the data, or `output` is taken; Interrupted after SIGINT or SIGTERM, with everything saved; EdgepruneError when the
    loss is not finite or nothing can be written; MissingPackageError without scipy.
    """
    low, high = settings.keep
    if not 0 < low <= high <= 1:
        raise RequestError(f"--keep must be two shares of the patches, 0 < LOW <= HIGH <= 1, got {low:g} and {high:g}")
    _check_packages()
    runs = {output: settings}
    if control:
        runs[control_folder(output)] = dataclasses.replace(settings, keep=DENSE)
    for folder in runs:
        check_output(folder, RECORD, "fine-tuning", resume, force)
    classes = numbered(data.classes, detector.classes, detector.id)
    model, scorer = detector.model, detector.method.scorer
    request: dict[str, Any] = {"model": detector.id, "sha256": _digest(model), "scorer": scorer.digest}
    request |= {"size": detector.size, "data": source, "images": len(data)}
    begin = {name: value.clone() for name, value in model.state_dict().items()}
    objects = Objects(data, detector.size, classes, lambda done, total: show(done, total, "training images"))
    records, threads_before = [], torch.get_num_threads()
    try:
        torch.set_num_threads(threads or threads_before)
        for folder, own in runs.items():
            asked = {**dataclasses.asdict(own), **request}
            if resume and (folder / RECORD).is_file() and not (folder / CHECKPOINT).is_file():
                records.append(_finished(folder, asked))
                continue
            model.load_state_dict(begin)
            begun = folder == output or (folder / CHECKPOINT).is_file()  # a control may not have been
            records.append(_Run(own, detector, folder, device, asked, objects).train(resume and begun, show))
    finally:
        torch.set_num_threads(threads_before)
    return records


class _Run:
    """One training under way."""

    def __init__(
        self,
        settings: TuningSettings,
        detector: SparseDetector,
        output: Path,
        device: str,
        request: dict[str, Any],
        objects: Objects,
    ) -> None:
        check_device(device)
        self.settings, self.detector, self.output, self.device, self.objects = (
            settings, detector, output, device, objects,
        )  # fmt: skip
        self.model = detector.model.to(device)
        detector.method.scorer.to(device)
        detector.train_behind()
        steps = detector.preprocessing
        self._mean, self._std = (
            torch.tensor(one, device=device).view(3, 1, 1) / steps.rescale for one in (steps.mean, steps.std)
        )
        self._loss_config = copy.copy(self.model.config)
        self._loss_config.auxiliary_loss = False  # which would read boxes behind every layer
        self.loop = Loop(
            self,
            self.model,
            torch.optim.AdamW(_groups(self.model, settings.weight_decay), lr=settings.lr, betas=BETAS),
            State(request),
            output,
            settings.epochs,
            max(1, len(objects) // settings.batch),
            settings.lr,
            f"{output.name}: ",
            LARGEST_GRADIENT,
        )

    def train(self, resume: bool, show: Show) -> dict[str, Any]:
        if resume:
            self.loop.restore()
        else:
            self.output.mkdir(parents=True, exist_ok=True)
            self.loop.save()
        with interruptible() as asked:
            self.loop.run(asked, show)
        return self._write()

    def batches(self, epoch: int, first: int) -> Iterator[tuple[Tensor, list[Labels], float]]:
        """Images uint8 [B, 3, H, W], their labels, and the share of the patches that the step keeps."""
        order, flips, shares = _plan(len(self.objects), self.settings, epoch)
        given = self.objects.batches(order[first:].tolist(), loader_workers(self.device))
        for (images, labels), flip, share in zip(given, flips[first:], shares[first:].tolist(), strict=True):
            yield (*mirrored(images, labels, flip), share)

    def loss(self, batch: tuple[Tensor, list[Labels], float]) -> tuple[Tensor, float]:
        """transformers' own, behind the dropped patches."""
        images, labels, share = batch
        pixels, keep = (images.to(self.device).float() - self._mean) / self._std, self.detector.keep_of(share)
        labels = [{name: value.to(self.device) for name, value in one.items()} for one in labels]

        def choose(patches: Tensor) -> Tensor:
            return self.detector.select(pixels, patches, keep).indices

        out = self.detector(pixels, None if keep == self.detector.patches else choose)
        if not torch.isfinite(out.pred_boxes).all():  # transformers would raise a ValueError of its own
            return out.pred_boxes.sum(), math.nan
        loss = self.model.loss_function(out.logits, labels, self.device, out.pred_boxes, self._loss_config)[0]
        return loss, float(loss.item())

    def _write(self) -> dict[str, Any]:
        """The checkpoint as transformers writes it, the image processor as it was, and the record: beside what is there
        until all are whole. The old record goes first and the new one comes last: where it is, the rest is its own."""
        record = {
            **self.loop.state.request,
            "seconds": round(self.loop.state.seconds, 1),
            "steps": self.loop.state.step,
            "loss": [round(loss, 5) for loss in self.loop.state.losses],
            "threads": torch.get_num_threads(),
            "device": self.device,
            "versions": {"edgeprune": __version__, "torch": torch.__version__, "python": platform.python_version()},
        }
        fresh = self.output / ".new"
        try:
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir()
            self.model.save_pretrained(fresh)
            for name in PROCESSORS:
                try:
                    (fresh / name).write_bytes(self.detector.checkpoint.locate(name).read_bytes())
                except ModelError:
                    continue  # it has the other one
            files = sorted(fresh.iterdir())
            (fresh / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            (self.output / RECORD).unlink(missing_ok=True)
            for path in (*files, fresh / RECORD):
                path.replace(self.output / path.name)
        except OSError as error:
            raise EdgepruneError(
                f"the model cannot be written to {self.output}: {error}; make room and run it again with --resume"
            ) from None
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        (self.output / CHECKPOINT).unlink(missing_ok=True)
        return record


def _check_packages() -> None:
    try:
        import scipy.optimize  # noqa: F401 - the loss assigns boxes with it
    except ModuleNotFoundError:
        raise MissingPackageError("scipy", "bavit") from None


def _finished(output: Path, request: dict[str, Any]) -> dict[str, Any]:
    """The record of a fine-tuning that is complete."""
    try:
        record = dict(json.loads((output / RECORD).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise RequestError(f"{output / RECORD} is damaged: {error}; train anew with --force") from None
    check_same(output, {name: record.get(name) for name in request}, request)
    return record


def _plan(
    count: int, settings: TuningSettings, epoch: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.float64]]:
    """Which images each step of an epoch takes, [steps, batch], which of them are mirrored, and the share of the
    patches that the step keeps, [steps]. The shares are drawn last: without them, the rest is the same."""
    order, mirrored, rng = drawn(count, settings.batch, settings.seed, epoch)
    return order, mirrored, rng.uniform(*settings.keep, len(order))


def _groups(model: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Matrices decay; norms, biases, tokens and positions do not."""
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, value in model.named_parameters():
        if value.requires_grad:
            groups[name.endswith(".weight") and value.dim() > 1].append(value)
    return [{"params": values, "weight_decay": decay * decays} for decays, values in groups.items()]


def _digest(model: nn.Module) -> str:
    """sha256 of the weights: whether it is the same model."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
