"""An assembled model: a bundle's encoder, the decoder behind it, and what lies between them, in one folder.

    model/
      manifest.json             kind "model", schema 1.0: the fields of `Assembled`, and a digest of them
      encoder/                  the bundle, as it was exported; an engine may be added to it on the device
      embedding.onnx            ids and the tokens of the images -> what the decoder reads
      decoder.onnx (+ .data)    the language model, by onnxruntime-genai's model builder
      tokenizer.json, chat_template.jinja, ...     what the checkpoint's processor says of text
      questions/                pictures and what torch answered about them, for `edgeprune verify --generate`

Every file is listed with its size and sha256 but those of the encoder, which its own manifest lists: here stand the
graphs of it that must be there.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeprune import bundle as bundles
from edgeprune import typed
from edgeprune.bundle import MANIFEST, Bundle, File, json_text
from edgeprune.bundle.manifest import digest, parsed
from edgeprune.bundle.reading import check_file, read_manifest
from edgeprune.errors import BundleError

__all__ = ["ENCODER", "KIND", "SCHEMA_VERSION", "Assembled", "Decoder", "Folder", "Prompt", "load_folder"]

KIND, SCHEMA_VERSION = "model", "1.0"
ENCODER = "encoder"
"""folder of the bundle"""
WEB = "transformersjs"
"""the engine that no Python opens; its folder is laid out as that library wants it, without the bundle"""


@dataclass(frozen=True)
class Decoder:
    """The language model, as the builder wrote it."""

    architecture: str
    """as transformers calls it"""
    precision: str
    """float32, float16 or int4"""
    file: str
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    dtype: str
    """of inputs_embeds, logits and the cache: float32 or float16"""


@dataclass(frozen=True)
class Prompt:
    """What the ids of a prompt need beside the chat template."""

    image: int
    """id in whose places the tokens of an image go"""
    placeholder: int
    """id that the chat template writes for an image, once"""
    before: tuple[int, ...] = ()
    """ids that the processor writes in front of an image's tokens"""
    after: tuple[int, ...] = ()


@dataclass(frozen=True)
class Assembled:
    """The fields of manifest.json."""

    engine: str
    """genai, onnxruntime or transformersjs"""
    family: str
    """file name in edgeprune/encoders"""
    model: str
    """the Hugging Face id or the folder's name"""
    revision: str
    hidden_size: int
    """width of tokens and embeddings, D"""
    vocabulary: int
    keep: int
    """tokens of an image in the prompt: K, of tiles K of each, or K of their pool"""
    tiles: int
    """images, or tiles of one, per run of the encoder"""
    context_length: int
    """prompt and answer together, at most"""
    stop: tuple[int, ...]
    """ids behind which an answer ends"""
    prompt: Prompt
    decoder: Decoder
    encoder: Mapping[str, str]
    """file below encoder/ -> sha256, of the pruned graph and its weights"""
    versions: Mapping[str, str]
    embedding: str = "embedding.onnx"
    extras: tuple[str, ...] = ()
    """outputs of the encoder that go into deeper layers of the decoder, one after the other"""
    axes: int = 1
    """of positions: 0, 1, 2, ... over what is there, or (3) time, row and column, where a token keeps its place"""
    files: Mapping[str, File] = field(default_factory=dict)
    kind: str = KIND
    schema_version: str = SCHEMA_VERSION

    def to_json(self) -> str:
        given = dataclasses.asdict(self)
        return json_text({**given, "digest": digest(json.loads(json.dumps(given)))})

    @classmethod
    def from_json(cls, text: str) -> Assembled:
        """Raises BundleError when it is none of a version that this reader knows, or has changed."""
        given = parsed(text)
        if given.get("kind") != KIND:
            raise BundleError(f"{MANIFEST} must be of an assembled model; make one with `edgeprune assemble`")
        version = given["schema_version"]
        if not isinstance(version, str) or version.split(".")[0] != SCHEMA_VERSION.split(".")[0]:
            raise BundleError(
                f"{MANIFEST} has schema {version!r:.40}, this one reads {SCHEMA_VERSION}; upgrade edgeprune"
            )
        if given.pop("digest", None) != digest(given):
            raise BundleError(f"{MANIFEST} has changed since it was assembled (digest differs); copy the folder again")
        try:
            made: Assembled = typed.read(cls, given, typed.JSON)
            for name in ("hidden_size", "vocabulary", "keep", "tiles", "context_length"):
                if getattr(made, name) < 1:
                    raise ValueError(f"{name} must be above 0, got {getattr(made, name)}")
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{MANIFEST}: {error}; assemble it again") from None
        return made


@dataclass(frozen=True)
class Folder:
    """An assembled model whose files were checked."""

    path: Path
    manifest: Assembled
    bundle: Bundle

    def file(self, name: str) -> Path:
        """Raises BundleError when it has no such file."""
        if name not in self.manifest.files:
            raise BundleError(f"{self.path} has no file {name}; assemble it again")
        return self.path / name

    def read_json(self, name: str) -> Any:
        try:
            return json.loads(self.file(name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise BundleError(f"{self.path / name} must be readable JSON: {error}; assemble it again") from None


def load_folder(path: str | Path) -> Folder:
    """The assembled model in a folder, with the size and sha256 of every file checked, those of the encoder as well.

    Raises BundleError when the folder is none, a file is missing or changed, or the encoder is another one.
    """
    path = Path(path)
    try:
        text = read_manifest(path)
    except (OSError, ValueError):
        raise BundleError(
            f"{path} is not an assembled model: it has no readable {MANIFEST}; make one with `edgeprune assemble`"
        ) from None
    try:
        manifest = Assembled.from_json(text)
        for name, expected in manifest.files.items():
            check_file(path, name, expected)
        if manifest.engine == WEB:
            raise BundleError(
                f"{path} is for transformers.js, in a browser or node; run `python -m http.server` in it "
                "(docs/browser.md)"
            )
        bundle = bundles.load(path / ENCODER)
        for name, sha256 in manifest.encoder.items():
            if name not in bundle.manifest.files or bundle.manifest.files[name].sha256 != sha256:
                raise BundleError(f"{ENCODER}/{name} is not what it was assembled with; assemble it again")
        for name in (manifest.embedding, manifest.decoder.file):
            if name not in manifest.files:
                raise BundleError(f"{MANIFEST} lists no {name}; assemble it again")
    except BundleError as error:
        said = str(error)
        raise BundleError(said if said.startswith(str(path)) else f"{path}: {said}") from None
    return Folder(path, manifest, bundle)
