"""A question as the one vector that patches are compared with, where there is no torch.

    words     "which one is red?"
    ids       BOS 518 637 533 736 286 EOS                    tokenizer.json: BOS in front, EOS behind
    rows      [M, 77]: cut into rows, the last one filled up with 0; none is dropped
    vectors   t_m [M, P], one for each row                   text.onnx: CLIP's text tower and its projection
    question  mean_m t_m / |t_m|

A patch's mean cosine with the rows is one product with that mean: mean_m v.t_m = v.(mean_m t_m). Of several rows only
the first has BOS and only the last EOS; the tower then pools where it finds none as transformers does.

Source  Theia-4869/CDPruner@9541616 llava/model/multimodal_encoder/clip_encoder.py, llava/model/llava_arch.py
        FreedomIntelligence/TRIM@f5a232d llava/model/multimodal_encoder/clip_encoder.py: truncated, length as it comes
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import BundleError, MissingPackageError, RequestError
from edgeprune.runtime.backends.ort import open_session

__all__ = ["FILL", "IDS", "NAME", "TOKENIZER", "VECTORS", "TextEncoder", "read_tokenizer"]

NAME = "text"
GRAPH, TOKENIZER = f"{NAME}.onnx", "tokenizer.json"
IDS, VECTORS = "input_ids", "text_embeds"
FILL = 0
"""id behind the last one of a row; nothing before it attends to it"""
AGAIN = "export the bundle again, with its text side"


class TextEncoder:
    """The text side of a bundle, open. May be called from several threads at once.

    length: ids of a row, 77 of OpenAI's
    width: of a question's vector, P
    """

    def __init__(self, folder: str | os.PathLike[str], threads: int | None = None) -> None:
        """folder: with text.onnx, its weights if they lie beside it, and tokenizer.json
        threads: CPU threads of one run, None for ONNX Runtime's own choice

        Raises BundleError when one of the files is missing, damaged or another one, MissingPackageError without
        tokenizers or onnxruntime.
        """
        place = Path(folder)
        for name in (GRAPH, TOKENIZER):
            if not (place / name).is_file():
                raise BundleError(f"{place} has no {name}, so it takes no questions; {AGAIN}")
        self._tokenizer = _tokenizer(place / TOKENIZER)
        self.session = open_session(place / GRAPH, "cpu", threads, outputs=[VECTORS])
        ids, vectors = self.session.inputs.get(IDS), self.session.outputs[VECTORS]
        sizes = [spec.shape[1] for spec in (ids, vectors) if spec is not None and len(spec.shape) == 2]
        if len(sizes) != 2 or not all(isinstance(size, int) for size in sizes):
            raise BundleError(f"{place / GRAPH} must turn {IDS} [M, length] into {VECTORS} [M, width]; {AGAIN}")
        self.length, self.width = (int(size) for size in sizes)

    @overload
    def __call__(self, question: str, *, truncated: bool = False, unit: bool = True) -> NDArray[np.float32]: ...
    @overload
    def __call__(
        self, question: Sequence[str], *, truncated: bool = False, unit: bool = True
    ) -> NDArray[np.float32]: ...
    def __call__(
        self, question: str | Sequence[str], *, truncated: bool = False, unit: bool = True
    ) -> NDArray[np.float32]:
        """[P] float32 of a question, [B, P] of a list of B; each is what it is alone. It may be empty: BOS, EOS.

        truncated: leave out what does not fit into one row, but for EOS, as TRIM does
        unit: give every row the length 1 before the mean, as CDPruner does; TRIM compares with a row of any length

        Raises RequestError when a question is no text, BundleError when the graph fails.
        """
        if not isinstance(question, (list, tuple)):
            return self._vector(_checked(question), truncated, unit)
        if not question:
            raise RequestError("a list of questions must have at least one, got none; give an empty text for no words")
        return np.stack([self._vector(one, truncated, unit) for one in map(_checked, question)])

    def rows(self, question: str, *, truncated: bool = False) -> NDArray[np.int64]:
        """The ids of a question, [M, length] int64. Raises RequestError when it is no text."""
        ids: list[int] = self._tokenizer.encode(_checked(question)).ids
        if truncated and len(ids) > self.length:
            ids = [*ids[: self.length - 1], ids[-1]]
        rows = np.full((-(-len(ids) // self.length), self.length), FILL, np.int64)
        rows.ravel()[: len(ids)] = ids
        return rows

    def close(self) -> None:
        """Let go of the graph and its memory."""
        self.session.close()

    def _vector(self, question: str, truncated: bool, unit: bool) -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = self.session.run({IDS: self.rows(question, truncated=truncated)})[VECTORS]
        lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
        if not np.isfinite(lengths).all() or not lengths.all():
            raise BundleError(f"{GRAPH} must give vectors that are finite and not zero; {AGAIN}")
        mean: NDArray[np.float32] = (vectors / lengths if unit else vectors).mean(axis=0)
        return mean


def _checked(question: Any) -> str:
    if not isinstance(question, str):
        raise RequestError(f"a question must be text (str), or a list of such, got {type(question).__name__}")
    try:
        question.encode()
    except UnicodeEncodeError as error:  # half of a pair, or a byte that was no UTF-8 on the command line
        raise RequestError(
            f"a question must be Unicode text, got {question[error.start]!r} at character {error.start}; leave it out"
        ) from None
    return question


def read_tokenizer(path: Path, again: str) -> Any:
    """A tokenizer of the package tokenizers. again: the remedy

    Raises BundleError when the file is none, MissingPackageError without the package.
    """
    try:
        import tokenizers
    except ImportError as error:
        raise MissingPackageError("tokenizers", "generate", error) from None
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the package's own are plain Exceptions
        raise BundleError(f"{path} must be a tokenizer: {error}; {again}") from None


def _tokenizer(path: Path) -> Any:
    made = read_tokenizer(path, AGAIN)
    made.no_truncation()  # a file may say both, as it was last used
    made.no_padding()
    if not made.encode("").ids:
        raise BundleError(f"{path} must write BOS and EOS around a text, of an empty one it writes nothing; {AGAIN}")
    return made
