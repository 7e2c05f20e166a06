"""A GPU on a machine without one: CUDA's runtime on host memory, and a TensorRT whose plan computes what a graph does.

On device memory nothing happens before its stream is waited for. That the real packages have these functions, with as
many arguments, is checked against the packages themselves (tests/runtime/backends/test_plan_session.py).
"""

from __future__ import annotations

import ctypes
import dataclasses
import enum
import platform
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeprune import bundle as bundles
from edgeprune.bundle import Plan
from edgeprune.runtime.backends import plan as plans

if TYPE_CHECKING:  # a board has none
    import pytest

MakeBundle = Callable[..., Path]
Expect = Callable[[NDArray[Any]], Any]

SYSTEM = f"{platform.system()} {platform.machine()}"
ENGINE = Plan("encoder.jetson-orin.plan", "tensorrt", "10.3.0", (87,), SYSTEM, ("STRONGLY_TYPED",), 1000)
NUMBERS = {"float32": "FLOAT", "float16": "HALF", "uint8": "UINT8", "int32": "INT32"}


class FakeCuda:
    """CUDA's runtime, of which every function returns (error code, value); `failing` names one that does not work."""

    cudaMemcpyKind = enum.IntEnum(
        "cudaMemcpyKind",
        {"cudaMemcpyHostToDevice": 1, "cudaMemcpyDeviceToHost": 2, "cudaMemcpyDeviceToDevice": 3},
    )
    cudaStreamCaptureMode = enum.IntEnum("cudaStreamCaptureMode", {"cudaStreamCaptureModeThreadLocal": 1})

    def __init__(self) -> None:
        self.failing = ""
        self.host: dict[int, Any] = {}
        self.device: dict[int, Any] = {}
        self.queues: dict[int, list[Callable[[], None]]] = {}
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.events: dict[int, float] = {}
        self.capture: list[Callable[[], None]] | None = None
        self.launched = 0
        self.last_error = 0
        self._next = 0

    def __getattribute__(self, name: str) -> Any:
        if name == object.__getattribute__(self, "failing"):
            self.last_error = 2
            return lambda *arguments: (2, None)
        return object.__getattribute__(self, name)

    def _new(self) -> int:
        self._next += 1
        return self._next

    def _allocate(self, heap: dict[int, Any], size: int) -> tuple[int, int]:
        memory = ctypes.create_string_buffer(b"\xab" * size, size)  # nothing is zero by chance
        heap[ctypes.addressof(memory)] = memory
        return 0, ctypes.addressof(memory)

    def put(self, stream: int, work: Callable[[], None]) -> None:
        (self.queues[stream] if self.capture is None else self.capture).append(work)

    def cudaGetDevice(self) -> tuple[int, int]:
        return 0, 0

    def cudaMalloc(self, size: int) -> tuple[int, int]:
        return self._allocate(self.device, size)

    def cudaMallocHost(self, size: int) -> tuple[int, int]:
        return self._allocate(self.host, size)

    def cudaFree(self, devPtr: int) -> tuple[int]:
        del self.device[devPtr]
        return (0,)

    def cudaFreeHost(self, ptr: int) -> tuple[int]:
        del self.host[ptr]
        return (0,)

    def cudaMemcpyAsync(self, dst: int, src: int, count: int, kind: int, stream: int) -> tuple[int]:
        to, of = self.host if kind == 2 else self.device, self.host if kind == 1 else self.device
        assert len(to[dst]) == len(of[src]) == count, "copies are between memory of the kind and size that they say"

        def copy() -> None:
            ctypes.memmove(dst, src, count)

        self.put(stream, copy)
        return (0,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, int]:
        self.queues[stream := self._new()] = []
        return 0, stream

    def cudaStreamDestroy(self, stream: int) -> tuple[int]:
        del self.queues[stream]
        return (0,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        assert self.capture is None, "a stream that is captured cannot be waited for"
        while self.queues[stream]:
            self.queues[stream].pop(0)()
        return (0,)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[int]:
        self.capture = []
        return (0,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[int, int]:
        self.graphs[graph := self._new()], self.capture = self.capture or [], None
        return 0, graph

    def cudaGraphInstantiateWithFlags(self, graph: int, flags: int) -> tuple[int, int]:
        self.graphs[executable := self._new()] = self.graphs[graph]
        return 0, executable

    def cudaGraphLaunch(self, graphExec: int, stream: int) -> tuple[int]:
        self.launched += 1
        self.queues[stream] += self.graphs[graphExec]
        return (0,)

    def cudaGraphDestroy(self, graph: int) -> tuple[int]:
        del self.graphs[graph]
        return (0,)

    cudaGraphExecDestroy = cudaGraphDestroy

    def cudaEventCreate(self) -> tuple[int, int]:
        self.events[event := self._new()] = 0.0
        return 0, event

    def cudaEventDestroy(self, event: int) -> tuple[int]:
        del self.events[event]
        return (0,)

    def cudaEventRecord(self, event: int, stream: int) -> tuple[int]:
        def record() -> None:
            self.events[event] = float(self._new())

        self.put(stream, record)
        return (0,)

    def cudaEventElapsedTime(self, start: int, end: int) -> tuple[int, float]:
        assert self.events[end] > self.events[start] > 0
        return 0, 1.5

    def cudaGetErrorString(self, error: int) -> tuple[int, bytes]:
        return 0, b"out of memory"

    def cudaGetLastError(self) -> tuple[int]:
        error, self.last_error = self.last_error, 0
        return (error,)

    def cudaRuntimeGetVersion(self) -> tuple[int, int]:
        return 0, 12060


@dataclasses.dataclass
class FakeContext:
    engine: FakePlan
    addresses: dict[str, int] = dataclasses.field(default_factory=dict)
    ran: int = 0

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return memory in self.engine.cuda.device

    def execute_async_v3(self, stream_handle: int) -> bool:
        uncapturable = self.engine.uncapturable and self.engine.cuda.capture is not None
        if uncapturable or self.engine.cuda.last_error:  # which it takes for its own
            return False
        self.ran += 1
        self.engine.cuda.put(stream_handle, self.compute)
        return True

    def compute(self) -> None:
        found = self.engine.function(self.array("pixel_values").copy())
        for name in self.engine.tensors:
            if name != "pixel_values":
                self.array(name)[...] = getattr(found, name)

    def array(self, name: str) -> NDArray[Any]:
        shape, kind = self.engine.tensors[name]
        dtype = {number: name for name, number in NUMBERS.items()}[kind]
        return np.frombuffer(self.engine.cuda.device[self.addresses[name]], dtype).reshape(shape)


@dataclasses.dataclass
class FakePlan:
    """An engine: what a plan is once it is open."""

    cuda: FakeCuda
    tensors: dict[str, tuple[tuple[int, ...], str]]
    function: Expect
    uncapturable: bool = False
    contexts: list[FakeContext] = dataclasses.field(default_factory=list)

    @property
    def num_io_tensors(self) -> int:
        return len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> int:
        return 1 if name == "pixel_values" else 2

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name][0]

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=self.tensors[name][1])

    def create_execution_context(self, runtime_config: Any = None) -> FakeContext:
        self.contexts.append(FakeContext(self))
        return self.contexts[-1]

    def create_runtime_config(self) -> Any:
        return SimpleNamespace(cuda_graph_strategy=0)


class FakeLog:
    pass


def package(plan: FakePlan, rtx: bool = False) -> SimpleNamespace:
    """The package tensorrt, or tensorrt_rtx, that opens this one plan, and says so when the bytes are another's."""

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> FakePlan | None:
            if serialized_engine == b"a plan":
                return plan
            self.logger.log(2, "a warning")
            self.logger.log(1, "magicTagRead does not match\nmore")
            return None

    names = {"ILogger": FakeLog, "Runtime": Runtime, "TensorIOMode": SimpleNamespace(INPUT=1), "__version__": "10.3.0"}
    return Package(**names, **({"CudaGraphStrategy": SimpleNamespace(WHOLE_GRAPH_CAPTURE=1)} if rtx else {}))


class Package(SimpleNamespace):
    __hash__ = object.__hash__  # type: ignore[assignment]


@dataclasses.dataclass
class Device:
    """A machine with a GPU on which plans run: what it has, and how a bundle gets a plan."""

    cuda: FakeCuda
    expected: Expect
    make_bundle: MakeBundle
    monkeypatch: pytest.MonkeyPatch

    def bundle(self, engine: Plan = ENGINE, content: bytes = b"a plan", rtx: bool = False, **options: Any) -> Path:
        folder = self.make_bundle(cost={"formula": 1, "graph": 1}, **options)
        found = bundles.load(folder)
        bundles.add_engine(found, "jetson-orin", engine, content)
        tensors = {**found.manifest.inputs, **found.manifest.outputs}
        self.plan = FakePlan(
            self.cuda,
            {name: (tuple(map(int, spec.shape)), NUMBERS[spec.dtype]) for name, spec in tensors.items()},
            self.expected,
        )
        self.monkeypatch.setattr(plans, "load_package", lambda kind: package(self.plan, rtx))
        return folder
