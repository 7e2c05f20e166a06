"""What dropping patches costs a detector, and what it gains: mAP over the shares kept, throughput and memory.

    classifier       the patches that the scorer ranks highest, as in the exported graph
    spread           the same with the method's option `spread`: what foreground leaves goes evenly over the grid
    oracle           the patches under true boxes first, the scorer's order among these and behind them: a perfect label
    oracle, spread   the same, evenly over the grid behind them
    random           a fresh draw for every image
    received L       what most attention goes to in layer L, dropped behind it: the untrained method `received`
    dense            every patch

of the detector as it is, of its sparse fine-tuning, and of the control that was fine-tuned as long on all patches.
Every figure of one evaluation is of the same images.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from edgeprune.errors import RequestError
from edgeprune.probes.sample import Sample
from edgeprune.pruners._select import top_in_order
from edgeprune.quality.data import Samples
from edgeprune.quality.detections import boxes_of
from edgeprune.quality.labels import patch_labels
from edgeprune.quality.precision import Boxes, Truth
from edgeprune.quality.sparse import SparseDetector
from edgeprune.quality.speed import Speed

__all__ = ["DENSE", "SHARES", "VARIANTS", "Evaluation", "Row", "evaluate", "oracle_scores"]

SHARES = (0.75, 0.6, 0.5, 0.4, 0.3)
DENSE = "dense"
VARIANTS = ("classifier", "spread", "oracle", "oracle, spread", "random")
RECEIVED = "received"
BATCH_PATCHES = 10_000
"""of the images that run together"""

Show = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Row:
    model: str
    """as it is, fine-tuned, control"""
    variant: str
    share: float
    keep: int
    mAP: float
    """percent, as the others"""
    mAP50: float
    mAP75: float


@dataclass(frozen=True)
class Evaluation:
    rows: tuple[Row, ...]
    speed: tuple[Speed, ...]
    """of the exported graphs: unpruned, and at each share; the weights of all models have the same shapes"""
    images: int
    patches: int
    about: Mapping[str, Any] = field(default_factory=dict)
    """the data, the models, the scorer, threads and versions"""

    def row(self, model: str, variant: str, share: float = 1.0) -> Row:
        return next(row for row in self.rows if (row.model, row.variant, row.share) == (model, variant, share))

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(row.model for row in self.rows))

    @property
    def variants(self) -> list[str]:
        return list(dict.fromkeys(row.variant for row in self.rows if row.variant != DENSE))

    @property
    def shares(self) -> list[float]:
        return list(dict.fromkeys(row.share for row in self.rows if row.variant != DENSE))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def save(self, path: Path) -> None:
        """Raises OSError."""
        path.write_text(json.dumps(self.to_json(), indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class _Case:
    """One figure to be: a model with one rule at one share."""

    model: str
    variant: str
    share: float
    boxes: list[Boxes] = field(default_factory=list)


def evaluate(
    detectors: Mapping[str, SparseDetector],
    samples: Samples,
    truth: Truth | None = None,
    *,
    shares: Sequence[float] = SHARES,
    received: Sequence[int] = (),
    seed: int = 0,
    show: Show = lambda *_: None,
) -> tuple[Row, ...]:
    """mAP of each detector, dense and by each rule at each share.

    detectors: by what they are called; of one size
    truth: of the samples, where more is known than their boxes
    received: behind which layers the untrained method is judged, too
    seed: of the random patches, which are the same for every detector

    Raises RequestError for shares outside (0, 1], detectors of two sizes, and classes that no detector knows;
    MethodError for a layer that is not there.
    """
    if wrong := [share for share in shares if not 0 < share <= 1]:
        raise RequestError(f"--shares must be in (0, 1], got {wrong[0]:g}; 0.5 keeps half of the patches")
    if len({one.size for one in detectors.values()}) > 1:
        sizes = ", ".join(f"{name} {one.size[0]}x{one.size[1]}" for name, one in detectors.items())
        raise RequestError(f"the detectors must have one size of image, got {sizes}; give --size")
    cases = [_Case(name, DENSE, 1.0) for name in detectors]
    rules = (*VARIANTS, *(f"{RECEIVED} {layer}" for layer in received))
    cases += [_Case(name, rule, share) for name in detectors for rule in rules for share in shares]
    plain: list[Sample] = []
    generator = torch.Generator().manual_seed(seed)
    for images in _batches(samples, next(iter(detectors.values()))):
        _run(detectors, images, cases, generator)
        plain += [_without_pixels(one) for one in images]
        show(len(plain), len(samples), "detection")
    truth = truth or Truth.of_samples(plain, samples.classes)
    rows = []
    for done, case in enumerate(cases):
        show(done, len(cases), "mAP")
        detector = detectors[case.model]
        precision = truth.average_precision(case.boxes, detector.classes)
        keep = detector.patches if case.variant == DENSE else detector.keep_of(case.share)
        rows.append(Row(case.model, case.variant, case.share, keep, **precision))
    return tuple(rows)


def oracle_scores(scores: Tensor, covered: Tensor) -> Tensor:
    """scores float, covered bool, [B, N] -> [B, N] float: above all others where covered, in the order of the scores.

    >>> oracle_scores(torch.tensor([[0.1, 0.9, 0.3]]), torch.tensor([[True, False, True]])).argsort(descending=True)
    tensor([[2, 0, 1]])
    """
    ranks = scores.argsort(dim=1).argsort(dim=1)
    return (ranks + scores.shape[1] * covered).float()


def _batches(samples: Samples, detector: SparseDetector) -> Iterator[list[Sample]]:
    size = max(1, BATCH_PATCHES // detector.patches)
    for start in range(0, len(samples), size):
        yield [samples[at] for at in range(start, min(start + size, len(samples)))]


@torch.inference_mode()
def _run(
    detectors: Mapping[str, SparseDetector], images: list[Sample], cases: list[_Case], generator: torch.Generator
) -> None:
    """Every case on some images."""
    first = next(iter(detectors.values()))
    pixels = torch.from_numpy(np.stack([first.preprocessing(Image.fromarray(one.image)) for one in images]))
    patch = first.tower.patch_embedding.kernel_size[0]
    boxed = [patch_labels(dataclasses.replace(one, masks=None), first.size, patch) for one in images]
    covered = torch.from_numpy(np.stack(boxed)).flatten(1)
    drawn = torch.rand(len(images), covered.shape[1], generator=generator)
    for case in cases:
        detector = detectors[case.model]
        keep = detector.keep_of(case.share)
        if case.variant.startswith(RECEIVED):
            out = detector.received(pixels, keep, int(case.variant.removeprefix(RECEIVED)))
            case.boxes.extend(boxes_of(out, [one.size for one in images]))
            continue

        def choose(
            patches: Tensor, detector: SparseDetector = detector, rule: str = case.variant, keep: int = keep
        ) -> Tensor:
            if rule == "random":
                return top_in_order(drawn, keep)
            selection = detector.select(pixels, patches, keep, spread=rule.endswith("spread"))
            if not rule.startswith("oracle"):
                return selection.indices
            return top_in_order(oracle_scores(selection.scores, covered), keep)

        out = detector(pixels, None if case.variant == DENSE else choose)
        case.boxes.extend(boxes_of(out, [one.size for one in images]))


def _without_pixels(sample: Sample) -> Sample:
    """The same sample in no memory, for its size and its boxes."""
    return dataclasses.replace(sample, image=np.broadcast_to(np.uint8(0), sample.image.shape), masks=None)
