"""One graph, open in ONNX Runtime, and what every backend has."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from edgeprune.errors import BundleError, MissingPackageError, RequestError

__all__ = ["DEVICES", "Backend", "Session", "available_devices", "open_session"]

DEVICES = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
"""Device -> the execution provider that must be the one in use."""

_NUMPY = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8", "tensor(int32)": "int32"}


class Backend(Protocol):
    """An open graph or plan with one input."""

    @property
    def raw(self) -> Any: ...
    @property
    def device(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def input_name(self) -> str: ...
    @property
    def output_names(self) -> tuple[str, ...]: ...
    @property
    def input_shape(self) -> tuple[int | str, ...]: ...
    @property
    def dtypes(self) -> dict[str, str]: ...
    def run(self, values: NDArray[Any]) -> list[NDArray[Any]]: ...


@dataclass(frozen=True)
class Session:
    """An open graph with one input. `run` may be called from several threads at once."""

    raw: Any
    """the onnxruntime.InferenceSession"""
    device: str
    input_name: str
    output_names: tuple[str, ...]
    source: str = "encoder.onnx"
    """name of the file"""

    def run(self, values: NDArray[Any]) -> list[NDArray[Any]]:
        """The outputs in the order of `output_names`. No copies, no checks: shapes are the caller's promise."""
        outputs: list[NDArray[Any]] = self.raw.run(self.output_names, {self.input_name: values})
        return outputs

    @property
    def input_shape(self) -> tuple[int | str, ...]:
        """A dimension that is open is a str."""
        return tuple(dim if isinstance(dim, int) else str(dim) for dim in self.raw.get_inputs()[0].shape)

    @property
    def dtypes(self) -> dict[str, str]:
        """Name -> numpy's name of the dtype, inputs and outputs."""
        return {
            node.name: _NUMPY.get(node.type, node.type) for node in (*self.raw.get_inputs(), *self.raw.get_outputs())
        }


def available_devices() -> list[str]:
    """The devices that the installed ONNX Runtime was built for, `cpu` first; whether a GPU is there shows at opening.

    Raises MissingPackageError without onnxruntime.
    """
    have = _onnxruntime().get_available_providers()
    return [device for device, provider in DEVICES.items() if provider in have]


def open_session(
    path: str | os.PathLike[str],
    device: str = "cpu",
    threads: int | None = None,
    profile: bool | str | os.PathLike[str] = False,
    outputs: Sequence[str] | None = None,
) -> Session:
    """Open a graph that has one input.

    threads: CPU threads of one run, None for ONNX Runtime's own choice (the physical cores)
    profile: write ONNX Runtime's JSON trace, to a file whose name begins with this path, or (True) into the working
        folder; `session.raw.end_profiling()` returns the file's name
    outputs: what `run` returns, and in which order; None for all, in the graph's order

    On CUDA, TF32 is off: its 10-bit mantissa would break the float32 bound of parity.

    Raises RequestError when the device is unknown, not present, or not really used; BundleError when the file is not a
    graph that ONNX Runtime can run; MissingPackageError without onnxruntime.
    """
    if device not in DEVICES:
        raise RequestError(f"device must be one of {', '.join(DEVICES)}, got '{device}'")
    if threads is not None and threads < 1:
        raise RequestError(f"threads must be at least 1, got {threads}")
    onnxruntime = _onnxruntime()
    if DEVICES[device] not in onnxruntime.get_available_providers():
        raise RequestError(_no_cuda("this ONNX Runtime was built without CUDA"))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Idle threads would spin into the run of another session: 7.3 ms became 3.2 ms with five of them in turn.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.enable_profiling = profile is not False
    if not isinstance(profile, bool):
        options.profile_file_prefix = os.fspath(profile)
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        raw = onnxruntime.InferenceSession(os.fspath(path), options, providers=_providers(onnxruntime, device))
    except Exception as error:  # ONNX Runtime's exceptions share no base of their own
        reason = (str(error) or type(error).__name__).splitlines()[0]
        name = Path(path).name
        raise BundleError(f"{name} cannot be run by ONNX Runtime {onnxruntime.__version__}: {reason}") from None
    if raw.get_providers()[0] != DEVICES[device]:
        raise RequestError(
            _no_cuda("ONNX Runtime found no usable GPU, driver or CUDA library and fell back to the CPU")
        )
    have = [node.name for node in raw.get_outputs()]
    if len(raw.get_inputs()) != 1 or (outputs is not None and not set(outputs) <= set(have)):
        wanted = ", ".join(outputs or have)
        raise BundleError(
            f"{Path(path).name} must have one input and the outputs {wanted}; "
            f"it has {len(raw.get_inputs())} and {', '.join(have)}; export the bundle again"
        )
    names = tuple(have if outputs is None else outputs)
    return Session(raw, device, raw.get_inputs()[0].name, names, Path(path).name)


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise MissingPackageError("onnxruntime", "cpu") from None
    return onnxruntime


def _providers(onnxruntime: Any, device: str) -> list[Any]:
    if device != "cuda":
        return [DEVICES[device]]
    with contextlib.suppress(AttributeError), contextlib.redirect_stdout(io.StringIO()):
        onnxruntime.preload_dlls()  # finds the CUDA libraries that pip installed; since 1.21, and it prints
    return [(DEVICES["cuda"], {"use_tf32": "0"}), DEVICES["cpu"]]


def _no_cuda(reason: str) -> str:
    return f"device cuda cannot be used: {reason}; pip install 'edgeprune[cuda]', or use --device cpu"
