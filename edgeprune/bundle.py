"""The folder that an export leaves: its files, its manifest, and how both are written and read (no torch).

    out/
      manifest.json             what the bundle is, and the size and sha256 of every other file
      encoder.onnx (+ .data)    the pruned encoder
      encoder.<target>.plan     an engine, where one was built: the builder's bytes and nothing else
      baseline.<name>.onnx      what it is measured against (unpruned, naive, pool, matmul); sharing encoder.onnx.data
      reference.safetensors     probe inputs and the outputs of the independent reference
      preprocessor_config.json  the image processor, as Hugging Face writes it
      compare.py, probes.json   parity in Polygraphy: what `polygraphy run` takes the probes and the comparison from
      build.sh, README.md       the recipe and the three commands for the device

`manifest.json` MUST be a JSON object with the fields of `Manifest` below; it MAY hold others, which are ignored. Its
`schema_version` is MAJOR.MINOR: a reader refuses a MAJOR it does not know. File names are relative, with `/`, and
stay inside the folder.

Writing is atomic: everything goes to a hidden folder beside the output, which takes its name at the very end. A
failure leaves nothing, not even the parent folders that were made for it. An engine comes later (`add_engine`): its
plan takes its name, then a manifest that lists it takes the place of the old one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import secrets
import shutil
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from edgeprune.errors import BundleError

__all__ = [
    "MANIFEST",
    "SCHEMA_VERSION",
    "Bundle",
    "Engine",
    "File",
    "Manifest",
    "Model",
    "TensorSpec",
    "add_engine",
    "check_output",
    "describe_files",
    "load",
    "writing",
]

SCHEMA_VERSION = "1.0"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of the graph; a dimension is an int, or "batch" under --dynamic-batch."""

    shape: tuple[int | str, ...]
    dtype: str


@dataclass(frozen=True)
class File:
    size: int
    """bytes"""
    sha256: str


@dataclass(frozen=True)
class Model:
    id: str
    """the Hugging Face id or the folder's name"""
    revision: str
    """commit on the hub; `local` for a folder"""
    family: str
    """file name in edgeprune/encoders"""
    layer: int
    """layers of the encoder that are in the graph, up to and including the feature layer"""
    features: str
    """what of transformers' output they give: hidden_states[layer], or last_hidden_state, behind a final norm if any"""


@dataclass(frozen=True)
class Engine:
    """A plan of the bundle, what it fits, and how it was built."""

    plan: str
    """file name; its size and sha256 stand with those of the other files"""
    kind: str
    """tensorrt or tensorrt-rtx"""
    version: str
    """of the builder; a plan of TensorRT runs on this one only"""
    sm: tuple[int, ...]
    """compute capabilities without the dot, each of which can run it"""
    system: str
    """what built it, such as `Linux x86_64`"""
    flags: tuple[str, ...]
    """of the builder, by NVIDIA's names"""
    build_ms: int


@dataclass(frozen=True)
class Manifest:
    method: str
    options: Mapping[str, Any]
    keep: int
    """tokens kept of each image or tile, K; of all tiles where they are one pool of candidates"""
    grid: tuple[int, int]
    """patches (rows, columns); N is their product"""
    tiles: int
    """images, frames or tiles of one image per run, B"""
    model: Model
    dtype: str
    """float of tokens and, unless `--input uint8`, of pixel_values"""
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    preprocessing: Mapping[str, Any]
    target: str
    cost: Mapping[str, int]
    """multiply-adds of one run: formula, graph, unpruned_formula, and <baseline>_graph of each baseline"""
    deviations: tuple[str, ...]
    """where the graph departs from the official code, and why"""
    versions: Mapping[str, str]
    files: Mapping[str, File] = field(default_factory=dict)
    engines: Mapping[str, Engine] = field(default_factory=dict)
    """target -> what was built for it; a manifest from before the first build has no such field"""
    layout: str = ""
    """how a language model is to be given the tokens, where there is more to say than their order"""
    labels: tuple[str, ...] = ()
    """the classes of a detector, in the order of its logits, whose last one is "no object" """
    schema_version: str = SCHEMA_VERSION

    @property
    def budget(self) -> str:
        """What is kept of what, in words: of an image, or of all tiles of one."""
        keep, every, how = self.keep, self.patches, ""
        if self.tiled:
            how = f", one pool of {self.tiles} tiles" if self.pooled else f", {keep} of each of {self.tiles} tiles"
            keep, every = keep if self.pooled else keep * self.tiles, every * self.tiles
        return f"{keep} of {every} tokens ({keep / max(every, 1):.0%}){how}"

    @property
    def tiled(self) -> bool:
        """Whether the images of a run are tiles of one."""
        return "tiles" in self.preprocessing and self.tiles > 1

    @property
    def detects(self) -> bool:
        """Whether it gives logits and pred_boxes instead of tokens."""
        return "pred_boxes" in self.outputs

    @property
    def pooled(self) -> bool:
        """Whether these tiles are one pool of candidates."""
        return self.tiled and self.outputs["tokens"].shape[0] == 1

    @property
    def patches(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def dynamic_batch(self) -> bool:
        return any(isinstance(size, str) for tensor in self.inputs.values() for size in tensor.shape)

    def to_json(self) -> str:
        given = dataclasses.asdict(self)
        return json_text(given if self.engines else {name: value for name, value in given.items() if name != "engines"})

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Raises BundleError when the text is not a manifest of a version that this reader knows."""
        try:
            given = json.loads(text)
            version = given["schema_version"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise BundleError(
                f"{MANIFEST} must be a JSON object with a schema_version; it is not: copy the bundle again"
            ) from None
        if str(version).split(".")[0] != SCHEMA_VERSION.split(".")[0]:
            raise BundleError(
                f"{MANIFEST} has schema {version!r:.40}, this one reads {SCHEMA_VERSION}; upgrade edgeprune"
            )
        try:
            manifest: Manifest = _typed(cls, {"engines": {}, **given}, "")
        except ValueError as error:
            raise BundleError(f"{MANIFEST}: {error}; export the bundle again") from None
        return manifest


@dataclass(frozen=True)
class Bundle:
    folder: Path
    manifest: Manifest

    def path(self, name: str) -> Path:
        """The path of one of the bundle's files. Raises BundleError when the bundle has no such file."""
        if name not in self.manifest.files:
            raise BundleError(f"{self.folder} has no file {name}; it has {', '.join(sorted(self.manifest.files))}")
        return self.folder / name

    @property
    def baselines(self) -> dict[str, Path]:
        """Name -> graph of what the bundle brings to be measured against."""
        names = (name for name in self.manifest.files if name.startswith("baseline.") and name.endswith(".onnx"))
        return {name.split(".")[1]: self.folder / name for name in sorted(names)}


def load(folder: str | Path) -> Bundle:
    """The bundle in a folder, with the size and sha256 of every file checked.

    Raises BundleError when the folder is no bundle, a file is missing or changed, or a name leaves the folder.
    """
    folder = Path(folder)
    try:
        text = (folder / MANIFEST).read_text(encoding="utf-8")
    except (OSError, ValueError):
        raise BundleError(
            f"{folder} is not a bundle: it has no readable {MANIFEST}; make one with `edgeprune export`"
        ) from None
    try:
        manifest = Manifest.from_json(text)
        if "encoder.onnx" not in manifest.files:
            raise BundleError(f"{MANIFEST} lists no encoder.onnx; export the bundle again")
        _check_inside(folder, MANIFEST)
        for name, expected in manifest.files.items():
            _check_file(folder, name, expected)
        for name, engine in manifest.engines.items():
            if engine.plan not in manifest.files:
                raise BundleError(f"{MANIFEST} lists no {engine.plan}, the plan for {name}; export the bundle again")
    except BundleError as error:
        raise BundleError(f"{folder}: {error}") from None
    return Bundle(folder, manifest)


def check_output(folder: Path, force: bool = False) -> None:
    """Raises BundleError when a bundle may not be written there, as `writing` does."""
    place = Path(os.path.abspath(folder))
    if os.path.lexists(place):
        if not force:
            raise BundleError(f"{folder} exists; choose another --output or replace it with --force")
        if not _is_bundle(place):
            raise BundleError(
                f"{folder} exists and is not a bundle, so --force does not replace it; choose another --output"
            )


@contextlib.contextmanager
def writing(folder: Path, force: bool = False) -> Iterator[Path]:
    """A scratch folder that becomes `folder` when the block ends well, and vanishes when it does not.

    Raises BundleError when the folder exists (with force: when it is not a bundle), or when it cannot be written.
    """
    check_output(folder, force)
    place = Path(os.path.abspath(folder))  # `.` has neither a name nor a parent
    made = [parent for parent in place.parents if not os.path.lexists(parent)]
    scratch = place.parent / f".{place.name[:64]}.{secrets.token_hex(4)}"
    try:
        scratch.mkdir(parents=True)
        yield scratch
        _make_readable(scratch)
        _replace(place, scratch)
    except Exception as error:
        reason = _write_failure(error)
        if reason is None:
            raise
        raise BundleError(f"{folder} cannot be written: {reason}; choose another --output") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        with contextlib.suppress(OSError):  # the first that is not empty, which after a success is the nearest one
            for parent in made:
                parent.rmdir()


def add_engine(found: Bundle, target: str, engine: Engine, plan: bytes | memoryview) -> Manifest:
    """Write a plan into its bundle and list it; an engine of that target is replaced. Returns the new manifest.

    A failure leaves the bundle as it was. Raises BundleError when it cannot be written.
    """
    token = secrets.token_hex(4)
    place, listing = found.folder / engine.plan, found.folder / MANIFEST
    fresh, old, listed = (found.folder / f".{token}.{name}" for name in ("plan", "old", "json"))
    try:
        with fresh.open("xb") as file:
            file.write(plan)
        files = {**found.manifest.files, engine.plan: File(fresh.stat().st_size, _sha256(fresh))}
        engines = {**found.manifest.engines, target: engine}
        manifest = dataclasses.replace(found.manifest, files=dict(sorted(files.items())), engines=engines)
        listed.write_text(manifest.to_json(), encoding="utf-8")
        if os.path.lexists(place):
            place.rename(old)
        try:
            fresh.rename(place)
            listed.replace(listing)
        except BaseException:
            place.unlink(missing_ok=True)
            raise
    except BaseException as error:
        if os.path.lexists(old):
            old.replace(place)
        if not isinstance(error, OSError):
            raise
        failed = f"{engine.plan} cannot be written to {found.folder}: {error.strerror or error}"
        raise BundleError(f"{failed}; make room there, or copy the bundle elsewhere") from error
    finally:
        for path in (fresh, old, listed):
            path.unlink(missing_ok=True)
    return manifest


def json_text(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"


def describe_files(folder: Path) -> dict[str, File]:
    """Size and sha256 of every file below the folder, except the manifest."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {name: File((folder / name).stat().st_size, _sha256(folder / name)) for name in names if name != MANIFEST}


def _is_bundle(folder: Path) -> bool:
    """Whether an export wrote it, damaged or not; other programs have a manifest.json of their own."""
    try:
        given = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return not folder.is_symlink() and "schema_version" in given and "encoder.onnx" in given["files"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _replace(folder: Path, scratch: Path) -> None:
    if not os.path.lexists(folder):
        scratch.rename(folder)
        return
    old = scratch.with_name(f"{scratch.name}.old")
    try:
        folder.rename(old)
        scratch.rename(folder)
    except BaseException:
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


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
    found = re.search(r"I/O error: (.+) \(os error \d+\)", str(error))  # as safetensors' SafetensorError has it
    return found.group(1) if found else None


def _check_inside(folder: Path, name: str) -> None:
    """Raises BundleError unless the name is a file in the folder."""
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or "\\" in name or ":" in name or not name.isprintable():
        raise BundleError(f"{MANIFEST} names {name!r}, which leaves the bundle; do not use it")
    path = folder / name
    if not os.path.isfile(path):
        raise BundleError(f"{name} is missing; copy the whole bundle")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BundleError(f"{name} is a link out of the bundle; do not use it")


def _check_file(folder: Path, name: str, expected: File) -> None:
    _check_inside(folder, name)
    try:
        size = (folder / name).stat().st_size
        if size != expected.size:
            raise BundleError(f"{name} has {size} bytes, {MANIFEST} says {expected.size}; copy the bundle again")
        if _sha256(folder / name) != expected.sha256:
            raise BundleError(f"{name} has changed since the export (sha256 differs); copy the bundle again")
    except OSError as error:
        raise BundleError(f"{name} cannot be read: {error.strerror}; copy the bundle again") from None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


_KINDS = {int: "an integer", str: "a string"}


def _typed(hint: Any, given: Any, where: str) -> Any:
    """A JSON value as the type of a field: objects become dataclasses or dicts, arrays tuples; others pass if they fit.

    Fields that a dataclass does not know are ignored. Raises ValueError that names the field.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return given
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        table = _typed(Mapping[str, Any], given, where)
        dot = f"{where}." if where else ""
        for spec in dataclasses.fields(hint):
            if spec.name not in table:
                raise ValueError(f"it lacks {dot}{spec.name}")
        return hint(**{name: _typed(hints[name], table[name], dot + name) for name in hints})  # type: ignore[operator]
    if origin is Mapping:
        if not isinstance(given, dict):
            raise ValueError(f"{where} must be an object, got {given!r:.40}")
        return {name: _typed(args[1], value, f"{where}[{name!r}]") for name, value in given.items()}
    if origin is tuple:
        count = None if args[-1] is ... else len(args)
        if not isinstance(given, list) or len(given) != (count or len(given)):
            raise ValueError(f"{where} must be an array{f' of {count}' if count else ''}, got {given!r:.40}")
        return tuple(_typed(args[0], value, f"{where}[{at}]") for at, value in enumerate(given))
    kinds = args if origin is types.UnionType else (hint,)
    if not isinstance(given, kinds) or isinstance(given, bool):
        raise ValueError(f"{where} must be {' or '.join(_KINDS[kind] for kind in kinds)}, got {given!r:.40}")
    return given
