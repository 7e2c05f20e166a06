"""The few calls of NVIDIA's CUDA runtime that a plan needs, through the package cuda-bindings."""

from __future__ import annotations

import ctypes
import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import EdgepruneError, RequestError

__all__ = ["Cuda", "load_cuda", "pinned_array"]

LAYOUTS = ("cuda.bindings.runtime", "cuda.cudart")
"""the module as cuda-bindings has it, and as cuda-python had it before"""


class Cuda:
    """The CUDA runtime; what it answers becomes the value of a call, or an error.

    api: the module whose functions return (error code, value, ...)
    """

    def __init__(self, api: Any) -> None:
        self.api = api

    def __call__(self, name: str, *arguments: Any) -> Any:
        """Raises EdgepruneError that names the call, and what CUDA says about it."""
        code, *values = getattr(self.api, name)(*arguments)
        if int(code):
            raise EdgepruneError(f"{name}: {self.says(code)}")
        return values[0] if values else None

    def says(self, code: Any) -> str:
        _, text = self.api.cudaGetErrorString(code)
        return f"{text.decode()} (CUDA error {int(code)})"

    @property
    def to_device(self) -> Any:
        return self.api.cudaMemcpyKind.cudaMemcpyHostToDevice

    @property
    def on_device(self) -> Any:
        return self.api.cudaMemcpyKind.cudaMemcpyDeviceToDevice

    @property
    def to_host(self) -> Any:
        return self.api.cudaMemcpyKind.cudaMemcpyDeviceToHost


def load_cuda(driver: int | None = None) -> Cuda:
    """The CUDA runtime.

    driver: newest major release of CUDA that the driver takes, None where it is not known

    Raises RequestError without the package, or with one that is too new for the driver.
    """
    remedy = f"pip install 'cuda-bindings=={driver}.*'" if driver else "pip install cuda-bindings"
    for layout in LAYOUTS:
        try:
            api = importlib.import_module(layout)
        except ModuleNotFoundError:
            continue
        code, release = api.cudaRuntimeGetVersion()
        if driver and not int(code) and release // 1000 > driver:
            raise RequestError(
                f"device tensorrt needs a package cuda-bindings of CUDA {driver}, which the driver here takes, "
                f"it is of CUDA {release // 1000}; {remedy}"
            )
        return Cuda(api)
    raise RequestError(f"device tensorrt needs the package cuda-bindings, which is not installed; {remedy}")


def pinned_array(address: int, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """Host memory that CUDA owns, as an array; valid until it is freed."""
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory: Any = memoryview((ctypes.c_byte * count).from_address(address))
    array: NDArray[Any] = np.frombuffer(memory, dtype).reshape(shape)
    return array
