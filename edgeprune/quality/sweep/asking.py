"""A question as what a graph is given beside the image, by the language model that answers it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import RequestError
from edgeprune.ports import LEARNED, QUERIES, TEXT, TEXT_MASK, TOKENS

if TYPE_CHECKING:
    from edgeprune.quality.language import Language
    from edgeprune.runtime import TokenEncoder

__all__ = ["asking", "keywords"]

Given = Mapping[str, NDArray[np.float32]]

NOTHING = """
    a about all an and any are as at be been by can could did do does for from had has have he her his how i if in into
    is it its many me much no not of on one or our she so some than that the their them there these they this those to
    us was we were what when where which who whom whose why will with would you your
"""
SMALL = frozenset(re.findall(r"\w+", NOTHING))
"""words that say nothing of an image"""


def asking(language: Language, encoder: TokenEncoder) -> Callable[[str], Given]:
    """What makes a question into the inputs of a graph that chooses by one: its vector, or its words, a row each.

    Raises RequestError for a space that needs another model.
    """
    spec = encoder.manifest.ports[TEXT]
    space, method = spec["space"], encoder.manifest.method
    if TEXT_MASK in encoder.manifest.ports and space == TOKENS:
        rows = int(encoder.manifest.inputs[TEXT].shape[1])
        said = str if spec.get("whole") else keywords
        return lambda text: _in_rows(language.words(said(text)).float().cpu().numpy(), rows)
    made: Mapping[str, Callable[[str], Any]] = {TOKENS: language.vector, QUERIES: language.queries}
    if space in made:
        return lambda text: {TEXT: made[space](text)}
    if space == LEARNED:
        from edgeprune import pruners
        from edgeprune.pruners._learned import FILE

        scorer: Any = pruners.get(method).read(encoder.bundle.folder / FILE)
        return lambda text: {TEXT: scorer.vector(language.words(text).cpu()).numpy()}
    raise RequestError(
        f"a sweep asks with a text of the language model's own embeddings, {method} takes one of the space {space!r}"
    )


def keywords(question: str) -> str:
    """Without the small words; the question itself where nothing is left.

    >>> keywords("What color is the square?")
    'color square'
    >>> keywords("what is it?")
    'what is it?'
    """
    words = [word for word in re.findall(r"\w+", question) if word.lower() not in SMALL]
    return " ".join(words) or question


def _in_rows(words: NDArray[np.float32], rows: int) -> Given:
    """[L, D], the first of them where there are more than rows, zeros behind them where there are fewer."""
    text, mask = np.zeros((rows, words.shape[1]), np.float32), np.zeros(rows, np.float32)
    count = min(rows, len(words))
    text[:count], mask[:count] = words[:count], 1
    return {TEXT: text, TEXT_MASK: mask}
