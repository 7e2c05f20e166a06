"""How a bundle comes to its place: made in a hidden folder beside it, which takes the name at the very end."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeprune.bundle import places
from edgeprune.bundle.reading import read_manifest
from edgeprune.errors import BundleError

__all__ = ["BUNDLE", "Kind", "check_output", "writing"]


@dataclass(frozen=True)
class Kind:
    """What is written, and what --force may replace: the same kind, and nothing else."""

    name: str
    made: Callable[[Path], bool]
    """whether a folder is one, damaged or not"""


BUNDLE = Kind("a bundle", lambda folder: _is_bundle(folder))


def check_output(folder: Path, force: bool = False, kind: Kind = BUNDLE) -> None:
    """Raises BundleError when none may be written there, as `writing` does."""
    place = Path(os.path.abspath(folder))
    if os.path.lexists(place):
        if not force:
            raise BundleError(f"{folder} exists; choose another --output or replace it with --force")
        if not kind.made(place):
            raise BundleError(
                f"{folder} exists and is not {kind.name}, so --force does not replace it; choose another --output"
            )


@contextlib.contextmanager
def writing(folder: Path, force: bool = False, kind: Kind = BUNDLE) -> Iterator[Path]:
    """A scratch folder that becomes `folder` when the block ends well, and vanishes when it does not.

    What appears at `folder` in the meantime is not replaced, with force only if it is of the same kind.

    Raises BundleError when the folder exists (with force: when it is of another kind), or when it cannot be written.
    """
    check_output(folder, force, kind)
    place = Path(os.path.abspath(folder))  # `.` has neither a name nor a parent
    made = [parent for parent in place.parents if not os.path.lexists(parent)]
    scratch, lock = place, None
    try:
        if made:
            place.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):  # a folder that may be written to but not be listed
            sweep(place)
        scratch, lock = _scratch(place)
        yield scratch
        _make_readable(scratch)
        places.sync(scratch)
        _take(folder, place, scratch, force, kind)
        places.sync_name(place)
    except Exception as error:
        reason = _write_failure(error)
        if reason is None:
            raise
        raise BundleError(f"{folder} cannot be written: {reason}; choose another --output") from error
    finally:
        if scratch != place:
            shutil.rmtree(scratch, ignore_errors=True)
        if lock is not None:
            os.close(lock)
        with contextlib.suppress(OSError):  # the first that is not empty, which after a success is the nearest one
            for parent in made:
                parent.rmdir()


def sweep(place: Path) -> None:
    """Remove what killed exports to this place left beside it, and put a bundle back that one of them had set aside."""
    pattern = re.compile(rf"\.{re.escape(place.name[:64])}\.[0-9a-f]{{8}}(\.old)?")
    for path in sorted(place.parent.iterdir()):
        if not (named := pattern.fullmatch(path.name)) or path.is_symlink() or not path.is_dir():
            continue
        if not places.is_abandoned(path):
            continue
        if named.group(1) and not os.path.lexists(place):
            with contextlib.suppress(OSError):
                places.claim(path, place)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _scratch(place: Path) -> tuple[Path, int | None]:
    """A new folder beside the place, taken by this process, so that nobody sweeps it."""
    while True:
        scratch = place.parent / f".{place.name[:64]}.{secrets.token_hex(4)}"
        scratch.mkdir()
        try:
            lock = places.lock(scratch)
        except FileNotFoundError:  # swept before it was taken
            continue
        if scratch.exists():
            return scratch, lock
        if lock is not None:
            os.close(lock)


def _take(folder: Path, place: Path, scratch: Path, force: bool, kind: Kind) -> None:
    """Under its name, or BundleError because of what is there by now."""
    try:
        places.claim(scratch, place)
        return
    except FileExistsError:
        check_output(folder, force, kind)
    places.swap(scratch, place)
    if not kind.made(scratch):  # it came between the look and the exchange
        places.swap(scratch, place)
        check_output(folder, force, kind)


def _is_bundle(folder: Path) -> bool:
    """Whether an export wrote it, damaged or not; other programs have a manifest.json of their own."""
    try:
        given = json.loads(read_manifest(folder))
        graphs = given["graphs"] if "graphs" in given else given["files"]  # 1.x has no graphs
        ours = {"encoder", "encoder.onnx"}
        return not folder.is_symlink() and "schema_version" in given and not ours.isdisjoint(graphs)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _make_readable(folder: Path) -> None:
    """Who may read the folder, by the umask, may read its files: safetensors writes them for their owner alone."""
    readers = folder.stat().st_mode & 0o444
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(path.stat().st_mode | readers)


def _write_failure(error: Exception) -> str | None:
    """What the system said, if it is why something could not be written; what only reads raises errors of its own."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    said = re.search(r"I/O error: (.+) \(os error \d+\)", str(error))  # as safetensors' SafetensorError has it
    return said.group(1) if said else None
