"""Everything edgeprune raises on purpose.

    EdgepruneError              something failed                                  exit 1
    ├── ParityError             outputs differ from the reference by more than rounding
    └── RequestError            what was asked for cannot be done as asked        exit 2
        ├── BundleError         the bundle is damaged, incomplete or not one
        ├── ImageError          an image or pixel array does not fit the encoder
        ├── MethodError         no such method, or not on this encoder
        ├── MissingPackageError an optional package is not installed, or does not work
        ├── ModelError          a checkpoint is missing, incomplete or unsupported
        └── TargetError         no such target, or its file is wrong

Messages are one line: what must hold, what was given, the nearest remedy.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "BundleError",
    "EdgepruneError",
    "ImageError",
    "MethodError",
    "MissingPackageError",
    "ModelError",
    "ParityError",
    "RequestError",
    "TargetError",
    "unknown_name",
]


class EdgepruneError(Exception):
    exit_code = 1


class ParityError(EdgepruneError):
    pass


class RequestError(EdgepruneError):
    exit_code = 2


class BundleError(RequestError):
    pass


class ImageError(RequestError):
    pass


class MethodError(RequestError):
    pass


class MissingPackageError(RequestError):
    """Names the package and the extra of edgeprune that brings it; of one that is there and broken, what it says."""

    def __init__(self, package: str, extra: str, error: ImportError | None = None, module: str = "") -> None:
        """error: of its import, if it may be another one than that it is not there; module: where its name differs"""
        absent = isinstance(error, ModuleNotFoundError) and error.name == (module or package)
        if error is None or absent:
            why, remedy = "which is not installed", f"'edgeprune[{extra}]'"
        else:
            why, remedy = f"whose import fails ({error})", f"--force-reinstall {package}"
        super().__init__(f"needs the package {package}, {why}; pip install {remedy}")


class ModelError(RequestError):
    pass


class TargetError(RequestError):
    pass


def unknown_name(kind: str, name: str, have: Iterable[str]) -> str:
    """The message for a name that does not exist, with the nearest one that does: that it is a part of, or spelt alike.

    >>> unknown_name("method", "fastervlmm", ["fastervlm", "none"])
    "no method 'fastervlmm'; have fastervlm, none. Did you mean 'fastervlm'?"
    """
    names = sorted(have)
    if not names:
        return f"no {kind} '{name}'; there are none"
    near = _nearest(name, names)
    hint = f" Did you mean '{near}'?" if near else ""
    return f"no {kind} '{name}'; have {', '.join(names)}.{hint}"


def _nearest(name: str, names: list[str]) -> str | None:
    """Upper and lower case are the same here; of several names that hold it, the shortest."""
    if name and (holding := [one for one in names if name.lower() in one.lower()]):
        return min(holding, key=len)
    folded = {one.lower(): one for one in reversed(names)}
    return next((folded[near] for near in difflib.get_close_matches(name.lower(), folded, n=1)), None)
