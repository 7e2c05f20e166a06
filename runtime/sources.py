"""Where the C library's sources lie, here or in an installed wheel, and which ONNX Runtime it can open."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from edgeprune.errors import EdgepruneError, MissingPackageError

__all__ = ["c_sources", "onnxruntime_library"]


def c_sources() -> Path:
    """The folder for `cmake -S`. Raises EdgepruneError where an installation came without it."""
    folder = Path(__file__).resolve().parent / "cpp"
    if not (folder / "CMakeLists.txt").is_file():
        raise EdgepruneError(f"the C library's sources should lie in {folder}, and do not; install edgeprune again")
    return folder


def onnxruntime_library() -> Path:
    """The shared library inside of the Python package onnxruntime, for EDGEPRUNE_ONNXRUNTIME; nothing is imported.

    Raises MissingPackageError where it is not installed, or has none.
    """
    spec = importlib.util.find_spec("onnxruntime")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        for library in sorted(Path(place, "capi").glob("libonnxruntime.so*")):
            return library
    raise MissingPackageError("onnxruntime", "cpu")
