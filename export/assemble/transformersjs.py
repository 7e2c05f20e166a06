"""The folder of transformers.js: what `from_pretrained` opens in a browser or in node, and a page that does so.

    onnx/vision_encoder.onnx         the bundle's graph; its `tokens` are called image_features there
    onnx/embed_tokens.onnx           ids -> float32 embeddings; transformers.js puts the image's tokens in their places
    onnx/decoder_model_merged.onnx   the builder's graph; its cache has a fixed width, and its ends are float32
    config.json, ...                 the checkpoint's, with what is said below
    index.html, page.*, worker.mjs   the page (runtime/web/); page.json is what it shows about the model
    node_modules/                    where asked for: transformers.js and ONNX Runtime's WebAssembly, three files

The processor there writes floor(H / patch_size) * floor(W / patch_size) + num_additional_image_tokens placeholders: one
patch as large as the image, and K - 1 more. Its chat template stands in tokenizer_config.json. The cache is made empty
from the decoder's own shapes, where a free dimension becomes 0: so the head's width must stand in them.

Source  huggingface/transformers.js@4.3 src/models/llava/, src/models/modeling_utils.js, src/utils/model-loader.js
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import onnx_ir as ir
from torch import Tensor

import edgeprune
from edgeprune import targets
from edgeprune.bundle import Bundle, json_text
from edgeprune.errors import BundleError, RequestError
from edgeprune.export.assemble.parts import Parts
from edgeprune.export.lint import lint, refuse
from edgeprune.export.storage import INLINE_NBYTES, SMALL_NBYTES, weights_nbytes
from edgeprune.runtime.generate.chat import PLAIN
from edgeprune.runtime.generate.folder import Assembled
from edgeprune.runtime.images.preprocess import Preprocessing

__all__ = [
    "check",
    "embedding",
    "fixed_cache",
    "float32_ends",
    "placeholders",
    "preprocessor",
    "save",
    "template",
    "write",
]

VISION, EMBEDDING, DECODER = "onnx/vision_encoder", "onnx/embed_tokens", "onnx/decoder_model_merged"
DTYPES = {"float32": "fp32", "float16": "fp16", "int4": "q4"}
"""precision of the decoder -> what transformers.js calls it"""
SUFFIXES = {"fp32": "", "fp16": "_fp16", "q4": "_q4"}
"""of the file's name; src/utils/dtypes.js"""
CHUNK_NBYTES = 1 << 30
"""of a file of weights: browsers hold one in a single buffer, of less than 2 GiB in some"""
TARGET = "web"
FAMILY, PROCESSOR = "llava", "LlavaProcessor"
WHY = {
    "llava_next": "it has no LLaVA-NeXT",
    "llava_onevision": "its processor does not count the tokens of LLaVA-OneVision",
    "internvl": "it has no InternVL",
    "video_llava": "it has no Video-LLaVA",
    "vipllava": "it has no VipLLaVA",
    "smolvlm": "its processor cuts images and writes a tag for each tile, which was not tried with fewer tokens",
    "qwen2_vl": "it counts the tokens of Qwen-VL from the image's grid, and their positions as well",
}
WHY |= dict.fromkeys(("qwen2_5_vl", "qwen3_vl"), WHY["qwen2_vl"])
CACHE_WIDTH = "kv_cache_dim"
"""how the builder calls the free width of the cache"""


def check(manifest: Assembled, bundle: Bundle) -> None:
    """Raises RequestError for a model that transformers.js cannot run with fewer tokens than its grid has, BundleError
    for an encoder that it, or ONNX Runtime on the web, does not take."""
    if manifest.family != FAMILY:
        why = WHY.get(manifest.family, "no such model was tried with it")
        raise RequestError(
            f"transformers.js takes K tokens of {FAMILY} alone, not of {manifest.family}: {why}; use another --engine"
        )
    own = bundle.manifest
    pixels, tokens = own.inputs.get("pixel_values"), own.outputs["tokens"]
    given = Preprocessing.from_json(own.preprocessing)
    rules = (
        (list(own.inputs) == ["pixel_values"], "take pixel_values alone", ", ".join(own.inputs)),
        (pixels is not None and pixels.dtype == "float32", "take float32 pixel_values", pixels and pixels.dtype),
        (tokens.dtype == "float32", "give float32 tokens, which transformers.js copies", tokens.dtype),
        (tokens.shape[0] == 1, "take one image at a time", f"{tokens.shape[0]}"),
        (given.square is None, "not make images square, which transformers.js does not", "a padded one"),
    )
    for holds, rule, got in rules:
        if not holds:
            raise BundleError(f"{bundle.folder} must {rule}, got {got}; export it with --target {TARGET}")
    target = targets.load(TARGET)
    refuse(lint(_encoder(bundle), target), target)


def write(folder: Path, parts: Parts) -> Assembled:
    manifest, bundle = parts.manifest, parts.bundle
    (folder / VISION).parent.mkdir()
    dtype = DTYPES[manifest.decoder.precision]
    decoder_file = f"{DECODER}{SUFFIXES[dtype]}.onnx"
    table = parts.table.float() if dtype == "fp32" else parts.table
    decoder = ir.load(parts.built / manifest.decoder.file)
    saved = {
        f"{VISION}.onnx": _features(_encoder(bundle)),
        f"{EMBEDDING}.onnx": embedding(table, parts.causal.embedding_scale),
        decoder_file: float32_ends(fixed_cache(decoder, manifest.decoder.head_size)),
    }
    chunks = {Path(name).name: save(model, folder / name) for name, model in saved.items()}
    names = dict.fromkeys((Path(VISION).name, Path(EMBEDDING).name), "fp32") | {Path(DECODER).name: dtype}
    large = {"use_external_data_format": chunks} if (chunks := {name: n for name, n in chunks.items() if n}) else {}
    _change(folder / "config.json", {"transformers.js_config": {"dtype": names, **large}})
    _change(folder / "generation_config.json", {"eos_token_id": list(manifest.stop)} if manifest.stop else {})
    _write_texts(folder, parts)
    _write_page(folder, bundle)
    return replace(
        manifest,
        encoder={},
        embedding=f"{EMBEDDING}.onnx",
        decoder=replace(manifest.decoder, file=decoder_file, dtype="float32"),
    )


def _encoder(bundle: Bundle) -> ir.Model:
    return ir.load(bundle.folder / bundle.manifest.encoder.file)


def _write_page(folder: Path, bundle: Bundle) -> None:
    """The page, and page.json."""
    for file in (resources.files("edgeprune.runtime") / "web").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    manifest = bundle.manifest
    shown = {"model": manifest.model.id, "method": manifest.method, "keep": manifest.keep, "grid": list(manifest.grid)}
    (folder / "page.json").write_text(json_text({**shown, "edgeprune": edgeprune.__version__}), encoding="utf-8")


def embedding(table: Tensor, scale: float) -> ir.Model:
    """input_ids [B, L] int64 -> inputs_embeds [B, L, D] float32.

    table: [V, D]; float32 and float16 keep their dtype. WebGPU looks float16 up only where the GPU computes it.
    scale: what its rows are multiplied by (Gemma)
    """
    import torch

    weights = _initializer(
        "embed_tokens.weight", table if table.dtype in (torch.float32, torch.float16) else table.float()
    )
    ids = ir.val("input_ids", ir.DataType.INT64, ["batch_size", "sequence_length"])
    nodes = [ir.node("Gather", [weights, ids], name="embed_tokens")]
    if weights.dtype != ir.DataType.FLOAT:
        nodes.append(ir.node("Cast", [nodes[-1].outputs[0]], {"to": int(ir.DataType.FLOAT)}, name="to_float32"))
    constants = [weights]
    if scale != 1:
        constants.append(_initializer("scale", torch.tensor(scale, dtype=torch.float32)))
        nodes.append(ir.node("Mul", [nodes[-1].outputs[0], constants[-1]], name="scaled"))
    made = nodes[-1].outputs[0]
    made.name, made.dtype = "inputs_embeds", ir.DataType.FLOAT
    made.shape = ir.Shape(["batch_size", "sequence_length", table.shape[1]])
    graph = ir.Graph(
        [ids], [made], nodes=nodes, initializers=constants, opset_imports={"": 18}, name="embed_tokens"
    )  # fmt: skip
    return ir.Model(graph, ir_version=10)


def fixed_cache(decoder: ir.Model, head_size: int) -> ir.Model:
    """Before   past_key_values.0.key [batch_size, 4, past_sequence_length, kv_cache_dim]      After   [..., 32]"""
    for value in (*decoder.graph.inputs, *decoder.graph.outputs):
        if value.shape is not None:
            value.shape = ir.Shape([head_size if str(size) == CACHE_WIDTH else size for size in value.shape])
    return decoder


def float32_ends(decoder: ir.Model) -> ir.Model:
    """Before   inputs_embeds float16 -> ... -> logits float16     After   float32 -> Cast -> ... -> Cast -> float32

    The cache stays as it is. A decoder of float32 stays as it is, too.
    """
    graph = decoder.graph
    for value in [value for value in graph.inputs if value.name == "inputs_embeds"]:
        if value.dtype == ir.DataType.FLOAT16:
            uses = list(value.uses())
            cast = ir.node("Cast", [value], {"to": int(ir.DataType.FLOAT16)}, name="embeds_to_float16")
            value.dtype = ir.DataType.FLOAT
            for node, at in uses:
                node.replace_input_with(at, cast.outputs[0])
            graph.insert_before(graph[0], cast)
    for at, value in enumerate(graph.outputs):
        if value.name == "logits" and value.dtype == ir.DataType.FLOAT16:
            cast = ir.node("Cast", [value], {"to": int(ir.DataType.FLOAT)}, name="logits_to_float32")
            value.name = "logits_float16"
            made = cast.outputs[0]
            made.name, made.dtype, made.shape = "logits", ir.DataType.FLOAT, value.shape
            graph.append(cast)
            graph.outputs[at] = made
    return decoder


def save(model: ir.Model, path: Path) -> int:
    """Write a graph; weights that are large go into <path>_data, <path>_data_1, ... Returns how many these are."""
    weights = [value for value in model.graph.initializers.values() if value.const_value is not None]
    if weights_nbytes(model) <= INLINE_NBYTES:
        ir.external_data.load_to_model(model)
        ir.save(model, path)
        return 0
    chunks = list(_chunks([value for value in weights if _nbytes(value) > SMALL_NBYTES]))
    for at, chunk in enumerate(chunks):
        name = f"{path.name}_data{f'_{at}' if at else ''}"
        tensors = [value.const_value for value in chunk if value.const_value is not None]
        written = ir.external_data.convert_tensors_to_external(tensors, path.parent, name)
        for value, tensor in zip(chunk, written, strict=True):
            value.const_value = tensor
    ir.save(model, path)
    return len(chunks)


def _chunks(weights: list[ir.Value]) -> Iterator[list[ir.Value]]:
    """As many in a row as stay below CHUNK_NBYTES; one that is larger is alone."""
    chunk: list[ir.Value] = []
    held = 0
    for value in weights:
        if chunk and held + _nbytes(value) > CHUNK_NBYTES:
            yield chunk
            chunk, held = [], 0
        chunk.append(value)
        held += _nbytes(value)
    yield chunk


def _nbytes(value: ir.Value) -> int:
    return 0 if value.const_value is None else value.const_value.nbytes


def _initializer(name: str, values: Tensor) -> ir.Value:
    tensor = ir.tensor(values.numpy(), name=name)
    return ir.Value(name=name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=ir.Shape(values.shape))


def _features(encoder: ir.Model) -> ir.Model:
    next(value for value in encoder.graph.outputs if value.name == "tokens").name = "image_features"
    return encoder


def _write_texts(folder: Path, parts: Parts) -> None:
    """Processor and tokenizer, as transformers.js reads them."""
    texts, keep = parts.texts, parts.manifest.keep
    given = Preprocessing.from_json(parts.bundle.manifest.preprocessing)
    (folder / "preprocessor_config.json").write_text(json_text(preprocessor(given)), encoding="utf-8")
    processor = {
        "processor_class": PROCESSOR,
        "image_token": texts.placeholder_text,
        **placeholders(given.size, keep),
    }
    (folder / "processor_config.json").write_text(json_text(processor), encoding="utf-8")
    own = {"chat_template": template(texts.template, texts.placeholder_text)}
    _change(folder / "tokenizer_config.json", {**own, "tokenizer_class": "PreTrainedTokenizer"})


def template(given: str, image: str) -> str:
    """A chat template that needs no more than messages; PLAIN takes the placeholder of an image from outside."""
    return f"{{% set image = {json.dumps(image)} %}}{given}" if given == PLAIN else given


def placeholders(size: tuple[int, int], keep: int) -> dict[str, int]:
    """What makes LlavaProcessor write `keep` of them for an image of that size.

    >>> placeholders((336, 336), 64)
    {'patch_size': 336, 'num_additional_image_tokens': 63}
    """
    height, width = size
    side = max(size)
    return {"patch_size": side, "num_additional_image_tokens": keep - (height // side) * (width // side)}


def preprocessor(given: Preprocessing) -> dict[str, Any]:
    """The steps, whatever the checkpoint's own file calls them."""
    config: dict[str, Any] = {
        "processor_class": PROCESSOR,
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": given.resize is not None,
        "do_center_crop": given.crop is not None,
        "do_rescale": True,
        "rescale_factor": given.rescale,
        "do_normalize": True,
        "image_mean": list(given.mean),
        "image_std": list(given.std),
    }
    if given.resize is not None:
        config |= {"size": dict(given.resize), "resample": given.resample}
    if given.crop is not None:
        config["crop_size"] = {"height": given.crop[0], "width": given.crop[1]}
    return config


def _change(path: Path, fields: dict[str, Any]) -> None:
    """Set fields of a JSON object, which need not be there."""
    given = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(json_text({**given, **fields}), encoding="utf-8")
