"""Muon for some parameters and AdamW for the rest, as one optimizer: what `edgeprune.train.loop` takes.

    matrices    steps of equal length in all directions (orthogonalised momentum), scaled as AdamW's are
    others      AdamW, without decay

Source  https://kellerjordan.github.io/posts/muon/, as torch.optim has it
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

__all__ = ["MuonAdamW", "split"]


class MuonAdamW(torch.optim.Optimizer):
    """Both share one state, so that a checkpoint finds every parameter's moments in it."""

    def __init__(
        self,
        matrices: list[nn.Parameter],
        others: list[nn.Parameter],
        lr: float,
        weight_decay: float,
        betas: tuple[float, float],
    ) -> None:
        self._parts = (
            torch.optim.Muon(matrices, lr, weight_decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr, betas=betas, weight_decay=0.0),
        )
        super().__init__([{"params": [*matrices, *others]}], {"lr": lr})
        self.param_groups = [group for part in self._parts for group in part.param_groups]
        for part in self._parts:
            part.state = self.state

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        if closure is not None:
            raise ValueError("a closure would be evaluated once for each of the two")
        for part in self._parts:
            part.step()  # type: ignore[no-untyped-call]


def split(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """What trains: the matrices within layers, and the rest."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, value in model.named_parameters():
        if value.requires_grad:
            (matrices if ".layers." in name and value.dim() == 2 else others).append(value)
    return matrices, others
