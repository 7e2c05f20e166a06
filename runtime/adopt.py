"""An engine that trtexec built becomes one of its bundle: noted, opened, listed.

`build.sh` leaves encoder.<target>.plan and, beside it, encoder.<target>.plan.json:

    release, gpu, capability, system    what trtexec and the system say of the board: "10.3.0", "Orin", "8.7",
                                        "Linux aarch64"
    flags, seconds                      how trtexec built it, and in which time
    files                               name -> sha256 of the plan and of the graph's files, at that time

With such a note an engine is taken in by whatever wants to run it; without one when it is asked for. Either way it is
opened first, so that what is listed runs here and has the tensors of the bundle.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune import bundle as bundles
from edgeprune import typed
from edgeprune.bundle import Bundle, File, Plan
from edgeprune.bundle.reading import hash_file
from edgeprune.errors import EdgepruneError, RequestError
from edgeprune.runtime.backends import plan as plans
from edgeprune.runtime.backends.plan_session import open_engine
from edgeprune.runtime.runner import check_tensors

if TYPE_CHECKING:
    from edgeprune.targets import Target

__all__ = ["Note", "adopt", "note_of", "take_in"]

NAMES = {
    "--fp16": "FP16",
    "--stronglyTyped": "STRONGLY_TYPED",
    "--noTF32": "NO_TF32",
    "--profilingVerbosity=detailed": "PROFILING_DETAILED",
}
"""flag of trtexec -> the builder's name of it"""


@dataclass(frozen=True)
class Note:
    """What build.sh left beside a plan."""

    release: str
    gpu: str
    capability: str
    system: str
    flags: tuple[str, ...]
    seconds: int
    files: Mapping[str, str]


def note_of(plan: Path) -> Note | None:
    """The note beside a plan; None without one, or with one that is not of this plan."""
    try:
        given = json.loads(plan.with_name(f"{plan.name}.json").read_text(encoding="utf-8"))
        note: Note = typed.read(Note, given, typed.JSON)
        return note if note.files.get(plan.name) == hash_file(plan) else None
    except (OSError, ValueError):
        return None


def adopt(folder: Path, plan: Path, target: str | None = None, force: bool = False) -> tuple[Plan, File]:
    """List an engine in the manifest of its bundle, as encoder.<target>.plan, once it has been opened here.

    plan: its file, anywhere; a name alone may be one in the bundle
    target: name or path of a .toml; None for the one in the plan's name, else the bundle's
    force: replace the engine that is there

    Returns the entries of the manifest. Raises RequestError (and its kinds) when it is none of this bundle, none that
    this machine can open, or cannot be written; the bundle is then as it was.
    """
    from edgeprune import targets

    bundle = bundles.load(folder)
    path = plan if plan.is_file() else bundle.folder / plan
    if not path.is_file():
        raise RequestError(f"--adopt must be the file of an engine; there is no {plan}")
    named = target or _named(path) or bundle.manifest.target
    if target is None and named not in targets.names():
        raise RequestError(f"{path} is for the target {named}, a file of yours; give it as --target {named}.toml")
    device = targets.load(named)
    return _adopt(bundle, path, device, note_of(path), force)


def take_in(bundle: Bundle) -> tuple[Bundle, dict[str, str]]:
    """Adopt what `build.sh` left in a bundle and this machine can run.

    Returns the bundle with it, and the plans that lie there all the same -> why they stay unlisted.
    """
    left: dict[str, str] = {}
    if not (loose := plans.loose(bundle)):
        return bundle, left
    from edgeprune import targets  # needs tomli on Python 3.10, which a device may do without until here

    for path in loose:
        note, name = note_of(path), _named(path)
        if note is None or name not in targets.names():
            left[path.name] = (
                f"{path.name} is not in the manifest, and nothing that fits beside it says what it was built of; "
                f"take it in with `edgeprune build {bundle.folder} --adopt {path}`"
            )
            continue
        try:
            _adopt(bundle, path, targets.load(name), note)
        except EdgepruneError as error:
            left[path.name] = str(error)
    return bundles.load(bundle.folder) if len(left) < len(loose) else bundle, left


def _adopt(bundle: Bundle, path: Path, device: Target, note: Note | None, force: bool = False) -> tuple[Plan, File]:
    name, folder = f"encoder.{device.name}.plan", bundle.folder
    if device.engine.kind == "onnxruntime" or device.gpu is None:
        raise RequestError(f"{device.name} runs its graph with ONNX Runtime and has no engine; give another --target")
    if device.name in bundle.manifest.engines and not force:
        raise RequestError(f"{folder} lists an engine for {device.name}; replace it with --force")
    engine = _engine(name, device, note)
    if note is not None:
        _check_graph(bundle, path, note)
    have = plans.here([engine.kind])
    guess = engine if note else replace(engine, version=have.versions.get(engine.kind, engine.version))
    if misfit := plans.misfit_of(device.name, guess, have, bundle):
        remedy = "do it on the board that built it" if have.gpu.sm is None else misfit.remedy
        raise RequestError(f"{path} must be opened to be taken in, but it {misfit.reason}; {remedy}")
    version = have.versions[engine.kind]
    if not device.engine.accepts(version):
        raise RequestError(
            f"{device.name} needs {engine.kind} {device.engine.version}, here is {version}; choose another --target"
        )
    assert have.gpu.sm is not None  # else it were a misfit
    engine = replace(engine, version=version, sm=(have.gpu.sm,))
    content = path.read_bytes()
    session = open_engine(engine, content, have)
    try:
        check_tensors(bundle.folder, bundle.manifest, session)
    finally:
        session.close()
    manifest = bundles.add_engine(bundle, device.name, engine, content)
    return engine, manifest.files[name]


def _named(path: Path) -> str | None:
    """The target in the name of a plan."""
    name = path.name
    return name[len("encoder.") : -len(".plan")] if name.startswith("encoder.") and name.endswith(".plan") else None


def _engine(name: str, device: Target, note: Note | None) -> Plan:
    """By the note; without one, of this machine, for the GPUs of the target, in its types."""
    assert device.gpu is not None
    kind, weak = device.engine.kind, device.engine.typing == "weak_fp16"
    if note is None:
        system = f"{platform.system()} {platform.machine()}"
        return Plan(name, kind, device.engine.version, device.gpu.sm, system, ("FP16",) if weak else (), 0)
    sm = int(note.capability.replace(".", "")) if note.capability.replace(".", "").isdigit() else 0
    flags = tuple(NAMES.get(flag, flag) for flag in note.flags)
    return Plan(name, kind, note.release, (sm,), note.system, flags, 1000 * note.seconds)


def _check_graph(bundle: Bundle, path: Path, note: Note) -> None:
    """Raises RequestError when it was built of another graph, which its tensors might not show."""
    have = bundle.manifest.files
    other = [name for name, sha256 in note.files.items() if name in have and have[name].sha256 != sha256]
    if bundle.manifest.encoder.file not in note.files or other:
        name = other[0] if other else bundle.manifest.encoder.file
        raise RequestError(f"{path} was built of another {name} than the bundle's; build it again with `bash build.sh`")
