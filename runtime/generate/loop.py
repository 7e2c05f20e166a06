"""The decoder in ONNX Runtime itself, one token after the other.

It is there for models whose tokens keep their places in the image (rotary positions of three axes, Qwen-VL) or go into
deeper layers as well (DeepStack): the pipelines of onnxruntime-genai count tokens from the grid, and refuse fewer.
Models of one axis it takes, too.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import BundleError, RequestError
from edgeprune.runtime.backends.ort import Session, open_session
from edgeprune.runtime.generate.decoder import Cache, Decoder
from edgeprune.runtime.generate.engine import Encoded, Prompted, Sampling
from edgeprune.runtime.generate.folder import Folder
from edgeprune.runtime.generate.positions import compact, kept, placeholders
from edgeprune.runtime.generate.sampling import choose

__all__ = ["Loop"]

SINCE = {1: (1, 23), 3: (1, 29)}
"""axes of the positions -> the first ONNX Runtime that has what the builder makes such a decoder of: the inputs of its
GroupQueryAttention, and MRotaryEmbedding (run: 1.22 and 1.28 refuse, these answer like torch)"""


class Loop:
    """An open decoder, and the conversation that is in its cache."""

    name = "onnxruntime"

    def __init__(self, decoder: Decoder, embedding: Session, image: int, stop: Collection[int] = ()) -> None:
        """embedding: input_ids [1, S] and image_features [1, M, D] in the places of the image ids -> inputs_embeds
        image: the id in whose places the tokens of images go; stop: those behind which an answer ends
        """
        import onnxruntime

        self.version = str(onnxruntime.__version__)
        self._decoder, self._embedding, self._image, self._stop = decoder, embedding, image, frozenset(stop)
        self._cache = Cache()
        self._ids: list[int] = []
        self._images: list[tuple[int, Encoded]] = []
        """where each begins among the ids"""

    @classmethod
    def open(cls, folder: Folder, threads: int | None = None) -> Loop:
        """Raises BundleError when a graph of the folder cannot be opened, RequestError when the installed ONNX Runtime
        is too old for it, MissingPackageError without one."""
        made = folder.manifest
        _check_release(folder)
        path = folder.file(made.decoder.file)
        decoder = Decoder.open(path, made.context_length, made.decoder.head_size, threads)
        embedding = open_session(folder.file(made.embedding), "cpu", threads)
        return cls(decoder, embedding, made.prompt.image, made.stop)

    def answer(self, prompt: Prompted, sampling: Sampling) -> Iterator[int]:
        """As `Engine.answer`. Of the prompt, what begins like the conversation before is not read again.

        Raises RequestError when the placeholders do not number the tokens of the images, or the prompt does not fit
        into the context, BundleError when its images are none for this decoder.
        """
        random = np.random.default_rng(sampling.seed)
        logits, position = self._read(prompt)
        for left in range(sampling.max_new_tokens, 0, -1):
            token = choose(logits, sampling, random)
            yield token
            ended = token in self._stop and not sampling.past_stop
            if left == 1 or ended or max(position, len(self._ids)) >= self._decoder.context:
                return
            here = np.full((self._decoder.axes, 1), position, np.int64)
            logits = self._decoder.run(self._embedded([token], []), here, self._cache)
            self._ids.append(token)
            position += 1

    def forget(self) -> None:
        self._cache.length, self._ids, self._images = 0, [], []

    def close(self) -> None:
        self._decoder.close()
        self._embedding.close()

    def _read(self, prompt: Prompted) -> tuple[NDArray[np.float32], int]:
        """What the decoder thinks of the token behind the prompt, and the position of that token."""
        starts = placeholders(prompt.ids, self._image, [len(one.tokens) for one in prompt.images])
        images = list(zip(starts, prompt.images, strict=True))
        positions, behind = self._positions(len(prompt.ids), images)
        self._check(prompt, positions)
        known = self._known(prompt.ids, images)
        new = [(start - known, one) for start, one in images if start >= known]
        embeds = self._embedded(prompt.ids[known:], [one for _, one in new])
        self._cache.length, self._ids = known, list(prompt.ids[:known])
        deeper = self._deeper(len(embeds), new)
        logits = self._decoder.run(embeds, positions[:, known:], self._cache, deeper)
        self._ids, self._images = list(prompt.ids), images
        return logits, behind

    def _positions(self, length: int, images: Sequence[tuple[int, Encoded]]) -> tuple[NDArray[np.int64], int]:
        """[axes, length], and the position behind them."""
        if self._decoder.axes == 1:
            return compact(length), length
        without = [number for number, (_, one) in enumerate(images, 1) if one.positions is None]
        if without:
            raise BundleError(
                f"{self._decoder.source} needs the places of the tokens in the image (positions), image {without[0]} "
                "has none; take the encoder that it was assembled with"
            )
        places = [one.positions for _, one in images if one.positions is not None]
        return kept(length, [start for start, _ in images], places, [one.side for _, one in images])

    def _check(self, prompt: Prompted, positions: NDArray[np.int64]) -> None:
        decoder, needed = self._decoder, max(len(prompt.ids), int(positions.max(initial=0)) + 1)
        if not 0 < needed <= decoder.context:
            raise RequestError(
                f"a prompt must have 1 to {decoder.context} tokens, as many as {decoder.source} holds, got {needed}; "
                "ask with less, or keep fewer tokens of an image"
            )
        for one in prompt.images:
            shapes = {one.tokens.shape[1:], *(values.shape[1:] for values in one.extras.values())}
            if shapes != {(decoder.hidden,)} or len(one.extras) != decoder.deeper:
                raise BundleError(
                    f"{decoder.source} takes tokens {decoder.hidden} wide and features for {decoder.deeper} deeper "
                    f"layers, got {one.tokens.shape[1]} and {len(one.extras)}; "
                    "take the encoder that it was assembled with"
                )

    def _known(self, ids: Sequence[int], images: Sequence[tuple[int, Encoded]]) -> int:
        """How many ids at the front are in the cache, whole images alone; not the last one, whose logits are wanted."""
        pairs = zip(self._ids, ids[:-1], strict=False)
        known = next((at for at, (old, new) in enumerate(pairs) if old != new), min(len(self._ids), len(ids) - 1))
        for number, (start, one) in enumerate(images):
            before = self._images[number : number + 1]
            if start + len(one.tokens) > known or not before or before[0][0] != start or before[0][1] is not one:
                return min(known, start)
        return known

    def _embedded(self, ids: Sequence[int], images: Sequence[Encoded]) -> NDArray[Any]:
        """[S, D]"""
        dtype = self._embedding.inputs["image_features"].dtype
        tokens = [one.tokens.astype(dtype, copy=False) for one in images] or [
            np.zeros((0, self._decoder.hidden), dtype)
        ]
        feeds = {"input_ids": np.array([ids], np.int64), "image_features": np.concatenate(tokens)[None]}
        rows: NDArray[Any] = self._embedding.run(feeds)["inputs_embeds"][0]
        return rows

    def _deeper(self, length: int, images: Sequence[tuple[int, Encoded]]) -> list[NDArray[np.float32]]:
        """[length, D] for each deeper layer: what its images add in the places of their tokens, and zeros."""
        if not images:
            return []
        rows = [np.zeros((length, self._decoder.hidden), np.float32) for _ in range(self._decoder.deeper)]
        for start, one in images:
            for layer, values in zip(rows, one.extras.values(), strict=True):
                layer[start : start + len(values)] = values
        return rows


def _check_release(folder: Folder) -> None:
    import onnxruntime

    given = str(onnxruntime.__version__)
    numbers = tuple(int(number) for number in re.findall(r"\d+", given)[:2])
    if numbers < (since := SINCE[3 if folder.manifest.axes == 3 else 1]):
        least = ".".join(map(str, since))
        raise RequestError(
            f"the decoder of {folder.path} needs ONNX Runtime {least} or newer, {given} is installed; "
            f"pip install 'onnxruntime>={least}'"
        )
