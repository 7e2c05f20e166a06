"""A loop with a constant trip count, in the exported graph as one ONNX Scan or written out.

    looped     one Scan, whose body stands once, however many steps there are
    unrolled   the steps one after the other

Both compute the same with the same operators. Looped is what methods get, unless `written_as` says otherwise. There is
no loop where nothing repeats (one step) and outside torch.export, where torch's `scan` would compile.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Literal, TypeAlias

import torch
from torch import Tensor

__all__ = ["Form", "State", "repeat", "written_as"]

Form: TypeAlias = Literal["unrolled", "looped"]
State: TypeAlias = "tuple[Tensor, ...]"

_form: ContextVar[Form] = ContextVar("edgeprune_loop_form", default="looped")


@contextlib.contextmanager
def written_as(form: Form) -> Iterator[None]:
    """What is exported inside the block has its loops in this form."""
    token = _form.set(form)
    try:
        yield
    finally:
        _form.reset(token)


def repeat(
    step: Callable[[State, Tensor | int], tuple[State, Tensor]], carry: State, count: int
) -> tuple[State, Tensor]:
    """Take `count` steps -> the last carry, and what each step found, stacked: [count, ...].

    step: carry, which step it is (0..count-1; an int where it is written out, [] int64 in a Scan) -> the next carry, of
        the same shapes and dtypes, and what it found

    What a step reads besides its arguments, a Scan captures: no two tensors of it may share memory (clone one), and
    none may be made in it with `torch.tensor`.
    """
    if count > 1 and _form.get() == "looped" and torch.compiler.is_exporting():
        return _scan(step, carry, torch.arange(count))
    said = []
    for at in range(count):
        carry, one = step(carry, at)
        said.append(one)
    return carry, torch.stack(said)


def _scan(step: Callable[[State, Tensor], tuple[State, Tensor]], carry: State, steps: Tensor) -> tuple[State, Tensor]:
    import torch._dynamo
    from torch._higher_order_ops.scan import scan

    def own(carry: State) -> State:  # what scan carries must be contiguous, and not what came in; ONNX has no copy
        return tuple(part.clone(memory_format=torch.contiguous_format) for part in carry)

    def body(carry: State, at: Tensor) -> tuple[State, Tensor]:
        after, seen = step(carry, at)
        return own(after), seen

    # What an earlier export in this process left in the cache asks for its own sizes, and so would fix a free batch.
    torch._dynamo.reset()
    done: tuple[State, Tensor] = scan(body, own(carry), steps)
    return done
