"""One plan of TensorRT or TensorRT-RTX, open on the GPU: what `edgeprune.runtime.backends.ort` is for a graph.

Host memory is pinned and device memory allocated once. The work of a run is one CUDA graph where it can be captured:
a small encoder is mostly launches. TensorRT-RTX captures it by itself. Needs no torch.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.bundle import Bundle, Plan, TensorSpec
from edgeprune.errors import BundleError, EdgepruneError, ImageError, RequestError
from edgeprune.runtime.backends import Closed, check_names
from edgeprune.runtime.backends import plan as plans
from edgeprune.runtime.backends.cuda_api import Cuda, load_cuda, pinned_array
from edgeprune.runtime.backends.dlpack import CUDA, Shared

__all__ = ["PlanSession", "open_engine", "open_plan"]

NON_BLOCKING = 1
"""cudaStreamNonBlocking: what runs on the default stream does not hold it up"""

ERROR = 1
"""severity of a message that is an error; smaller is worse"""

DTYPES = {"FLOAT": "float32", "HALF": "float16", "UINT8": "uint8", "INT32": "int32", "INT64": "int64", "BOOL": "bool"}
"""TensorRT's name -> numpy's"""


@dataclass(frozen=True)
class _Tensor:
    name: str
    host: NDArray[Any]
    """pinned, of the tensor's shape and dtype"""
    device: int
    """address"""

    @property
    def spec(self) -> TensorSpec:
        return TensorSpec(self.host.shape, self.host.dtype.name)


def open_plan(bundle: Bundle, outputs: Sequence[str] | None = None) -> PlanSession:
    """Open the plan of a bundle that fits this machine.

    outputs: what `run` returns, and in which order; None for all, in the plan's order

    Raises RequestError when none fits, the one that does cannot be opened, or cuda-bindings is not there for it;
    BundleError when the plan lacks an output.
    """
    have = plans.here(one.kind for one in bundle.manifest.engines.values())
    engine = plans.choose(bundle, have)
    return open_engine(engine, bundle.path(engine.plan).read_bytes(), have, outputs)


def open_engine(engine: Plan, content: bytes, have: plans.Have, outputs: Sequence[str] | None = None) -> PlanSession:
    """Open a plan, of which only the content is there; raises as `open_plan` does."""
    return PlanSession(plans.load_package(engine.kind), load_cuda(have.gpu.cuda), content, engine, outputs)


class PlanSession:
    """An open plan. `run` may be called from several threads: they take turns.

    raw: TensorRT's execution context
    engine: what the manifest says of the plan
    source: name of the file
    inputs, outputs: name -> shape and dtype; the outputs are those that `run` returns
    cuda_graph: "captured", "by TensorRT-RTX", or "none: " and why
    """

    device = plans.DEVICE
    _runtime: Any = None

    def __init__(self, trt: Any, cuda: Cuda, content: bytes, engine: Plan, outputs: Sequence[str] | None) -> None:
        """trt: the package that built the plan. Raises as `open_plan` does."""
        self.engine, self.source, self.flags = engine, engine.plan, engine.flags
        self._cuda, self._lock = cuda, threading.Lock()
        self._log = _log(trt)
        self._log.errors.clear()
        owned: list[tuple[str, Any]] = []  # (how it is freed, what), in the order of making
        self._free = weakref.finalize(self, _free, cuda, owned)
        try:
            self._plan = self._deserialize(trt, content)
            self.raw, self.cuda_graph = self._context(trt)
            self._stream = cuda("cudaStreamCreateWithFlags", NON_BLOCKING)
            owned.append(("cudaStreamDestroy", self._stream))
            self._given, self._returned = self._tensors(trt, outputs, owned)
            self._graph = self._warm_up(owned)
        except RequestError:
            self._free()
            raise
        except EdgepruneError as error:  # CUDA's: no memory, a driver that is too old
            self._free()
            raise RequestError(f"device {self.device} cannot be used: {error}; use --device cpu") from None
        self.inputs = {tensor.name: tensor.spec for tensor in self._given}
        self.outputs = {tensor.name: tensor.spec for tensor in self._returned}

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The outputs by name; the arrays are the caller's.

        Raises ImageError for another shape or dtype than the plan's, EdgepruneError when CUDA or TensorRT fails.
        """
        cuda, stream = self._cuda, self._stream
        with self._lock:
            self._start(feeds)
            for tensor in self._returned:
                self._copy(tensor, cuda.to_host)
            cuda("cudaStreamSynchronize", stream)
            return {tensor.name: tensor.host.copy() for tensor in self._returned}

    def _start(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        """Start a run of these inputs. Called with the lock held."""
        for tensor in self._given:
            values, host = feeds[tensor.name], tensor.host
            if values.shape != host.shape or values.dtype != host.dtype:
                raise ImageError(
                    f"{tensor.name} must be {host.dtype} {list(host.shape)}, "
                    f"got {values.dtype} {list(values.shape)}; cast or reshape it"
                )
        self._check_open()
        for tensor in self._given:
            np.copyto(tensor.host, feeds[tensor.name])
            self._copy(tensor, self._cuda.to_device)
        self._launch()

    def run_on_device(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """The outputs by name, each in GPU memory of its own. Raises as `run` does."""
        cuda, stream = self._cuda, self._stream
        with self._lock:
            self._start(feeds)
            number, made = int(cuda("cudaGetDevice")), dict[str, Any]()
            for tensor in self._returned:
                copy = int(cuda("cudaMalloc", tensor.host.nbytes))
                free = partial(cuda.api.cudaFree, copy)
                made[tensor.name] = Shared(copy, tensor.host.shape, tensor.host.dtype.name, CUDA, number, free)
                cuda("cudaMemcpyAsync", copy, tensor.device, tensor.host.nbytes, cuda.on_device, stream)
            cuda("cudaStreamSynchronize", stream)
            return made

    def close(self) -> None:
        """Free the plan and its memory, on the GPU as well, once the run under way has ended."""
        with self._lock:
            self.raw = Closed(self.source)
            self._graph = self._plan = None
            self._runtime = None
            self._free()

    def times(self, rounds: int) -> tuple[list[float], list[float]]:
        """(seconds that the GPU computes, seconds of the CPU to start it) of each of some runs, without transfers.

        The input is that of the last run. Raises EdgepruneError as `run` does.
        """
        cuda, stream = self._cuda, self._stream
        computed, enqueued = [], []
        with self._lock:
            self._check_open()
            events = [cuda("cudaEventCreate") for _ in range(2)]
            try:
                for _ in range(rounds):
                    cuda("cudaEventRecord", events[0], stream)
                    start = time.perf_counter()
                    self._launch()
                    enqueued.append(time.perf_counter() - start)
                    cuda("cudaEventRecord", events[1], stream)
                    cuda("cudaStreamSynchronize", stream)
                    computed.append(cuda("cudaEventElapsedTime", *events) / 1e3)
            finally:
                for event in events:
                    cuda("cudaEventDestroy", event)
        return computed, enqueued

    def _check_open(self) -> None:
        """Raises RequestError when it was closed: its memory is freed."""
        if isinstance(self.raw, Closed):
            self.raw.run()

    def _deserialize(self, trt: Any, content: bytes) -> Any:
        self._runtime = trt.Runtime(self._log)  # must outlive the engine
        engine = self._runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise RequestError(
                f"{self.source} cannot be opened by {self.engine.kind} {trt.__version__}: {self._said()}; "
                "build it again on this machine, or use --device cpu"
            )
        return engine

    def _context(self, trt: Any) -> tuple[Any, str]:
        """The execution context, and who captures the CUDA graph; "" when it is to be done here."""
        if hasattr(trt, "CudaGraphStrategy"):  # TensorRT-RTX only
            self._config = self._plan.create_runtime_config()
            self._config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            context, who = self._plan.create_execution_context(self._config), "by TensorRT-RTX"
        else:
            context, who = self._plan.create_execution_context(), ""
        if context is None:
            raise EdgepruneError(f"{self.source} cannot be made ready to run: {self._said()}")
        return context, who

    def _tensors(
        self, trt: Any, wanted: Sequence[str] | None, owned: list[tuple[str, Any]]
    ) -> tuple[list[_Tensor], list[_Tensor]]:
        """Memory for every tensor of the plan, of which TensorRT is told; returns the inputs and the wanted outputs."""
        plan = self._plan
        names = [plan.get_tensor_name(at) for at in range(plan.num_io_tensors)]
        inputs = [name for name in names if plan.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        have = [name for name in names if name not in inputs]
        returned = check_names(self.source, dict.fromkeys(inputs), dict.fromkeys(have), wanted, "build it again")
        tensors = {name: self._allocate(name, owned) for name in names}
        return [tensors[name] for name in inputs], [tensors[name] for name in returned]

    def _allocate(self, name: str, owned: list[tuple[str, Any]]) -> _Tensor:
        shape, kind = tuple(self._plan.get_tensor_shape(name)), self._plan.get_tensor_dtype(name).name
        if kind not in DTYPES or min(shape, default=1) < 1:
            raise BundleError(
                f"{self.source}: {name} must have a fixed shape and one of {', '.join(DTYPES.values())}, "
                f"it is {kind} {list(shape)}; build it again"
            )
        count = int(np.prod(shape)) * np.dtype(DTYPES[kind]).itemsize
        host = self._cuda("cudaMallocHost", count)
        owned.append(("cudaFreeHost", host))
        device = self._cuda("cudaMalloc", count)
        owned.append(("cudaFree", device))
        tensor = _Tensor(name, pinned_array(int(host), shape, DTYPES[kind]), int(device))
        tensor.host[...] = 0
        self._copy(tensor, self._cuda.to_device)
        if not self.raw.set_tensor_address(name, tensor.device):
            raise EdgepruneError(f"{self.source}: no memory can be set for {name}: {self._said()}")
        return tensor

    def _warm_up(self, owned: list[tuple[str, Any]]) -> Any:
        """Run once: TensorRT sets itself up in the first run, which cannot be captured. Then capture the next one.

        Returns the CUDA graph that can be launched, or None where TensorRT-RTX has its own, or none can be captured.
        """
        self._graph = None
        self._launch()
        self._cuda("cudaStreamSynchronize", self._stream)
        if self.cuda_graph:
            return None
        cuda, graph = self._cuda, None
        try:
            graph = self._capture()
            executable = cuda("cudaGraphInstantiateWithFlags", graph, 0)
        except EdgepruneError as error:  # then the kernels are launched one by one
            cuda.api.cudaGetLastError()  # else the next call would report it again
            self.cuda_graph = f"none: {error}"
            return None
        finally:
            if graph is not None:
                cuda("cudaGraphDestroy", graph)
        owned.append(("cudaGraphExecDestroy", executable))
        self.cuda_graph = "captured"
        return executable

    def _capture(self) -> Any:
        mode = self._cuda.api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._cuda("cudaStreamBeginCapture", self._stream, mode)
        try:
            self._launch()
        finally:  # a capture that has begun must end, whatever came between
            code, graph = self._cuda.api.cudaStreamEndCapture(self._stream)
        if int(code):
            raise EdgepruneError(f"cudaStreamEndCapture: {self._cuda.says(code)}")
        return graph

    def _launch(self) -> None:
        if self._graph is not None:
            self._cuda("cudaGraphLaunch", self._graph, self._stream)
        elif not self.raw.execute_async_v3(int(self._stream)):
            raise EdgepruneError(f"{self.source} cannot be run: {self._said()}")

    def _copy(self, tensor: _Tensor, way: Any) -> None:
        host, device = tensor.host.ctypes.data, tensor.device
        ends = (device, host) if way == self._cuda.to_device else (host, device)
        self._cuda("cudaMemcpyAsync", *ends, tensor.host.nbytes, way, self._stream)

    def _said(self) -> str:
        return self._log.errors[0] if self._log.errors else "it does not say why"


def _free(cuda: Cuda, owned: list[tuple[str, Any]]) -> None:
    """Free what a session owns, the last first. Errors are not reported: there is nobody to act on them."""
    while owned:
        call, what = owned.pop()
        getattr(cuda.api, call)(what)


@cache
def _log(trt: Any) -> Any:
    """One for all: TensorRT keeps the first that it is given."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.errors: deque[str] = deque(maxlen=8)

        def log(self, severity: Any, text: str) -> None:
            if int(severity) <= ERROR and text.strip():
                self.errors.append(text.strip().splitlines()[0][:300])

    return Log()
