"""transformers.js and ONNX Runtime's WebAssembly, out of a node_modules folder to where the page looks for them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from edgeprune.errors import RequestError

__all__ = ["LIBRARY", "MAJOR", "library_files", "place_library"]

LIBRARY, MAJOR = "@huggingface/transformers", 4
ENGINE = "onnxruntime-web"
FILES = {
    LIBRARY: ("package.json", "LICENSE", "dist/transformers.min.js"),
    ENGINE: ("package.json", *(f"dist/ort-wasm-simd-threaded.asyncify.{end}" for end in ("mjs", "wasm"))),
}
"""package -> what the page reads of it, and what says whose and which release it is"""


def library_files(node_modules: Path) -> dict[str, Path]:
    """Name in the folder -> the file there is; as node does, a package's own node_modules goes first.

    Raises RequestError when one is missing, or transformers.js is of another major release.
    """
    files: dict[str, Path] = {}
    for package, names in FILES.items():
        own = node_modules / LIBRARY / "node_modules" / package
        source = own if own.is_dir() else node_modules / package
        for name in names:
            if not (source / name).is_file():
                raise RequestError(
                    f"--node-modules must have {package}/{name}, {node_modules} has not; "
                    f"run `npm install {LIBRARY}@{MAJOR}` and give the node_modules that it makes"
                )
            files[f"node_modules/{package}/{name}"] = source / name
    try:
        version = json.loads(files[f"node_modules/{LIBRARY}/package.json"].read_text(encoding="utf-8"))["version"]
        major = int(re.match(r"\d+", version).group())  # type: ignore[union-attr]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        version, major = "unknown", 0
    if major != MAJOR:
        raise RequestError(
            f"--node-modules must have {LIBRARY} {MAJOR}.x, {node_modules} has {version}; "
            f"run `npm install {LIBRARY}@{MAJOR}` there"
        )
    return files


def place_library(folder: Path, node_modules: Path) -> None:
    """Copy them. Raises RequestError as `library_files` does."""
    for name, source in library_files(node_modules).items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, place)
