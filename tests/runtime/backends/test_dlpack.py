"""Outputs that stay where they were made: torch and numpy read them in place, for as long as they like."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeprune.errors import RequestError
from edgeprune.runtime import TokenEncoder, load
from edgeprune.runtime.backends.dlpack import CPU, CUDA, Shared

torch = pytest.importorskip("torch")  # a device may do without

MakeBundle = Callable[..., Path]


class Memory:
    """Host memory in the place of a device's, which says when it was freed."""

    def __init__(self, dtype: str) -> None:
        self.values = np.arange(6).astype(dtype).reshape(2, 3)
        self.freed = 0

    def shared(self) -> Shared:
        def free() -> None:
            self.freed += 1

        return Shared(self.values.ctypes.data, (2, 3), self.values.dtype.name, CPU, 0, free)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int32"])
def test_torch_and_numpy_read_the_same_memory(dtype: str) -> None:
    memory = Memory(dtype)
    taken = torch.from_dlpack(memory.shared())
    memory.values[1, 2] = 77
    assert taken.tolist() == [[0, 1, 2], [3, 4, 77]]
    assert str(taken.dtype) == f"torch.{dtype}"
    np.testing.assert_array_equal(np.from_dlpack(memory.shared()), memory.values)


def test_memory_is_freed_once_when_nobody_holds_it() -> None:
    memory = Memory("float32")
    shared = memory.shared()
    first, second = torch.from_dlpack(shared), torch.from_dlpack(shared)
    del shared, first
    gc.collect()
    assert memory.freed == 0
    del second
    gc.collect()
    assert memory.freed == 1


@pytest.mark.slow
def test_a_capsule_that_nobody_takes_holds_nothing() -> None:
    memory = Memory("float32")
    capsule = memory.shared().__dlpack__()
    assert memory.freed == 0
    del capsule
    gc.collect()
    assert memory.freed == 1


def test_it_says_where_it_is() -> None:
    shared = Shared(0, (2, 3), "float16", CUDA, 1, lambda: None)
    assert shared.__dlpack_device__() == (2, 1)
    assert repr(shared) == "<float16[2, 3] on CUDA 1>"


def test_the_outputs_of_a_graph_are_taken_without_a_copy_of_ours(make_bundle: MakeBundle) -> None:
    encoder = load(make_bundle(batch=2), kind=TokenEncoder)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), np.uint8)
    there, here = encoder.outputs_on_device(images), encoder.outputs(images)
    assert list(there) == list(here)
    for name, value in here.items():
        np.testing.assert_array_equal(torch.from_dlpack(there[name]).numpy(), value)


def test_a_smaller_budget_is_cut_on_the_host(make_bundle: MakeBundle) -> None:
    folder = make_bundle(picks=True, nested=True, rule={"name": "topk"})
    with pytest.raises(RequestError, match="open the bundle without keep"):
        load(folder, keep=2).outputs_on_device(np.zeros((32, 48, 3), np.uint8))
