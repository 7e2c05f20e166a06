"""Adapt a tower to steps inside it: distilled on its own features, under steps that are drawn anew for every batch.

    loss = mean over rows of |f - f*|^2 / mean |f*|^2
    f    features of the rows that the steps left
    f*   the whole tower's, of the same patches: of a merged row the mean of all that it stands for
    steps: one or two, behind layers and with counts that are drawn, between a third and nine tenths of the patches

The tower learns to do without what goes, whatever the schedule; no label, no language model. What stands behind the
features and in front of the layers stays as it is, and so does whatever the whole tower gives, up to .3 to 1 point of
accuracy on the embedded model.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeprune.adapted import FILE, packed
from edgeprune.correction import digest_of
from edgeprune.encoders import Encoder
from edgeprune.errors import RequestError
from edgeprune.export.opening import opened
from edgeprune.export.request import Request, spelled_out
from edgeprune.pruners import Method
from edgeprune.quality.sweep.items import Item
from edgeprune.runtime.images.preprocess import Preprocessing
from edgeprune.runtime.saving import save
from edgeprune.schedule import Inside, Step
from edgeprune.shortening import Rows
from edgeprune.targets import load
from edgeprune.trace import Reducing, run_steps
from edgeprune.train.calibrate import features
from edgeprune.train.loop import BETAS, Loop, Show, check_device
from edgeprune.train.resume import State, check_begun, check_output
from edgeprune.train.schedule import drawn

__all__ = ["AdaptSettings", "Pixels", "adapt", "drawn_steps"]

LARGEST_GRADIENT = 1.0


@dataclass(frozen=True)
class AdaptSettings:
    epochs: int = 10
    batch: int = 16
    lr: float = 3e-4
    weight_decay: float = 0.0
    seed: int = 0


def adapt(
    request: Request,
    items: Sequence[Item],
    output: Path,
    settings: AdaptSettings = AdaptSettings(),
    *,
    device: str = "cpu",
    resume: bool = False,
    force: bool = False,
    show: Show = lambda *_: None,
) -> dict[str, Any]:
    """Trains the tower of a request for its reducer, and writes the weights to the folder `output` -> what they were
    made from, with the loss of each epoch.

    items: unlabelled images; device: cpu or cuda

    Raises RequestError where there is no reducer, for fewer images than a batch, and when `output` is taken; ModelError
    when what is there is of other settings; Interrupted after SIGINT or SIGTERM, with everything saved; ImageError for
    an image that cannot be read; EdgepruneError when the loss is not finite or nothing can be written.
    """
    check_device(device)
    check_output(output, FILE, "adapted tower", resume, force)
    request = spelled_out(request)
    if resume:
        check_begun(output)
    if request.inside is None:
        raise RequestError("a tower is adapted to steps inside it; add --inside, such as --inside drop")
    if len(items) < settings.batch:
        raise RequestError(f"images must be {settings.batch} or more, as many as a batch, got {len(items)}")
    loaded = opened(request, load(request.target))
    encoder, inside = loaded.encoder, loaded.encoder.inside
    assert inside is not None
    digest = digest_of(encoder.tower.module)
    teacher = dataclasses.replace(copy.deepcopy(encoder), inside=None)
    task = _Distilling(encoder, teacher, inside, loaded.method, items, loaded.preprocessing, settings, device)
    made = {
        "model": loaded.checkpoint.id,
        "tower": digest,
        "reducer": inside.name,
        "options": inside.reducer.options(),
        "layer": encoder.layer,
        "images": len(items),
        **dataclasses.asdict(settings),
    }
    output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(settings.seed)
    trained = encoder.tower.module.to(device)
    teacher.tower.module.to(device)
    for part in encoder.tower.blocks[: encoder.layer]:
        part.requires_grad_(True)
    parameters = [value for value in trained.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(parameters, settings.lr, BETAS, weight_decay=settings.weight_decay)
    per_epoch = len(items) // settings.batch
    loop = Loop(
        task,
        trained,
        optimizer,
        State({**made, "threads": torch.get_num_threads()}),
        output,
        settings.epochs,
        per_epoch,
        settings.lr,
        largest_gradient=LARGEST_GRADIENT,
    )
    made |= loop.carry_out(resume, show)
    trained.eval().requires_grad_(False)
    save(output / FILE, lambda file: file.write(packed(trained.cpu(), made)))
    return made


class Pixels:
    """Images as the tower takes them, each read once."""

    def __init__(self, items: Sequence[Item], preprocessing: Preprocessing, device: str) -> None:
        self._items, self._preprocessing, self._device = items, preprocessing, device
        self._held: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self._items)

    def __call__(self, numbers: Sequence[int], mirrored: NDArray[np.bool_] | None = None) -> Tensor:
        """[B, 3, H, W] float32; mirrored: [B], which of them are"""
        for number in numbers:
            if number not in self._held:
                self._held[number] = torch.from_numpy(self._preprocessing(self._items[number].image()))
        pixels = torch.stack([self._held[number] for number in numbers])
        if mirrored is not None:
            pixels = torch.where(torch.from_numpy(mirrored)[:, None, None, None], pixels.flip(-1), pixels)
        return pixels.to(self._device)


class _Distilling:
    """What is learned: batches of pixels, and the steps that each is run under."""

    def __init__(
        self,
        student: Encoder,
        teacher: Encoder,
        inside: Inside,
        method: Method,
        items: Sequence[Item],
        preprocessing: Preprocessing,
        settings: AdaptSettings,
        device: str,
    ) -> None:
        self._student, self._teacher, self._inside, self._method = student, teacher, inside, method
        self._pixels, self._settings = Pixels(items, preprocessing, device), settings

    def batches(self, epoch: int, first: int) -> Iterator[tuple[Tensor, tuple[Step, ...]]]:
        order, mirrored, rng = drawn(len(self._pixels), self._settings.batch, self._settings.seed, epoch)
        encoder = self._student
        steps = [drawn_steps(rng, encoder.layer, encoder.patches, self._inside) for _ in order]
        for at in range(first, len(order)):
            yield self._pixels(order[at].tolist(), mirrored[at]), steps[at]

    def loss(self, batch: tuple[Tensor, tuple[Step, ...]]) -> tuple[Tensor, float]:
        pixels, steps = batch
        with torch.no_grad():
            wanted = features(self._teacher, pixels)
        given, rows = self._shortened(pixels, steps)
        assert rows.origin is not None
        members = (rows.origin.unsqueeze(1) == torch.arange(given.shape[1], device=given.device)[:, None]).to(
            given.dtype
        )
        target = (members @ wanted) / members.sum(dim=-1, keepdim=True)
        loss = (given - target).square().mean() / wanted.square().mean()
        return loss, float(loss.detach())

    def _shortened(self, pixels: Tensor, steps: tuple[Step, ...]) -> tuple[Tensor, Rows]:
        """[B, n, C] in front of the projector, and what became of the patches."""
        inside = dataclasses.replace(self._inside, steps=steps)
        encoder = dataclasses.replace(self._student, inside=inside)
        out, rows, _ = run_steps(encoder, Reducing(encoder), pixels)
        return rows.rows(encoder.hidden(out, rows.fit)), rows


def drawn_steps(rng: np.random.Generator, layers: int, patches: int, inside: Inside) -> tuple[Step, ...]:
    """One or two, behind layers in the first three quarters, each leaving between a third and nine tenths of what the
    reducer lets it.

    >>> from edgeprune.pruners.inside import get
    >>> steps = drawn_steps(np.random.default_rng(0), 23, 576, Inside("drop", get("drop")(), ()))
    >>> all(0 < step.layer < 23 and 64 < step.keep < 576 for step in steps)
    True
    """
    last = max(1, min(layers - 1, round(0.75 * layers)))
    count = int(rng.integers(1, 1 + min(2, last)))
    places = sorted(rng.choice(np.arange(1, last + 1), size=count, replace=False).tolist())
    most = float(getattr(inside.reducer, "most", 1.0))
    steps, rows = [], patches
    for place in places:
        share = max(1 / 3, 1 - most) + (0.9 - max(1 / 3, 1 - most)) * float(rng.random())
        left = max(1, min(rows - 1, int(np.ceil(share * rows))))
        steps.append(Step(int(place), left))
        rows = left
    return tuple(steps)
