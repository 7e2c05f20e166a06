"""A bundle and the rest of its model become one folder that an engine opens: read, build, write, ask torch, compare."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

import edgeprune
from edgeprune.bundle import MANIFEST, Bundle, describe_files, writing
from edgeprune.checkpoint import Files, find, read_config
from edgeprune.errors import BundleError, ModelError, ParityError
from edgeprune.export.assemble import qwen
from edgeprune.export.assemble.answers import ask_torch, questions_of
from edgeprune.export.assemble.decoder import FILE, Causal, build, causal_of, embedding_of, write_causal
from edgeprune.export.assemble.library import place_library
from edgeprune.export.assemble.parts import Parts
from edgeprune.export.assemble.request import MODEL, Request, check, output_of
from edgeprune.export.assemble.texts import CUT, Texts, load_texts
from edgeprune.integrations.transformers import BREAKS
from edgeprune.runtime.generate.decoder import DEEPER
from edgeprune.runtime.generate.folder import ENCODER, Assembled, Decoder
from edgeprune.runtime.generate.genai import PACKAGE
from edgeprune.runtime.generate.verify import GenerateReport, verify_generate

__all__ = ["STEPS", "Assembly", "assemble"]

STEPS = ("read the checkpoint", "build the decoder", "write the model", "ask torch", "compare the answers")
HERE = ("genai", "onnxruntime")
"""engines that this machine runs from Python"""
MODULES = {"genai": "genai", "onnxruntime": "ort", "transformersjs": "transformersjs"}
"""engine -> its file here: `check(manifest, bundle)`, `write(folder, parts) -> manifest`"""
TOOLS = ("onnxruntime", "torch", "transformers", "tokenizers")


@dataclass(frozen=True)
class Assembly:
    folder: Path
    manifest: Assembled
    report: GenerateReport | None = None
    """what the engine says here beside torch; None where it was not asked"""


def assemble(request: Request, step: Callable[[str], None] = lambda name: None) -> Assembly:
    """Write the folder.

    step: called with each of STEPS as it begins

    Raises RequestError (and its kinds) when the request cannot be met, EdgepruneError when the builder fails. A
    failure leaves nothing, and an assembled model that is there as it was.
    """
    bundle, output = check(request), output_of(request)
    step(STEPS[0])
    files = find(request.model, request.revision)
    config = _config(files)
    check_prompt(bundle, files, config)
    check_fits(bundle, files, config)
    of = qwen.causal_of if config.model_type in qwen.MODEL_TYPES else causal_of
    causal, texts = of(files, config), load_texts(files, config)
    asked = questions_of(request.questions, files.id) if request.answers else []
    engine: ModuleType = importlib.import_module(f"edgeprune.export.assemble.{MODULES[request.engine]}")
    manifest = _manifest(request, bundle, files, causal, texts)
    engine.check(manifest, bundle)

    with writing(output, request.force, MODEL) as folder, tempfile.TemporaryDirectory(dir=folder) as scratch:
        step(STEPS[1])
        alone, built = Path(scratch) / "alone", Path(scratch) / "built"
        alone.mkdir()
        write_causal(files, causal, alone)
        texts.tokenizer.save_pretrained(alone)
        genai_config = build(alone, built, request.decoder_precision)
        manifest = _with_decoder(manifest, genai_config, causal, request.decoder_precision)

        step(STEPS[2])
        texts.write(folder, files)
        table = embedding_of(files, causal)
        manifest = engine.write(folder, Parts(bundle, texts, causal, built, genai_config, table, manifest))
        del table
        if request.node_modules is not None:
            place_library(folder, request.node_modules)
        if request.answers:
            step(STEPS[3])
            ask_torch(folder, files, bundle, texts, asked)
        manifest = write_manifest(folder, manifest, skip=Path(scratch).name)
        report = None
        if request.answers and request.engine in HERE:
            step(STEPS[4])
            report = verify_generate(folder, device="cpu")
            if not report.passed:
                raise ParityError(f"{request.engine} does not say what torch says: {report.worst}")
    return Assembly(output, manifest, report)


def check_fits(bundle: Bundle, files: Files, config: Any) -> None:
    """Raises BundleError when the checkpoint is not the one whose encoder the bundle is."""
    from edgeprune.encoders import family_of

    own, family = bundle.manifest.model, family_of(config.to_dict(), files.id).__name__.rpartition(".")[2]
    if family != own.family:
        raise BundleError(f"--model must be what the bundle was exported from, {own.family}; {files.id} is {family}")
    width, given = config.get_text_config().hidden_size, bundle.manifest.outputs["tokens"].shape[-1]
    if width != given:
        raise BundleError(
            f"tokens of the bundle must be as wide as the embeddings of {files.id} ({width}), they are {given}; "
            f"give the model that it was exported from ({own.id})"
        )


def check_prompt(bundle: Bundle, files: Files, config: Any) -> None:
    """Raises ModelError for a model without images in its prompt, and ModelError or BundleError where it has more of an
    image there than one run of placeholders."""
    if getattr(config, "image_token_id", None) is None:
        instead = "use edgeprune.integrations.pi0" if config.model_type == "pi0" else "give the whole model"
        raise ModelError(
            f"{files.id} must be a model of images and language that names its image token (image_token_id in "
            f"config.json), it is a {config.model_type}; {instead}"
        )
    tower = getattr(getattr(config, "vision_config", None), "model_type", "")
    if config.model_type in BREAKS or (config.model_type == "llava" and tower in BREAKS):
        raise ModelError(
            f"the prompt of {files.id} has a token behind each row of an image, so that which rows are kept changes it "
            "from image to image; run it in transformers (edgeprune.integrations)"
        )
    if config.model_type in CUT and (tiles := bundle.manifest.tiles) > 1:
        raise BundleError(
            f"the prompt of {files.id} has a tag for each tile of an image, and an engine takes an image as one run; "
            f"the bundle has {tiles} tiles: export it without --tiles, or run it in transformers "
            "(edgeprune.integrations)"
        )


def write_manifest(folder: Path, manifest: Assembled, skip: str = "") -> Assembled:
    """With every file but those of the encoder, which has its own manifest."""
    apart = tuple(f"{name}/" for name in (ENCODER, skip) if name)
    listed = {name: file for name, file in describe_files(folder).items() if not name.startswith(apart)}
    manifest = replace(manifest, files=listed)
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def _config(files: Files) -> Any:
    from transformers import AutoConfig

    read_config(files)
    try:
        loader: Any = AutoConfig
        return loader.from_pretrained(files.locate("config.json").parent)
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ModelError(f"{files.id} must be a model that transformers reads: {reason}") from None


def _manifest(request: Request, bundle: Bundle, files: Files, causal: Causal, texts: Texts) -> Assembled:
    """What is known before the decoder is built."""
    own = bundle.manifest
    graph = own.encoder.file
    pinned = {name: own.files[name].sha256 for name in (graph, f"{graph}.data") if name in own.files}
    text = causal.text
    return Assembled(
        engine=request.engine,
        family=own.model.family,
        model=files.id,
        revision=files.revision,
        hidden_size=causal.width,
        vocabulary=int(text["vocab_size"]),
        keep=own.keep * (own.tiles if own.tiled and not own.pooled else 1),
        tiles=own.tiles,
        context_length=int(text["max_position_embeddings"]),
        stop=texts.stop,
        prompt=texts.prompt(),
        decoder=Decoder(causal.architecture, request.decoder_precision, FILE, 0, 0, 0, 0, "float32"),
        encoder=pinned,
        versions=_versions(),
        extras=tuple(name for name in own.outputs if name.startswith(DEEPER)),
        axes=3 if "positions" in own.outputs else 1,
    )


def _with_decoder(manifest: Assembled, genai_config: dict[str, Any], causal: Causal, precision: str) -> Assembled:
    model = genai_config["model"]
    built = model["decoder"]
    decoder = Decoder(
        architecture=causal.architecture,
        precision=precision,
        file=FILE,
        layers=built["num_hidden_layers"],
        heads=built["num_attention_heads"],
        kv_heads=built["num_key_value_heads"],
        head_size=built["head_size"],
        dtype="float16" if precision == "float16" else "float32",
    )
    return replace(manifest, decoder=decoder, context_length=int(model["context_length"]))


def _versions() -> dict[str, str]:
    versions = {"edgeprune": edgeprune.__version__}
    for name in (PACKAGE, *TOOLS):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
