"""An assembled model that is open: pictures and a question in, an answer out, and how long each part of it took."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from types import TracebackType
from typing import Any, TypeAlias

from edgeprune.errors import ImageError, RequestError
from edgeprune.runtime.backends import Backend
from edgeprune.runtime.devices import AUTO
from edgeprune.runtime.generate.chat import Chat
from edgeprune.runtime.generate.engine import Encoded, Engine, Prompted, Sampling
from edgeprune.runtime.generate.folder import Folder, load_folder
from edgeprune.runtime.images.preprocess import ImageLike
from edgeprune.runtime.images.tiles import packed
from edgeprune.runtime.loading import open_bundle
from edgeprune.runtime.runner import PIXELS
from edgeprune.runtime.tokens import TokenEncoder

Images: TypeAlias = "ImageLike | Encoded | Sequence[ImageLike | Encoded]"

__all__ = ["ENGINES", "Answer", "Conversation", "Model", "open_model"]

TURN = 32
"""ids of a question and what stands around it"""


def _genai(folder: Folder, threads: int | None) -> Engine:
    from edgeprune.runtime.generate.genai import Genai

    return Genai(folder, threads)


def _onnxruntime(folder: Folder, threads: int | None) -> Engine:
    from edgeprune.runtime.generate.loop import Loop

    return Loop.open(folder, threads)


ENGINES: dict[str, Callable[[Folder, int | None], Engine]] = {"genai": _genai, "onnxruntime": _onnxruntime}
"""engine of the manifest -> what opens it here; another one is a file of its own, and a line here"""


@dataclass(frozen=True)
class Answer:
    """What was answered, and where the time went. Times are wall-clock milliseconds."""

    text: str
    ids: tuple[int, ...]
    """with the one behind which it ends, if it came"""
    stopped: bool
    """whether it ended by itself, and not for want of room"""
    prompt_tokens: int
    """those of images among them"""
    image_tokens: int
    image_ms: float
    """reading, resizing and cutting up"""
    encoder_ms: float
    prefill_ms: float
    """the decoder up to the first id of the answer"""
    decode_ms: float
    """all ids behind the first"""

    @property
    def first_token_ms(self) -> float:
        """From the picture's file to the first id."""
        return self.image_ms + self.encoder_ms + self.prefill_ms

    @property
    def tokens_per_s(self) -> float | None:
        """Of the ids behind the first; None where there is none."""
        return None if len(self.ids) < 2 or not self.decode_ms else 1e3 * (len(self.ids) - 1) / self.decode_ms

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "first_token_ms": self.first_token_ms, "tokens_per_s": self.tokens_per_s}


class Model:
    """An encoder and its decoder, open. One answer at a time."""

    def __init__(self, folder: Folder, device: str = AUTO, threads: int | None = None) -> None:
        """Raises as `open_model` does."""
        self.folder, self.manifest = folder, folder.manifest
        opener = ENGINES.get(self.manifest.engine)
        if opener is None:
            raise RequestError(
                f"{folder.path} is for {self.manifest.engine}, which does not run here; "
                f"assemble it with --engine {' or '.join(ENGINES)}"
            )
        self.chat = Chat(folder)
        encoder = open_bundle(folder.bundle, device, threads, TokenEncoder)
        assert isinstance(encoder, TokenEncoder)
        self.encoder = encoder
        self.engine: Engine = opener(folder, threads)

    def encode(self, image: ImageLike, graph: Backend | None = None) -> Encoded:
        """One image, for questions about it: given in its place, it is not read again, by the decoder neither.

        graph: instead of the bundle's encoder, with its tensors

        Raises ImageError when it cannot be read.
        """
        start = time.perf_counter()
        pixels = self.encoder.prepare([image] * self._batch)
        ready = time.perf_counter()
        gave = self.encoder.run({PIXELS: pixels}) if graph is None else graph.run({PIXELS: pixels})
        done = time.perf_counter()
        return replace(self._one(image, gave), image_ms=1e3 * (ready - start), encoder_ms=1e3 * (done - ready))

    def ask(
        self,
        images: Images,
        question: str,
        sampling: Sampling | None = None,
        heard: Callable[[str], None] = lambda piece: None,
    ) -> Answer:
        """The answer to one question about one image, or several.

        heard: called with each piece of the answer as it comes

        Raises ImageError when an image cannot be read, RequestError when the prompt is too long or has placeholders of
        its own.
        """
        return Conversation(self, turns=1).ask(question, images, sampling, heard)

    def check_length(self, prompt: Prompted, new: int = 1) -> None:
        """Raises RequestError when the prompt and so many ids do not fit into the context."""
        most, images = self.manifest.context_length, prompt.images
        if len(prompt.ids) + new > most:
            seen = sum(len(image.tokens) for image in images)
            raise RequestError(
                f"prompt and answer must fit into {most} tokens; the prompt alone has {len(prompt.ids)}, {seen} of "
                f"them of {len(images)} image{'s' if len(images) > 1 else ''}; ask less, or keep fewer tokens"
            )

    def close(self) -> None:
        self.encoder.close()
        self.engine.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _batch(self) -> int:
        """Images of one run: the same one fills it up; the tiles of one image are cut by the encoder."""
        if self.encoder.preprocessing.tiles is not None:
            return 1
        batch = self.encoder.session.inputs["pixel_values"].shape[0]
        return batch if isinstance(batch, int) else 1

    def _one(self, image: ImageLike, gave: dict[str, Any]) -> Encoded:
        extras = {name: gave[name][0] for name in self.manifest.extras}
        tiles = self.encoder.preprocessing.tiles
        if tiles is None:
            tokens = gave["tokens"][0]
        else:
            shape = self.encoder.preprocessing.tile_shape(image)
            tokens = packed(gave["tokens"], gave["indices"], self.encoder.grid, shape, tiles.squeezed, tiles.whole)
        return Encoded(tokens, gave.get("positions"), max(self.encoder.grid), extras)


class Conversation:
    """Turns of one conversation, each with what was said before it in its prompt."""

    def __init__(self, model: Model, turns: int = 8) -> None:
        """turns: about as many as are to follow, for which the decoder has room without reading all again"""
        self._model, self._left = model, turns
        self._messages: list[dict[str, Any]] = []
        self._images: list[Encoded] = []

    def ask(
        self,
        question: str,
        images: Images = (),
        sampling: Sampling | None = None,
        heard: Callable[[str], None] = lambda piece: None,
    ) -> Answer:
        """The next turn, with more images if there are any. Raises as `Model.ask` does; the turn is then forgotten."""
        model, sampling = self._model, sampling or Sampling()
        given = _each(images)
        new = [one if isinstance(one, Encoded) else model.encode(one) for one in given]
        read = [made for made, one in zip(new, given, strict=True) if made is not one]
        prompt = self.prompt(question, new, sampling)
        model.check_length(prompt)
        start = time.perf_counter()
        times: list[float] = []
        ids: list[int] = []

        def heard_ids() -> Iterator[int]:
            for id in model.engine.answer(prompt, sampling):
                times.append(time.perf_counter())
                ids.append(id)
                yield id
                if id in model.manifest.stop:
                    return

        begun = False
        for piece in model.chat.pieces(heard_ids()):
            if words := piece if begun else piece.lstrip():
                heard(words)
                begun = True
        text = model.chat.decode(ids).strip()
        self._images, self._left = list(prompt.images), self._left - 1
        self._messages = [
            *self._messages,
            _turn(question, len(new)),
            {"role": "assistant", "content": [{"type": "text", "text": text}]},
        ]
        return Answer(
            text=text,
            ids=tuple(ids),
            stopped=bool(ids) and ids[-1] in model.manifest.stop,
            prompt_tokens=len(prompt.ids),
            image_tokens=sum(len(image.tokens) for image in prompt.images),
            image_ms=sum(image.image_ms for image in read),
            encoder_ms=sum(image.encoder_ms for image in read),
            prefill_ms=1e3 * (times[0] - start),
            decode_ms=1e3 * (times[-1] - times[0]),
        )

    def prompt(self, question: str, images: Sequence[Encoded] = (), sampling: Sampling | None = None) -> Prompted:
        """What the decoder would be given for the next turn.

        Raises ImageError without any image, RequestError when the question has placeholders of its own.
        """
        every = (*self._images, *images)
        if not every:
            raise ImageError("a question must be about an image, got none; give the name of a file")
        messages = [*self._messages, _turn(question, len(images))]
        ids = self._model.chat.ids(messages, [len(image.tokens) for image in every])
        longest = (sampling or Sampling()).max_new_tokens
        return Prompted(ids, every, spare=max(self._left - 1, 0) * (longest // 4 + TURN))


def _turn(question: str, images: int) -> dict[str, Any]:
    content = [*({"type": "image"} for _ in range(images)), {"type": "text", "text": question}]
    return {"role": "user", "content": content}


def open_model(path: str | os.PathLike[str], device: str = AUTO, threads: int | None = None) -> Model:
    """Open an assembled model, with every file checked against its manifest.

    path: its folder, as `edgeprune assemble` writes it
    device: of the encoder: cpu, cuda, tensorrt for a plan in encoder/, or auto for the best that is here. The decoder
        runs where its engine was assembled for
    threads: CPU threads of encoder and decoder, None for their own choice

    Raises BundleError when it is no such folder or a damaged one, RequestError when an engine of another release is
    installed or the device cannot be used, MissingPackageError when a package is missing.
    """
    return Model(load_folder(os.fspath(path)), device, threads)


def _each(images: Images) -> list[ImageLike | Encoded]:
    several = isinstance(images, Sequence) and not isinstance(images, (str, bytes))
    return list(images) if several else [images]  # type: ignore[arg-type, list-item]
