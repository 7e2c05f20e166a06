"""One graph, open in ONNX Runtime."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgeprune.bundle import ENCODER, Bundle, TensorSpec
from edgeprune.errors import BundleError, MissingPackageError, RequestError
from edgeprune.runtime.backends import Closed, check_names

__all__ = ["DEVICES", "Session", "available_devices", "in_one_line", "open_encoder", "open_session"]

DEVICES = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
"""Device -> the execution provider that must be the one in use."""

_NUMPY = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    **{f"tensor({name})": name for name in ("uint8", "int8", "int32", "int64", "bool")},
}


class Session:
    """An open graph. `run` may be called from several threads at once.

    raw: the onnxruntime.InferenceSession
    device: cpu or cuda
    source: name of the file
    inputs, outputs: name -> shape and dtype; an open dimension is a str. The outputs are those that `run` returns
    """

    flags: Sequence[str] = ()

    def __init__(self, raw: Any, device: str, source: str, outputs: Sequence[str] | None = None) -> None:
        """outputs: what `run` returns, and in which order; None for all. Raises BundleError when one is not there."""
        self.raw, self.device, self.source = raw, device, source
        self.inputs, have = _specs(raw.get_inputs()), _specs(raw.get_outputs())
        self._names = check_names(source, self.inputs, have, outputs, "export the bundle again")
        self.outputs = {name: have[name] for name in self._names}

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The outputs by name. No copies, no checks: names and shapes are the caller's promise.

        Raises BundleError when the graph fails on the way.
        """
        with in_one_line(self.source):
            return dict(zip(self._names, self.raw.run(self._names, feeds), strict=True))

    def run_on_device(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """The outputs by name as OrtValues, on the GPU where the graph runs there.

        Raises RequestError when this ONNX Runtime cannot hand them on.
        """
        binding = self.raw.io_binding()
        for name, values in feeds.items():
            binding.bind_cpu_input(name, values)
        for name in self._names:
            binding.bind_output(name, self.device)
        with in_one_line(self.source):
            self.raw.run_with_iobinding(binding)
        binding.synchronize_outputs()
        values = binding.get_outputs()
        if not hasattr(values[0], "__dlpack__"):
            raise RequestError(
                "outputs that stay on the device need an onnxruntime whose values speak DLPack, this one's do not; "
                "pip install --upgrade onnxruntime, or take outputs()"
            )
        return dict(zip(self._names, values, strict=True))

    def close(self) -> None:
        """Let go of the graph and its memory, once the runs under way have ended."""
        self.raw = Closed(self.source)


def _specs(nodes: Iterable[Any]) -> dict[str, TensorSpec]:
    return {
        node.name: TensorSpec(
            tuple(size if isinstance(size, int) else str(size) for size in node.shape),
            _NUMPY.get(node.type, node.type),
        )
        for node in nodes
    }


def available_devices() -> list[str]:
    """The devices that the installed ONNX Runtime was built for, `cpu` first; whether a GPU is there shows at opening.

    Raises MissingPackageError without onnxruntime.
    """
    have = _onnxruntime().get_available_providers()
    return [device for device, provider in DEVICES.items() if provider in have]


def open_encoder(
    bundle: Bundle,
    device: str = "cpu",
    threads: int | None = None,
    profile: bool | str | os.PathLike[str] = False,
    outputs: Sequence[str] | None = None,
) -> Session:
    """The pruned graph of a bundle, with the options that its manifest says this form of graph needs.

    Arguments and errors as those of `open_session`.
    """
    disabled = bundle.manifest.disabled(device)
    return open_session(bundle.graph(ENCODER), device, threads, profile, outputs, disabled)


def open_session(
    path: str | os.PathLike[str],
    device: str = "cpu",
    threads: int | None = None,
    profile: bool | str | os.PathLike[str] = False,
    outputs: Sequence[str] | None = None,
    disabled: Sequence[str] = (),
) -> Session:
    """Open a graph.

    threads: CPU threads of one run, None for ONNX Runtime's own choice (the physical cores)
    profile: write ONNX Runtime's JSON trace, to a file whose name begins with this path, or (True) into the working
        folder; `session.raw.end_profiling()` returns the file's name
    outputs: what `run` returns, and in which order; None for all, in the graph's order
    disabled: optimizers that must not run, by ONNX Runtime's names

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
    options.log_severity_level = 4  # errors come as exceptions, too
    # Idle threads would spin into the run of another session: 7.3 ms became 3.2 ms with five of them in turn.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.enable_profiling = profile is not False
    if not isinstance(profile, bool):
        options.profile_file_prefix = os.fspath(profile)
    if disabled:
        options.add_session_config_entry("optimization.disable_specified_optimizers", ";".join(disabled))
    if threads is not None:
        options.intra_op_num_threads = threads
    with in_one_line(Path(path).name):
        raw = onnxruntime.InferenceSession(os.fspath(path), options, providers=_providers(onnxruntime, device))
    if raw.get_providers()[0] != DEVICES[device]:
        raise RequestError(
            _no_cuda("ONNX Runtime found no usable GPU, driver or CUDA library and fell back to the CPU")
        )
    return Session(raw, device, Path(path).name, outputs)


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackageError("onnxruntime", "cpu", error) from None
    return onnxruntime


@contextlib.contextmanager
def in_one_line(source: str) -> Iterator[None]:
    try:
        yield
    except RequestError:  # of what was closed
        raise
    except Exception as error:  # ONNX Runtime's exceptions share no base of their own
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise BundleError(f"{source} cannot be run by ONNX Runtime {_onnxruntime().__version__}: {reason}") from None


def _providers(onnxruntime: Any, device: str) -> list[Any]:
    if device != "cuda":
        return [DEVICES[device]]
    with contextlib.suppress(AttributeError), contextlib.redirect_stdout(io.StringIO()):
        onnxruntime.preload_dlls()  # finds the CUDA libraries that pip installed; since 1.21, and it prints
    return [(DEVICES["cuda"], {"use_tf32": "0"}), DEVICES["cpu"]]


def _no_cuda(reason: str) -> str:
    return f"device cuda cannot be used: {reason}; pip install 'edgeprune[cuda]', or use --device cpu"
