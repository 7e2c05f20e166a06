"""An engine is added to a bundle that lies there: one at a time, and whole at every moment.

    1  a manifest without the engine of that target takes the place of the old one     nothing lists its plan now
    2  the plan takes its name
    3  a manifest that lists it takes its place

Killed between any two of these, the bundle loads; at worst without an engine that it had, whose plan is then built
again with --force. A failure that is noticed puts everything back.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
from pathlib import Path

from edgeprune.bundle import places
from edgeprune.bundle.manifest import MANIFEST, Manifest
from edgeprune.bundle.reading import Bundle, hash_file, read_manifest
from edgeprune.bundle.schema import File, Plan
from edgeprune.errors import BundleError

__all__ = ["add_engine"]

LEFTOVER = ".engine-"
"""how the names begin of what is written on the way; under the lock, any that is there is of a build that was killed"""


def add_engine(bundle: Bundle, target: str, engine: Plan, plan: bytes | memoryview) -> Manifest:
    """Write a plan into its bundle and list it; an engine of that target is replaced. Returns the new manifest.

    Waits for others that do the same; what they added is kept. A failure leaves the bundle as it was.

    Raises BundleError when it cannot be written, or when the folder holds another bundle by now.
    """
    try:
        with places.locked(bundle.folder):
            for path in bundle.folder.glob(f"{LEFTOVER}*"):
                path.unlink(missing_ok=True)
            return _add(bundle.folder, _current(bundle), target, engine, plan)
    except OSError as error:
        failed = f"{engine.plan} cannot be written to {bundle.folder}: {error.strerror or error}"
        raise BundleError(f"{failed}; make room there, or copy the bundle elsewhere") from error


def _current(bundle: Bundle) -> Manifest:
    """The manifest as it is by now. Raises BundleError unless it lists the graph that the plan was built of."""
    try:
        current = Manifest.from_json(read_manifest(bundle.folder))
    except (OSError, ValueError):
        current = None
    built = bundle.manifest.files[bundle.manifest.encoder.file]
    if current is None or current.files.get(current.encoder.file) != built:
        raise BundleError(f"{bundle.folder} has changed while the engine was built; build it again")
    return current


def _add(folder: Path, before: Manifest, target: str, engine: Plan, plan: bytes | memoryview) -> Manifest:
    """Everything is written beside its place first; what follows is only renamed."""
    place, listing, token = folder / engine.plan, folder / MANIFEST, secrets.token_hex(4)
    fresh, old, was, without, listed = (folder / f"{LEFTOVER}{token}.{n}" for n in ("plan", "old", "was", "cut", "new"))
    try:
        _write(fresh, plan)
        entry = File(fresh.stat().st_size, hash_file(fresh))
        fewer = {name: one for name, one in before.engines.items() if name != target}
        after = _listing(before, {**before.engines, target: engine}, {engine.plan: entry})
        _write(was, listing.read_bytes())
        _write(without, _listing(before, fewer, {engine.plan: None}).to_json().encode())
        _write(listed, after.to_json().encode())
        there = os.path.lexists(place)
        try:
            if there:
                without.replace(listing)
                place.rename(old)
            fresh.rename(place)
            places.sync_name(place)
            listed.replace(listing)
            places.sync_name(listing)
        except BaseException:
            if os.path.lexists(old):
                old.replace(place)
            elif not there:
                place.unlink(missing_ok=True)
            was.replace(listing)
            raise
    finally:
        for path in (fresh, old, was, without, listed):
            path.unlink(missing_ok=True)
    return after


def _write(path: Path, content: bytes | memoryview) -> None:
    with path.open("xb") as file:
        file.write(content)
    places.sync(path)


def _listing(manifest: Manifest, engines: dict[str, Plan], files: dict[str, File | None]) -> Manifest:
    merged = {**manifest.files, **files}
    listed = {name: file for name, file in sorted(merged.items()) if file is not None}
    return dataclasses.replace(manifest, files=listed, engines=engines)
