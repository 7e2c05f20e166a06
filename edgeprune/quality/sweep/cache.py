"""What a sweep has computed, as small JSON files beside its tables, so that it can be interrupted and taken up again.

    <output>/cache/<stamp>/<kind>/<key>.json        {"key": ..., "about": {...}, "value": ...}

The key is the sha256 of everything that the value depends on (`about`); the stamp is the version of edgeprune and of
what runs beside it, with a digest of the sources, so that a changed method is never read off an old file. Files of
another stamp are left alone and named; a damaged one is computed again and named.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any

import edgeprune
from edgeprune.errors import RequestError

__all__ = ["CACHE", "Cache", "key_of", "stamp", "versions"]

CACHE = "cache"
TOOLS = ("numpy", "onnxruntime", "torch", "transformers")
"""what else a result depends on"""
APART = {"cli", "doctor", "integrations", "quality/report", "train"}
"""folders that no result depends on"""
SHOWING = {"plots.py", "rows.py", "saving.py", "texts.py"}
"""nor these files, which only put results together"""


def key_of(about: Mapping[str, Any]) -> str:
    """sha256 of a JSON object in canonical form.

    >>> key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(about, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Of edgeprune and of what it runs on."""
    tools = {"edgeprune": edgeprune.__version__}
    for tool in TOOLS:
        with contextlib.suppress(PackageNotFoundError):
            tools[tool] = version(tool)
    return tools


@cache
def stamp() -> str:
    """The version with a digest of the sources and of the other versions, as a folder is called."""
    root, digest = Path(str(files("edgeprune"))), hashlib.sha256(json.dumps(versions()).encode())
    for path in sorted(_sources(root)):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return f"{edgeprune.__version__}-{digest.hexdigest()[:12]}"


def _sources(root: Path) -> list[Path]:
    """Through the links of a clone as well."""
    sources = []
    for folder, inner, names in os.walk(root, followlinks=True):
        below = Path(folder).relative_to(root)
        inner[:] = [name for name in inner if name != "__pycache__" and (below / name).as_posix() not in APART]
        sources += [Path(folder) / name for name in names if name.endswith(".py") and name not in SHOWING]
    return sources


class Cache:
    """The files of one sweep.

    warnings: what was found and not used, each in one line
    """

    def __init__(self, output: Path) -> None:
        self.folder = output / CACHE / stamp()
        self.warnings: list[str] = []

    def open(self) -> None:
        """Make the folder and look for files of other versions. Raises RequestError when it cannot be written."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RequestError(f"{self.folder} cannot be made: {error.strerror}; choose another --output") from None
        for other in sorted(self.folder.parent.iterdir()):
            if other.is_dir() and other != self.folder and any(other.rglob("*.json")):
                self.warnings.append(
                    f"{other} is of another version ({other.name}, this is {self.folder.name}) and is not used; "
                    "remove it when it is not needed any more"
                )

    def get(self, kind: str, about: Mapping[str, Any]) -> Any:
        """The value that was put, None where there is none."""
        key = key_of(about)
        path = self.folder / kind / f"{key}.json"
        try:
            given = json.loads(path.read_text(encoding="utf-8"))
            if given["key"] != key or key_of(given["about"]) != key:
                raise ValueError(key)
            return given["value"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            self.warnings.append(f"{path} is damaged and not used; it is computed again")
            return None

    def put(self, kind: str, about: Mapping[str, Any], value: Any) -> None:
        """Write it, all at once. Raises RequestError when the disk does not take it."""
        key = key_of(about)
        path = self.folder / kind / f"{key}.json"
        scratch = path.with_name(f".{key}.{secrets.token_hex(4)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            scratch.write_text(json.dumps({"key": key, "about": about, "value": value}), encoding="utf-8")
            os.replace(scratch, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                scratch.unlink()
            raise RequestError(f"{path} cannot be written: {error.strerror}; choose another --output") from None
