"""The loop that every training here runs in: epochs of steps, a checkpoint now and then, and a stop that loses nothing.

    for each step:  lr = peak * pace(step);  loss of a batch;  gradient, cut to a norm where that is wanted;  optimizer

What is trained on what stands in a `Task`. See `edgeprune.train.resume` for interruptions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from edgeprune.errors import EdgepruneError, RequestError
from edgeprune.train.resume import Interrupted, State, interruptible, read_checkpoint, write_checkpoint
from edgeprune.train.schedule import pace

__all__ = ["BETAS", "Loop", "Show", "Task", "check_device"]

CHECKPOINT_SECONDS = 60.0
BETAS = (0.9, 0.99)
"""of AdamW"""

Show = Callable[[int, int, str], None]
"""called as show(done, total, what)"""


class Task(Protocol):
    """What a training learns from what."""

    def batches(self, epoch: int, first: int) -> Iterator[Any]:
        """What the steps of an epoch take, from the step `first` of it on; follows from the seed and the epoch."""

    def loss(self, batch: Any) -> tuple[Tensor, float]:
        """What is minimised, and what is said of it. The second is not finite where the first cannot be computed."""


@dataclass
class Loop:
    """One training under way.

    folder: where its checkpoint goes; name: what stands in front of its progress; largest_gradient: norm to cut to
    """

    task: Task
    model: nn.Module
    optimizer: torch.optim.Optimizer
    state: State
    folder: Path
    epochs: int
    per_epoch: int
    lr: float
    name: str = ""
    largest_gradient: float | None = None

    @property
    def total(self) -> int:
        return self.epochs * self.per_epoch

    def restore(self) -> None:
        """Go on with the checkpoint in the folder. Raises as `read_checkpoint`."""
        self.state = read_checkpoint(self.folder, self.model, self.optimizer, self.state.request)

    def save(self) -> None:
        """Raises as `write_checkpoint`."""
        write_checkpoint(self.folder, self.model, self.optimizer, self.state)

    def run(self, asked: list[int], show: Show) -> None:
        """All steps that are left. Saves now and then, and where a signal asked it to stop.

        Raises Interrupted then, and EdgepruneError when the loss is not finite or no checkpoint can be written.
        """
        state, saved, before = self.state, time.monotonic(), time.monotonic()
        self.model.train()
        for epoch in range(state.step // self.per_epoch, self.epochs):
            for batch in self.task.batches(epoch, state.step - epoch * self.per_epoch):
                state.epoch_loss += self._step(batch)
                state.step, done = state.step + 1, state.step + 1 - epoch * self.per_epoch
                what = f"{self.name}epoch {epoch + 1} of {self.epochs}, loss {state.epoch_loss / done:.4f}"
                show(state.step, self.total, what)
                if done == self.per_epoch:
                    state.losses.append(state.epoch_loss / self.per_epoch)
                    state.epoch_loss = 0.0
                now = time.monotonic()
                state.seconds, before = state.seconds + now - before, now
                if asked or done == self.per_epoch or now - saved > CHECKPOINT_SECONDS:
                    self.save()
                    saved = now
                self.stop_if(asked)

    def carry_out(self, resume: bool, show: Show) -> dict[str, Any]:
        """From the beginning, or from the checkpoint in the folder, to the end -> the loss of each epoch, and seconds.

        Raises as `restore`, `save` and `run`.
        """
        with interruptible() as asked:
            if resume:
                self.restore()
            else:
                self.save()
            self.run(asked, show)
        return {"loss": [round(loss, 6) for loss in self.state.losses], "seconds": round(self.state.seconds, 1)}

    def stop_if(self, asked: list[int]) -> None:
        """Raises Interrupted when a signal asked for it. The checkpoint must be written by then."""
        if asked:
            raise Interrupted(
                f"interrupted after step {self.state.step} of {self.total} for {self.folder}; nothing is lost: go on "
                f"with the same command and --resume",
                asked[0],
            )

    def _step(self, batch: Any) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * pace(self.state.step, self.total)
        loss, value = self.task.loss(batch)
        if not math.isfinite(value):
            raise EdgepruneError(
                f"the loss of step {self.state.step + 1} is {value}; take a smaller --lr than {self.lr:g}, and begin "
                f"anew with --force"
            )
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self.largest_gradient is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.largest_gradient)
        self.optimizer.step()
        return value


def check_device(device: str) -> None:
    """Raises RequestError when torch cannot use it."""
    if device == "cuda" and not torch.cuda.is_available():
        raise RequestError("--device cuda needs a GPU that torch sees, and there is none; take --device cpu")
