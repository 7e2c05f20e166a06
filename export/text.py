"""The text side of question-aware pruning: a CLIP's text tower as a graph, and its tokenizer as a file.

    ids [M, 77] --token and position embeddings, causal layers, final norm--> [M, 77, C] --one place--> [M, C]
        --text_projection--> text_embeds [M, P]

The place is that of EOS, as transformers finds it: of the largest id where text_config has eos_token_id 2, as all of
OpenAI's have, else of the first eos_token_id. A row without any, of a question of several, is read elsewhere: at its
largest id, or at its first one. The visual side is `encoders/_aligned`, what runs this one `runtime/text`.

Source  huggingface/transformers@v5.24 models/clip/modeling_clip.py: CLIPTextModelWithProjection
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from edgeprune.checkpoint import Checkpoint
from edgeprune.checkpoint._files import Absent
from edgeprune.encoders._aligned import joint_width, part_of_clip
from edgeprune.encoders._building import building
from edgeprune.encoders._load import pretrained, settings
from edgeprune.errors import ModelError
from edgeprune.export.graph import to_onnx
from edgeprune.export.storage import file_of, save_graphs
from edgeprune.ports import TEXT
from edgeprune.runtime.text import FILL, IDS, NAME, TOKENIZER, VECTORS

__all__ = ["TextSide", "asked_in_words", "write_text"]

OPSET, IR_VERSION = 18, 10
WORDS = (("tokenizer.json",), ("vocab.json", "merges.txt"))
"""files of which a tokenizer is made: the first, or else the others"""
BESIDE = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
LEGACY_EOS = 2
"""of text_config, where it was never the tokenizer's; transformers then looks for the largest id"""


@dataclass(frozen=True)
class TextSide:
    """What is to be known of a text side that was written."""

    model: str
    """the Hugging Face id or the folder's name"""
    revision: str
    length: int
    """ids of a row"""
    width: int
    """of a vector, P"""
    bos: int
    eos: int
    fill: int
    """id behind the last one of a row"""
    pooling: str
    """the place of a row that is read: "largest_id" or "first_eos" """
    files: tuple[str, ...]


class _Vectors(nn.Module):
    def __init__(self, clip: nn.Module) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, input_ids: Tensor) -> Tensor:
        vectors: Tensor = self.clip(input_ids=input_ids).text_embeds
        return vectors


def write_text(folder: Path, checkpoint: Checkpoint) -> TextSide:
    """Write text.onnx, with text.onnx.data where its weights are large, and tokenizer.json into a folder that is there.

    text.onnx: input_ids [M, length] int64, M open -> text_embeds [M, P] float32
    checkpoint: of a whole CLIP, of which only the text tower and its projection are read

    Raises ModelError when it is no CLIP, lacks one of the weights or its tokenizer, or when these do not belong
    together; nothing is written then.
    """
    clip = _tower(checkpoint)
    config = cast(Any, clip).config
    tokenizer = _tokenizer(checkpoint)
    bos, eos = _ends(tokenizer, config, checkpoint.id)
    model = to_onnx(
        _Vectors(clip),
        torch.full((2, config.max_position_embeddings), FILL),  # one row would not stay open
        [VECTORS],
        opset=OPSET,
        ir_version=IR_VERSION,
        dynamic_batch=True,
        hoisted=False,
        metadata={"edgeprune.model": checkpoint.id, "edgeprune.revision": checkpoint.revision},
    )
    model.graph.inputs[0].name = IDS
    save_graphs(folder, {NAME: model})
    (folder / TOKENIZER).write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    graph = file_of(NAME)
    return TextSide(
        model=checkpoint.id,
        revision=checkpoint.revision,
        length=config.max_position_embeddings,
        width=config.projection_dim,
        bos=bos,
        eos=eos,
        fill=FILL,
        pooling="largest_id" if config.eos_token_id == LEGACY_EOS else "first_eos",
        files=tuple(name for name in (graph, f"{graph}.data", TOKENIZER) if (folder / name).is_file()),
    )


def _tower(checkpoint: Checkpoint) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    own = part_of_clip(checkpoint, "text_config")  # text_config_dict, of older files, changes CLIPModel alone
    parts = ("text_model.", "text_projection.")
    tensors = {part + name: value for part in parts for name, value in checkpoint.tensors(part).items()}
    with building(checkpoint.id):
        config = settings(CLIPTextConfig, own, **joint_width(tensors, "text_projection.weight"))
        clip = pretrained(CLIPTextModelWithProjection, config, tensors, checkpoint.id)
    cast(Any, clip).set_attn_implementation("eager")  # with its mask as a tensor
    return clip


def _tokenizer(checkpoint: Checkpoint) -> Any:
    """The fast tokenizer that transformers makes of the checkpoint's files, as the package tokenizers has it."""
    from transformers import CLIPTokenizer

    there = set()
    for name in (*WORDS[0], *WORDS[1], *BESIDE):
        with contextlib.suppress(Absent):
            checkpoint.locate(name)
            there.add(name)
    if not any(there.issuperset(names) for names in WORDS):  # transformers would make one that knows no words
        raise ModelError(f"{checkpoint.id} has no tokenizer.json, nor vocab.json and merges.txt; copy its tokenizer")
    try:
        made: Any = CLIPTokenizer.from_pretrained(checkpoint.locate("config.json").parent)
    except Exception as error:  # transformers and tokenizers raise what they like
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise ModelError(f"{checkpoint.id} must have a tokenizer of CLIP that transformers reads: {reason}") from None
    backend = made.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    return backend


def _ends(tokenizer: Any, config: Any, id: str) -> tuple[int, int]:
    """BOS and EOS. Raises ModelError when the tower would not look them up, or read a question elsewhere."""
    ids, largest = tokenizer.encode("").ids, max(tokenizer.get_vocab().values())
    if len(ids) != 2:
        raise ModelError(f"the tokenizer of {id} must write BOS and EOS around a text, around none it writes {ids}")
    if largest >= config.vocab_size:
        raise ModelError(
            f"the tokenizer of {id} has ids up to {largest}, its text tower {config.vocab_size} embeddings; copy both "
            "from one checkpoint"
        )
    bos, eos = ids
    place = largest if config.eos_token_id == LEGACY_EOS else config.eos_token_id
    if place != eos:
        raise ModelError(
            f"the text tower of {id} reads a question at id {place} (its eos_token_id is {config.eos_token_id}), the "
            f"tokenizer ends one with {eos}; correct eos_token_id of text_config in config.json"
        )
    return bos, eos


def asked_in_words(folder: Path, checkpoint: Checkpoint, ports: Mapping[str, Any]) -> dict[str, Any]:
    """The ports of a manifest, once the text side that makes words into a vector is there: of the text it says how."""
    side = dataclasses.asdict(write_text(folder, checkpoint))
    return {**ports, TEXT: {**ports[TEXT], "tower": {name: side[name] for name in side if name != "files"}}}
