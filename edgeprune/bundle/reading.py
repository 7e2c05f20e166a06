"""A bundle as it is opened: nothing is used of it that is not hashed.

A file may be a link, as in the caches of Hugging Face: what counts is that its bytes are those of the manifest. So it
is with the weights that a graph keeps beside itself: they must be files that the manifest lists.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgeprune.bundle.finding import find
from edgeprune.bundle.manifest import MANIFEST, Manifest
from edgeprune.bundle.onnx_data import external_files
from edgeprune.bundle.schema import File
from edgeprune.errors import BundleError

__all__ = ["Bundle", "check_file", "describe_files", "hash_file", "load", "read_manifest"]

MANIFEST_NBYTES = 16 << 20
"""far more than one has"""


@dataclass(frozen=True)
class Bundle:
    folder: Path
    manifest: Manifest

    def path(self, name: str) -> Path:
        """The path of one of the bundle's files. Raises BundleError when the bundle has no such file."""
        if name not in self.manifest.files:
            raise BundleError(f"{self.folder} has no file {name}; it has {', '.join(sorted(self.manifest.files))}")
        return self.folder / name

    def graph(self, name: str) -> Path:
        """The path of a graph, by its name. Raises BundleError when the bundle has no such graph."""
        if name not in self.manifest.graphs:
            raise BundleError(f"{self.folder} has no graph {name}; it has {', '.join(self.manifest.graphs)}")
        return self.path(self.manifest.graphs[name].file)

    @property
    def baselines(self) -> dict[str, Path]:
        """Name -> graph of what the bundle brings to be measured against."""
        return {name: self.folder / file for name, file in sorted(self.manifest.baselines.items())}


def load(folder: str | Path) -> Bundle:
    """The bundle in a folder, or of a name that `find` knows, with the size and sha256 of every file checked.

    Raises BundleError when the folder is no bundle, a file is missing or changed, or a name leaves the folder.
    """
    folder = find(folder)
    try:
        text = read_manifest(folder)
    except (OSError, ValueError) as error:
        why = f"its {MANIFEST} {error}" if isinstance(error, _Unreadable) else f"it has no readable {MANIFEST}"
        raise BundleError(f"{folder} is not a bundle: {why}; make one with `edgeprune export`") from None
    try:
        manifest = Manifest.from_json(text)
        for name, expected in manifest.files.items():
            check_file(folder, name, expected)
        for name, graph in manifest.graphs.items():
            if graph.file not in manifest.files:
                raise BundleError(f"{MANIFEST} lists no {graph.file}, the graph {name}; export the bundle again")
            _check_data(folder, graph.file, manifest)
    except BundleError as error:
        raise BundleError(f"{folder}: {error}") from None
    return Bundle(folder, manifest)


def read_manifest(folder: Path) -> str:
    """The text of a folder's manifest. Raises OSError, or ValueError when it is no file, too long or not UTF-8.

    A pipe would be waited for, and a device never ends: only a file is read, and only so far.
    """
    descriptor = os.open(folder / MANIFEST, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _Unreadable("is not a file")
        content = file.read(MANIFEST_NBYTES + 1)
    if len(content) > MANIFEST_NBYTES:
        raise _Unreadable(f"is longer than {MANIFEST_NBYTES >> 20} MiB")
    return content.decode("utf-8")


def describe_files(folder: Path) -> dict[str, File]:
    """Size and sha256 of every file below the folder, except the manifest."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {name: File((folder / name).stat().st_size, hash_file(folder / name)) for name in names if name != MANIFEST}


def hash_file(path: Path, nbytes: int | None = None) -> str:
    """The sha256 of a file, or of its first bytes."""
    digest, left = hashlib.sha256(), float("inf") if nbytes is None else nbytes
    with path.open("rb") as file:
        while block := file.read(int(min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()


class _Unreadable(ValueError):
    """What is wrong with a manifest before it is JSON."""


def check_file(folder: Path, name: str, expected: File) -> None:
    """Raises BundleError when a file that a manifest lists is not there, has changed, or lies elsewhere."""
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or "\\" in name or ":" in name:
        raise BundleError(f"{MANIFEST} names {name!r}, which leaves the bundle; do not use it")
    path = folder / name
    if not os.path.isfile(path):
        raise BundleError(f"{name} is missing; copy the whole bundle")
    try:
        size = path.stat().st_size
        if size != expected.size:
            raise BundleError(f"{name} has {size} bytes, {MANIFEST} says {expected.size}; copy the bundle again")
        if hash_file(path, expected.size) != expected.sha256:
            raise BundleError(f"{name} has changed since the export (sha256 differs); copy the bundle again")
    except OSError as error:
        raise BundleError(f"{name} cannot be read: {error.strerror}; copy the bundle again") from None


def _check_data(folder: Path, name: str, manifest: Manifest) -> None:
    """The weights that a graph keeps in other files are those of the bundle."""
    try:
        needed = external_files(folder / name)
    except ValueError as error:
        raise BundleError(f"{name} is not an ONNX graph ({error}); export the bundle again") from None
    for file in sorted(needed):
        beside = (PurePosixPath(name).parent / file).as_posix()
        if beside not in manifest.files:
            raise BundleError(f"{name} reads {file!r:.100}, which {MANIFEST} does not list; do not use it")
