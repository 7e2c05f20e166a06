"""Which plan of a bundle runs on this machine, and what keeps the others from it. Opens none; needs no GPU to refuse.

tensorrt       only on the GPU, the system and the release that built it
tensorrt-rtx   on any GPU that the plan names, on Linux and Windows alike, with the release that built it
"""

from __future__ import annotations

import ctypes
import importlib
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from edgeprune.bundle import Bundle, Plan
from edgeprune.errors import RequestError

__all__ = [
    "DEVICE",
    "Gpu",
    "Have",
    "choose",
    "find_gpu",
    "here",
    "load_package",
    "loose",
    "misfit_of",
    "same_release",
    "target_of",
]

DEVICE = "tensorrt"
"""the device, for both kinds of plan"""

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""kind of plan -> the Python package that opens it"""

MAJOR, MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR"""


@dataclass(frozen=True)
class Gpu:
    sm: int | None
    """compute capability without the dot; None where none can be used"""
    name: str = ""
    cuda: int | None = None
    """newest major release of CUDA that the driver takes"""
    why_not: str = ""
    """why none can be used"""


@dataclass(frozen=True)
class Have:
    """What this machine has."""

    versions: Mapping[str, str]
    """kind of plan -> version of the package that is installed for it"""
    missing: Mapping[str, str]
    """kind of plan -> why its package cannot be used"""
    gpu: Gpu
    system: str
    """as `Linux x86_64`"""


class Misfit(NamedTuple):
    rank: int
    """how near the plan came: the remedy of the nearest is the one that is named"""
    reason: str
    remedy: str


def here(kinds: Iterable[str]) -> Have:
    """What this machine has for plans of these kinds: imports their packages, and asks the driver for the first GPU."""
    versions: dict[str, str] = {}
    missing: dict[str, str] = {}
    for kind in sorted(set(kinds)):
        try:
            versions[kind] = str(load_package(kind).__version__)
        except ModuleNotFoundError:
            missing[kind] = f"the Python package {MODULES[kind]}, which is not installed"
        except (ImportError, OSError) as error:  # installed, but without its libraries
            said = str(error).splitlines()[0]
            missing[kind] = f"the Python package {MODULES[kind]}, which cannot be imported ({said})"
    return Have(versions, missing, find_gpu(), f"{platform.system()} {platform.machine()}")


def load_package(kind: str) -> Any:
    """The package that opens plans of a kind. Raises ImportError as its import does."""
    return importlib.import_module(MODULES[kind])


def find_gpu() -> Gpu:
    """The first GPU that the driver shows, by the driver's own interface: no package is needed to ask."""
    library = "nvcuda.dll" if platform.system() == "Windows" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return Gpu(None, why_not=f"there is no NVIDIA driver ({library})")
    if failed := driver.cuInit(0):
        return Gpu(None, why_not=f"the NVIDIA driver shows none (cuInit returns {failed})")
    answer, name = ctypes.c_int(), ctypes.create_string_buffer(128)
    cuda = None if driver.cuDriverGetVersion(ctypes.byref(answer)) else answer.value // 1000
    number = 0
    for attribute in (MAJOR, MINOR):
        if failed := driver.cuDeviceGetAttribute(ctypes.byref(answer), attribute, 0):
            return Gpu(None, why_not=f"the NVIDIA driver shows none (cuDeviceGetAttribute returns {failed})")
        number = 10 * number + answer.value
    driver.cuDeviceGetName(name, len(name), 0)
    return Gpu(number, name.value.decode(errors="replace"), cuda)


def choose(bundle: Bundle, have: Have) -> Plan:
    """The plan to open: TensorRT's before TensorRT-RTX's, as it was timed on its GPU; then the bundle's own target's.

    Raises RequestError that names each plan with what it does not fit, and the nearest remedy.
    """
    engines, folder = bundle.manifest.engines, bundle.folder
    if not engines:
        plan = next(iter(loose(bundle)), None)
        if plan is None:
            raise RequestError(f"{folder} has no plan for device {DEVICE}; make one with `edgeprune build {folder}`")
        raise RequestError(
            f"{folder} has {plan.name}, but its manifest does not list it; take it in with "
            f"`edgeprune build {folder} --adopt {plan}`"
        )
    misfits = {name: misfit_of(name, engine, have, bundle) for name, engine in engines.items()}
    fits = [name for name, misfit in misfits.items() if misfit is None]
    if fits:
        best = min(fits, key=lambda name: (engines[name].kind != "tensorrt", name != bundle.manifest.target, name))
        return engines[best]
    real = {name: misfit for name, misfit in misfits.items() if misfit is not None}
    reasons = "; ".join(f"{engines[name].plan} {misfit.reason}" for name, misfit in real.items())
    remedy = max(real.values(), key=lambda misfit: misfit.rank).remedy
    raise RequestError(f"device {DEVICE} finds no plan in {folder} that fits this machine: {reasons}; {remedy}")


def loose(bundle: Bundle) -> list[Path]:
    """The plans that lie in a bundle, and that its manifest does not list: what trtexec left there."""
    listed = bundle.manifest.files
    return sorted(path for path in bundle.folder.glob("encoder.*.plan") if path.name not in listed)


def target_of(bundle: Bundle, engine: Plan) -> str:
    """The target that a plan was built for."""
    return next(name for name, one in bundle.manifest.engines.items() if one == engine)


def same_release(one: str, other: str) -> bool:
    """Whether two versions are one release, as far as both say.

    >>> same_release("10.3.0", "10.3.0.30"), same_release("10.13.3.9.post1", "10.13.3.9"), same_release("10.3", "10.4")
    (True, True, False)
    """
    numbers = [[part for part in version.split(".") if part.isdigit()] for version in (one, other)]
    return all(a == b for a, b in zip(*numbers, strict=False))


def misfit_of(target: str, engine: Plan, have: Have, bundle: Bundle) -> Misfit | None:
    """What keeps a plan from running here; the first of several. None when it fits."""
    folder, gpu = bundle.folder, have.gpu
    again = f"`edgeprune build {folder} --target {target} --force`"
    if engine.kind not in MODULES:
        return Misfit(-1, f"is of the kind {engine.kind}, which this edgeprune does not know", "upgrade edgeprune")
    # https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/cpu-engines.html: Windows and Linux
    if engine.kind == "tensorrt" and engine.system != have.system:
        reason = f"was built on {engine.system}, this is {have.system}"
        return Misfit(0, reason, f"build one on this machine: {again}")
    if gpu.sm is None:
        reason = f"needs a GPU of SM {_sms(engine.sm)}, and {gpu.why_not}"
        return Misfit(1, reason, "run it where there is one, or use --device cpu")
    if gpu.sm not in engine.sm:
        reason = f"is for SM {_sms(engine.sm)}, the GPU here has SM {gpu.sm}"
        return Misfit(2, reason, _for_sm(bundle, gpu.sm))
    if engine.kind not in have.versions:
        wanted = have.missing.get(engine.kind, f"the Python package {MODULES[engine.kind]}")
        return Misfit(3, f"needs {wanted}, in version {engine.version}", _install(target, engine))
    version = have.versions[engine.kind]
    if not same_release(version, engine.version):
        reason = f"was built by {engine.kind} {engine.version}, here is {version}"
        return Misfit(4, reason, f"build it again: {again}, or install {engine.version}")
    return None


def _sms(sms: Iterable[int]) -> str:
    """
    >>> _sms([86, 89, 120])
    '86, 89 or 120'
    """
    names = [str(sm) for sm in sms]
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _for_sm(bundle: Bundle, sm: int) -> str:
    """How to get a plan for a GPU: by the targets that have it, the bundle's own first."""
    from edgeprune import targets  # needs tomli on Python 3.10, and only a refusal needs it

    of_gpu = [target for target in map(targets.load, targets.names()) if target.gpu and sm in target.gpu.sm]
    able = [target.name for target in of_gpu if target.engine.kind in MODULES]
    if not able:
        return f"no target has SM {sm}: write one (see `edgeprune targets`), and build with --target"
    name = bundle.manifest.target if bundle.manifest.target in able else able[0]
    force = " --force" if name in bundle.manifest.engines else ""
    also = f" (or {', '.join(one for one in able if one != name)})" if len(able) > 1 else ""
    return f"build one for SM {sm}: `edgeprune build {bundle.folder} --target {name}{force}`{also}"


def _install(target: str, engine: Plan) -> str:
    from edgeprune import targets

    if engine.kind == "tensorrt-rtx":
        return f"pip install 'edgeprune[rtx]' tensorrt-rtx-cu13=={engine.version}"
    jetson = targets.load(target).jetson if target in targets.names() else None
    if jetson:
        how = " && ".join(jetson.installing()) or f"for Python {jetson.python} alone, so use trtexec"
        return f"JetPack {jetson.jetpack} brings it: {how}"
    return f"pip install 'edgeprune[tensorrt]' tensorrt=={engine.version}"
