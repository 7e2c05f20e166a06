"""Which executor opens a bundle: the one that is named, or the best that is here.

auto   a plan that fits this machine, else the graph in ONNX Runtime on CUDA, else on the CPU
"""

from __future__ import annotations

from collections.abc import Sequence

from edgeprune.bundle import Bundle
from edgeprune.errors import BundleError, MissingPackageError, RequestError
from edgeprune.runtime.backends import Backend
from edgeprune.runtime.backends import plan as plans
from edgeprune.runtime.backends.ort import DEVICES, available_devices, open_encoder

__all__ = ["AUTO", "KNOWN", "open_backend"]

AUTO = "auto"
KNOWN = (AUTO, *DEVICES, plans.DEVICE)
"""what a device may be called"""


def open_backend(
    bundle: Bundle, device: str = AUTO, threads: int | None = None, outputs: Sequence[str] | None = None
) -> tuple[Backend, dict[str, str]]:
    """The encoder, open on a device, and the better devices that were passed over for it, each with why.

    device: one of KNOWN
    threads, outputs: as `open_encoder` takes them

    Raises RequestError when the device cannot be used, of auto none; BundleError when the graph or the plan that would
    be opened is damaged; MissingPackageError without onnxruntime where it is needed.
    """
    if device not in KNOWN:
        raise RequestError(f"device must be one of {', '.join(KNOWN)}, got '{device}'")
    if device != AUTO:
        return _open(bundle, device, threads, outputs), {}
    passed_over: dict[str, str] = {}
    for name in (plans.DEVICE, "cuda"):
        why_not = _no_plan(bundle) if name == plans.DEVICE else _no_cuda()
        if not why_not:
            try:
                return _open(bundle, name, threads, outputs), passed_over
            except BundleError:
                raise
            except RequestError as error:
                why_not = str(error)
        passed_over[name] = why_not
    try:
        return _open(bundle, "cpu", threads, outputs), passed_over
    except MissingPackageError as error:  # where there is a plan, what keeps it from running matters more
        if _no_plan(bundle):
            raise
        raise RequestError(f"{passed_over[plans.DEVICE]}; device cpu {error}") from None


def _open(bundle: Bundle, device: str, threads: int | None, outputs: Sequence[str] | None) -> Backend:
    if device != plans.DEVICE:
        return open_encoder(bundle, device, threads, outputs=outputs)
    from edgeprune.runtime.backends.plan_session import open_plan

    return open_plan(bundle, outputs)


def _no_plan(bundle: Bundle) -> str:
    return "" if bundle.manifest.engines or plans.loose(bundle) else "the bundle has no plan"


def _no_cuda() -> str:
    """Why CUDA need not be tried: without a GPU, ONNX Runtime would open the graph on the CPU first."""
    try:
        built = "cuda" in available_devices()
    except MissingPackageError:
        return "ONNX Runtime is not installed"
    return plans.find_gpu().why_not if built else "this ONNX Runtime was built without CUDA"
