"""The language model of a checkpoint as a graph of its own, by onnxruntime-genai's model builder.

    checkpoint    language_model.model.layers.0...  or  model.language_model.layers.0...      beside the vision tower
    folder        model.layers.0...                 config.json of the text part, architectures: [LlamaForCausalLM]
    builder       inputs_embeds -> logits, with a cache; no embedding (exclude_embeds)

The builder knows no LLaVA, but the model inside: so that is written out first, one shard at a time, with the names that
transformers gives it when it is alone.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from edgeprune.checkpoint import Files, read_tensors, weights
from edgeprune.errors import EdgepruneError, MissingPackageError, ModelError

__all__ = ["BUILT", "FILE", "PRECISIONS", "Causal", "build", "causal_of", "embedding_of", "write_causal"]

PRECISIONS = {"float32": "fp32", "float16": "fp16", "int4": "int4"}
"""what the weights of the decoder become -> what the builder calls it"""
FILE = "decoder.onnx"
BUILT = (FILE, f"{FILE}.data")
"""what the builder writes"""
OPTIONS = {
    "exclude_embeds": "true",
    "prune_lm_head": "true",  # nobody asks for the logits of a prompt's words
    "windowed_kv_cache": "false",  # the cache of a window must be as large as the window, however short the prompt
    "hf_remote": "false",
    "hf_token": "false",
    "filename": FILE,
}
"""of the builder"""
PREFIXES = {
    "language_model.model.": "model.",
    "language_model.lm_head.": "lm_head.",
    "model.language_model.": "model.",
    "model.text_model.": "model.",
}
"""how the names begin inside a vision-language model -> how they begin alone; lm_head. is the same in both"""
ALONE = re.compile(r"(model\.(embed_tokens|layers|norm)\.|lm_head\.)")
"""names that are those of a model alone"""
ATTENTION = ("full_attention", "sliding_attention", "chunked_attention")
"""layer_types of a decoder with no other state than a cache of keys and values"""
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True)
class Causal:
    """The language model that stands alone."""

    architecture: str
    config: Mapping[str, Any]
    """its config.json"""
    shards: Mapping[str, tuple[str, str]]
    """its name of a tensor -> (the file that holds it, the name there)"""
    embedding_scale: float
    """what the rows of the embedding are multiplied by (Gemma)"""
    embedding: str = EMBEDDING
    """the tensor"""

    @property
    def text(self) -> Mapping[str, Any]:
        """What config.json says of the language model."""
        config: Mapping[str, Any] = self.config.get("text_config", self.config)
        return config

    @property
    def width(self) -> int:
        return int(self.text["hidden_size"])


def causal_of(files: Files, config: Any) -> Causal:
    """The language model of a checkpoint, from its config alone and the names of its tensors.

    config: of transformers, the whole one

    Raises ModelError when the builder has no such decoder, or a tensor is not there.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as NAMES

    text = config.get_text_config()
    if other := sorted({*(getattr(text, "layer_types", None) or ())} - {*ATTENTION}):
        raise ModelError(
            f"the language model must remember keys and values alone, that of {files.id} has layers of {other[0]} too, "
            "whose state the loop on ONNX Runtime does not keep, and with which onnxruntime-genai does not say what "
            "torch says; run it in transformers (edgeprune.integrations)"
        )
    architecture = NAMES.get(text.model_type, text.model_type)
    if (known := _known()) and architecture not in known:
        raise ModelError(
            f"the language model must be one that onnxruntime-genai's builder has ({', '.join(known)}), {files.id} has "
            f"{architecture}; give a model with one of these"
        )
    if getattr(text, "use_bidirectional_attention", None):
        raise ModelError(
            "the language model must attend backwards alone, as onnxruntime-genai's builder writes it; that of "
            f"{files.id} attends to its prompt both ways; run it in transformers (edgeprune.integrations)"
        )
    if "rope_type" not in (getattr(text, "rope_parameters", None) or {"rope_type": ""}):
        raise ModelError(
            f"onnxruntime-genai's builder reads one kind of rotary positions, {files.id} has several "
            f"({', '.join(text.rope_parameters)}), as transformers 5 writes them; give a model with one"
        )
    loader: Any = AutoModelForCausalLM
    with torch.device("meta"):
        alone = loader.from_config(text)
    own = set(alone.state_dict())
    shards = {_alone(name): (shard, name) for name, shard in weights(files).items() if _alone(name) in own}
    # The whole model ties its head as its own config says (InternVL), or it was saved without one.
    if tied := config.tie_word_embeddings or (text.tie_word_embeddings and HEAD not in shards):
        own.discard(HEAD)
        shards.pop(HEAD, None)
    if missing := sorted(own - set(shards)):
        raise ModelError(f"{files.id} has no tensor {missing[0]} of its language model; is the checkpoint whole?")
    scale = getattr(alone.get_input_embeddings(), "scalar_embed_scale", 1.0)
    fields = {**text.to_dict(), "architectures": [architecture], "tie_word_embeddings": bool(tied)}
    return Causal(architecture, {name: fields[name] for name in sorted(fields)}, shards, float(scale))


def write_causal(files: Files, causal: Causal, folder: Path) -> None:
    """The language model as a checkpoint of its own; its tokenizer is written by others. Holds one shard in memory."""
    (folder / "config.json").write_text(json.dumps(causal.config, indent=2, default=str), encoding="utf-8")
    names: dict[str, str] = {}
    nbytes = 0
    for at, shard in enumerate(sorted({shard for shard, _ in causal.shards.values()})):
        own = {name: there for name, (held, there) in causal.shards.items() if held == shard}
        read = read_tensors(files.locate(shard), sorted(own.values()))
        tensors = {name: read[there].contiguous() for name, there in own.items()}
        file = f"model-{at:05d}.safetensors"
        save_file(tensors, folder / file, {"format": "pt"})
        names |= dict.fromkeys(tensors, file)
        nbytes += sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": nbytes}, "weight_map": names}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def embedding_of(files: Files, causal: Causal) -> Tensor:
    """[V, D], as it is stored."""
    shard, name = causal.shards[causal.embedding]
    return read_tensors(files.locate(shard), [name])[name]


def build(folder: Path, output: Path, precision: str) -> dict[str, Any]:
    """Run the builder on a checkpoint of a language model. What it writes is a graph, its data and genai_config.json.

    precision: one of PRECISIONS. float16 is built as for CUDA: the graph is of GroupQueryAttention then, which the CPU
        has as well; the one for the CPU copies its cache with every token, and its mask fails behind the prompt (0.18)

    Returns genai_config.json. Raises MissingPackageError without onnxruntime-genai, EdgepruneError when the builder
    fails.
    """
    try:
        from onnxruntime_genai.models.builder import create_model, parse_extra_options
    except ImportError as error:
        raise MissingPackageError("onnxruntime-genai", "assemble", error, module="onnxruntime_genai") from None
    cache, kind = output / ".cache", PRECISIONS[precision]
    provider = "cuda" if precision == "float16" else "cpu"
    options = [f"{name}={value}" for name, value in OPTIONS.items()]
    with _silent() as said:
        try:
            given = parse_extra_options("", str(folder), str(output), kind, provider, str(cache), options)
            create_model("", str(folder), str(output), kind, provider, str(cache), **given)
        except Exception as error:  # it raises whatever transformers and its own classes do
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            last = said.getvalue().strip().splitlines()[-1:]
            raise EdgepruneError(f"onnxruntime-genai's builder failed: {reason} (its last line: {last})") from error
    shutil.rmtree(cache, ignore_errors=True)
    config: dict[str, Any] = json.loads((output / "genai_config.json").read_text(encoding="utf-8"))
    config["model"]["decoder"].setdefault("session_options", {})["provider_options"] = []
    return config


def _alone(name: str) -> str:
    for prefix, own in PREFIXES.items():
        if name.startswith(prefix):
            return own + name.removeprefix(prefix)
    return name


def _known() -> list[str]:
    """The decoders that the installed builder names; none where its source cannot be read, and it decides itself."""
    try:
        from onnxruntime_genai.models import builder

        names = re.findall(r'architectures\[0\] == "(\w+ForCausalLM)"', inspect.getsource(builder.create_model))
    except ImportError as error:
        raise MissingPackageError("onnxruntime-genai", "assemble", error, module="onnxruntime_genai") from None
    except (OSError, AttributeError):
        return []
    return sorted(set(names))


@contextlib.contextmanager
def _silent() -> Iterator[io.StringIO]:
    """What the builder prints, its bars and its log go nowhere but into what is returned."""
    said = io.StringIO()
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            yield said
    finally:
        logging.disable(before)
