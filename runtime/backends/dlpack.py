"""Memory that a plan's output lies in, handed to another library as it is: DLPack's exchange of one tensor.

    torch.from_dlpack(Shared(address, (1, 64, 4096), "float16", CUDA, 0, free))

The struct is DLManagedTensor of dlpack.h (https://github.com/dmlc/dlpack, version 0.8), which every library takes.
The memory is freed when the last one that holds it lets go: ours, and whoever took the capsule.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["CPU", "CUDA", "Shared"]

CPU, CUDA = 1, 2
"""kinds of device"""
_CODES = {"i": 0, "u": 1, "f": 2}
_NAME, _USED = b"dltensor", b"used_dltensor"


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _DLTensor), ("context", ctypes.c_void_p), ("deleter", _Deleter))


_taken: dict[int, tuple[Any, ...]] = {}
"""address of a struct -> what must live until its consumer calls the deleter"""


def _let_go(address: int) -> None:
    _taken.pop(address, None)


def _unconsumed(capsule: int) -> None:
    """Of a capsule that goes away: whoever consumed it has renamed it, and will call the deleter."""
    if ctypes.pythonapi.PyCapsule_IsValid(ctypes.c_void_p(capsule), _NAME):
        _let_go(_pointer(ctypes.c_void_p(capsule), _NAME))


_deleter, _destructor = _Deleter(_let_go), _Deleter(_unconsumed)
"""as C calls them; they live as long as the module"""


_new, _pointer = ctypes.pythonapi.PyCapsule_New, ctypes.pythonapi.PyCapsule_GetPointer
_new.restype, _new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_char_p)


class Shared:
    """A dense tensor in memory of its own. `torch.from_dlpack`, `cupy.from_dlpack` and the like take it without a copy.

    shape, dtype: as numpy has them
    """

    def __init__(
        self, address: int, shape: tuple[int, ...], dtype: str, kind: int, device: int, free: Callable[[], object]
    ) -> None:
        """kind: CPU or CUDA; device: its number; free: called once, when nobody holds the memory any more."""
        self.shape, self.dtype = shape, np.dtype(dtype)
        self._address, self._device = address, (kind, device)
        self._memory = _Memory(free)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device

    def __dlpack__(self, stream: Any = None, **_: Any) -> Any:
        """The capsule. What is in the memory is there already: every stream may read it."""
        shape = (ctypes.c_int64 * len(self.shape))(*self.shape)
        tensor = _DLTensor(
            self._address, *self._device, len(self.shape), _CODES[self.dtype.kind], 8 * self.dtype.itemsize, 1, shape
        )
        managed = _Managed(tensor, None, _deleter)
        address = ctypes.addressof(managed)
        _taken[address] = managed, shape, self._memory
        return _new(address, _NAME, ctypes.cast(_destructor, ctypes.c_void_p))

    def __repr__(self) -> str:
        return f"<{self.dtype}{list(self.shape)} on {('CPU', 'CUDA')[self._device[0] - 1]} {self._device[1]}>"


class _Memory:
    def __init__(self, free: Callable[[], object]) -> None:
        weakref.finalize(self, free)
