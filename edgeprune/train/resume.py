"""A training that can be interrupted at any time, and goes on where it was, bit for bit on one thread.

    checkpoint.safetensors   model.<name>, exp_avg.<name>, exp_avg_sq.<name>, and in the metadata a `State` as JSON

Nothing is unpickled. The order of the images and which of them are mirrored follow from seed and epoch alone, so there
is no state of a random generator.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from edgeprune.errors import EdgepruneError, ModelError, RequestError

__all__ = [
    "Interrupted",
    "State",
    "check_begun",
    "check_output",
    "check_same",
    "interruptible",
    "read_checkpoint",
    "write_checkpoint",
]

NAME = "checkpoint.safetensors"
METADATA = "edgeprune.training"
MOMENTS = (("exp_avg", "exp_avg_sq"), ("momentum_buffer",))
"""of AdamW and of Muon, for each parameter those of one"""


class Interrupted(EdgepruneError):
    """By a signal; its exit code is the shell's for it."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


@dataclass
class State:
    """Where a training is."""

    request: Mapping[str, Any]
    """the settings and the data, which must be the same when it goes on"""
    step: int = 0
    seconds: float = 0.0
    """spent so far"""
    losses: list[float] = field(default_factory=list)
    """mean of each epoch done, per patch"""
    epoch_loss: float = 0.0
    """sum over the steps of the epoch under way, per patch"""


def write_checkpoint(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: State) -> None:
    """Replaces the one that is there, at once or not at all. Raises EdgepruneError when it cannot be written."""
    tensors = {f"model.{name}": value.detach() for name, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        moments = optimizer.state.get(parameter, {})
        tensors |= {f"{moment}.{name}": moments[moment] for kind in MOMENTS for moment in kind if moment in moments}
    scratch = folder / f".{NAME}"
    try:
        contiguous = {name: value.cpu().contiguous() for name, value in tensors.items()}
        save_file(contiguous, scratch, metadata={METADATA: json.dumps(dataclasses.asdict(state))})
        scratch.replace(folder / NAME)
    except (OSError, SafetensorError) as error:
        scratch.unlink(missing_ok=True)
        raise EdgepruneError(
            f"the checkpoint of step {state.step} cannot be written to {folder}: {error}; the one before it stays, "
            f"make room and run the same command with --resume"
        ) from None


def read_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, request: Mapping[str, Any]
) -> State:
    """Puts model and optimizer where they were. Raises ModelError when there is none, it is damaged, or was made for
    another request."""
    check_begun(folder)
    path = folder / NAME
    try:
        with safe_open(path, framework="pt") as file:
            state = State(**json.loads((file.metadata() or {})[METADATA]))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        check_same(folder, state.request, request)
        model.load_state_dict({name: tensors[f"model.{name}"] for name in model.state_dict()})
        for name, parameter in model.named_parameters():
            if state.step and parameter.requires_grad:
                kind = next((kind for kind in MOMENTS if f"{kind[0]}.{name}" in tensors), MOMENTS[0])
                moments = {moment: tensors[f"{moment}.{name}"].to(parameter.device).clone() for moment in kind}
                optimizer.state[parameter] = {"step": torch.tensor(float(state.step)), **moments}
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ModelError(f"{path} is damaged: {reason}; begin anew with --force") from None
    return state


def check_begun(folder: Path) -> None:
    """Raises ModelError when there is nothing to go on with."""
    if not (folder / NAME).is_file():
        raise ModelError(f"--resume needs a training that was begun; {folder} has no {NAME}: leave --resume out")


def check_same(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises ModelError, naming what differs."""
    now = json.loads(json.dumps(now))  # tuples become lists
    changed = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    if changed:
        listed = ", ".join(f"{name} {before.get(name)}, not {now.get(name)}" for name in changed)
        raise ModelError(
            f"--resume needs the options that {folder} was begun with: {listed}; give those, or begin anew with --force"
        )


@contextmanager
def interruptible() -> Iterator[list[int]]:
    """A list that SIGINT and SIGTERM put their number into, so that a step is finished first; a second signal does what
    it always did. Only the main thread is told of signals; elsewhere the list stays empty."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: object) -> None:
        asked.append(number)
        signal.signal(number, before[signal.Signals(number)])

    try:
        for number in before:
            signal.signal(number, note)
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def check_output(output: Path, result: str, what: str, resume: bool, force: bool) -> None:
    """Raises RequestError when the folder is taken by something that must not be replaced.

    result: the file that a finished one has; what: what that is, in words
    """
    if not output.exists():
        return
    if not output.is_dir():
        raise RequestError(f"--output must be a folder, {output} is a file; choose another")
    mine = (output / NAME).is_file() or (output / result).is_file()
    if mine and not (resume or force):
        raise RequestError(f"{output} exists; choose another --output, go on with --resume, or replace it with --force")
    if not mine and any(output.iterdir()):
        raise RequestError(f"{output} exists and holds no {what}, so it is not replaced; choose another --output")
