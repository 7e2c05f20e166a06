"""What a graph may be given beside the pixels: a question, or what else a device knows of each patch.

    text    [B, C]       the question, as one vector of the space in which patches are compared with it
            [B, L, C]    or word by word, for a method that has to see them apart; with it
    text_mask [B, L]     1 of a row of the text that is a word, 0 of one that is none
    prior   [B, N]       what a device knows of each patch: 0 of none of interest, 1 of no opinion
    xyz     [B, N, 3]    where in the world each patch is

A score that is the mean over several vectors of a dot product needs their mean alone, so that one vector is enough of a
question, however long. A method says which ports it has (`Method.ports`); `prior` is an option of every method that
ranks (`edgeprune.prior`). Where nothing is given, what is `blank` stands in.

Spaces of a text
    aligned    CLIP's: the mean over its rows of unit text embeddings; patches come there by the visual projection
    tokens     the language model's: the mean embedding of the question's tokens; patches are there behind the projector
    queries    of its first layer: the mean of their queries, head by head; patches are there by the keys of that layer
    learned    one that was trained with the method: what its scorer's text side makes of these embeddings, as wide
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "ALIGNED",
    "LEARNED",
    "PATCHES",
    "PRIOR",
    "QUERIES",
    "SPACES",
    "TEXT",
    "TEXT_MASK",
    "TOKENS",
    "XYZ",
    "Port",
    "prior_port",
    "text_port",
    "words_ports",
    "xyz_port",
]

TEXT, TEXT_MASK, PRIOR, XYZ = "text", "text_mask", "prior", "xyz"
PATCHES, ALIGNED, TOKENS = "patches", "aligned", "tokens"
QUERIES, LEARNED = "queries", "learned"
"""sizes of a port that an encoder has: N, and the widths of the spaces of a text"""
SPACES: Mapping[str, str] = {
    ALIGNED: "the mean over its rows of unit text embeddings of CLIP",
    TOKENS: "the mean embedding of its tokens in front of the language model",
    QUERIES: "the mean query of its tokens in the first layer of the language model, in front of rotary positions",
    LEARNED: "the mean over its tokens of what the text side of scorer.safetensors makes of their embeddings",
}


@dataclass(frozen=True)
class Port:
    name: str
    """of the graph's input, float32"""
    shape: tuple[int | str, ...]
    """of one image; PATCHES and the SPACES stand for what the encoder has"""
    blank: float | None
    """what each number is where nothing is given; None: it has to be given"""
    what: str
    """in words, for whoever has to fill it"""
    recipe: Mapping[str, bool] = field(default_factory=dict)
    """of a text in CLIP's space: `truncated` to one row, and whether the vectors of rows are `unit` ones; of one in
    rows of tokens, whether these are of the `whole` question or of its keywords"""
    beside: str = ""
    """another port, without which this one says nothing: both are given, or neither"""

    @property
    def space(self) -> str:
        """Of a text, one of SPACES; of another port empty."""
        return str(self.shape[-1]) if self.name == TEXT else ""

    def to_json(self) -> dict[str, Any]:
        """As the manifest has it."""
        some = {"space": self.space, "beside": self.beside}
        return {
            "what": self.what,
            "blank": self.blank,
            **{name: one for name, one in some.items() if one},
            **self.recipe,
        }


def text_port(space: str, blank: float | None = 0.0, truncated: bool = False, unit: bool = True) -> Port:
    """space: one of SPACES; blank: 0 where the method does without a question, None where it cannot
    truncated, unit: how CLIP's space is asked (`edgeprune.runtime.text.TextEncoder`)"""
    recipe = {"truncated": truncated, "unit": unit} if space == ALIGNED else {}
    return Port(TEXT, (space,), blank, f"the question: {SPACES[space]}", recipe)


def words_ports(rows: int, space: str = TOKENS, whole: bool = False) -> tuple[Port, Port]:
    """A text of up to so many words, and which of its rows are any. space: TOKENS or ALIGNED; whole: every token of the
    question, and not its keywords alone"""
    words = "tokens, small words and all," if whole else "words"
    what = f"the question: the embeddings of up to {rows} of its {words} in front of the language model, one a row"
    if space == ALIGNED:
        what = f"the question: text_projection of the last hidden states of up to {rows} of CLIP's tokens, one a row"
    which = "1 of each row of the text that is a word, 0 of one that is none"
    text = Port(TEXT, (rows, space), 0.0, what, {"whole": True} if whole else {}, TEXT_MASK)
    return text, Port(TEXT_MASK, (rows,), 0.0, which, beside=TEXT)


def prior_port(what: str) -> Port:
    """Of what is known of each patch, 1 where nothing is. what: of it, in words"""
    return Port(PRIOR, (PATCHES,), 1.0, f"of each patch, {what}")


def xyz_port() -> Port:
    return Port(XYZ, (PATCHES, 3), 0.0, "where each patch is in the world, in metres; 0 where nothing is known")
