"""The decoder in onnxruntime-genai.

The encoder has run by then: its tokens go in where genai's own pipeline would run a vision model, through one Identity
(`tokens.onnx`). So the encoder may be a plan of TensorRT, several images and tiles need no graph of their own, and
encoder and prefill are timed apart. The folder's genai_config.json names the encoder's graph itself, for who opens the
folder with genai alone.

What the cache holds of a prompt is not read again: it is wound back to where the prompts part, and goes on from there.
Appended without that, the last token of the answer before would be missing: genai has not fed it yet.

Source  onnxruntime-genai 0.18: its Python API has changed from release to release, so another one is refused
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from edgeprune.errors import BundleError, MissingPackageError, RequestError
from edgeprune.runtime.generate.engine import Encoded, Prompted, Sampling
from edgeprune.runtime.generate.folder import Folder

__all__ = ["PACKAGE", "TOKENS", "Genai", "release"]

PACKAGE = "onnxruntime-genai"
TOKENS = "tokens.onnx"
"""hands its input on: what stands in for a vision model"""
HANDED_IN = {
    "filename": TOKENS,
    "inputs": {"pixel_values": "image_tokens"},
    "outputs": {"image_features": "image_features"},
}


@dataclass
class _Held:
    """A generator, and what its cache holds."""

    generator: Any
    sampling: Sampling
    room: int
    """positions at most"""
    images: tuple[Encoded, ...]
    asked: int
    """ids of the prompt"""
    ids: list[int] = field(default_factory=list)
    """that were fed: the last one of an answer is not among them"""


class Genai:
    """An open decoder."""

    name = "genai"

    def __init__(self, folder: Folder, threads: int | None = None) -> None:
        """Raises MissingPackageError without onnxruntime-genai, RequestError for another release of it, BundleError
        when it cannot open the folder."""
        self._genai = genai = _import()
        self.version = str(genai.__version__)
        _check_release(self.version, folder)
        self._context, self._image = folder.manifest.context_length, folder.manifest.prompt.image
        self._held: _Held | None = None
        over: dict[str, Any] = {"vision": HANDED_IN}
        if threads is not None:
            over["decoder"] = {"session_options": {"intra_op_num_threads": threads}}
        try:
            config = genai.Config(str(folder.path))
            config.overlay(json.dumps({"model": over}))
            self._model = genai.Model(config)
        except RuntimeError as error:
            raise BundleError(f"{folder.path} cannot be opened by {PACKAGE} {self.version}: {_line(error)}") from None

    def answer(self, prompt: Prompted, sampling: Sampling) -> Iterator[int]:
        try:
            held = self._read(prompt, sampling)
            generator, last = held.generator, None
            for _ in range(sampling.max_new_tokens):
                if generator.is_done():
                    return
                generator.generate_next_token()
                held.ids += [] if last is None else [last]
                last = int(generator.get_next_tokens()[0])
                yield last
        except RuntimeError as error:
            self._held = None
            raise BundleError(f"{PACKAGE} {self.version} failed: {_line(error)}") from None

    def forget(self) -> None:
        self._held = None

    def close(self) -> None:
        self._held = self._model = None

    def _read(self, prompt: Prompted, sampling: Sampling) -> _Held:
        """The prompt in the cache."""
        held = self._held
        common = 0 if held is None else self._common(held, prompt, sampling)
        if held is None or not common:
            held = self._begin(prompt, sampling)
        else:
            held.generator.rewind_to(common)
        self._held = None  # until the cache is what it says
        held.generator.append_tokens(np.array([prompt.ids[common:]], np.int32))
        held.ids, held.asked = list(prompt.ids), len(prompt.ids)
        self._held = held
        return held

    def _begin(self, prompt: Prompted, sampling: Sampling) -> _Held:
        genai = self._genai
        room = min(len(prompt.ids) + sampling.max_new_tokens + prompt.spare, self._context)
        parameters = genai.GeneratorParams(self._model)
        parameters.set_search_options(**_options(sampling, room))
        generator = genai.Generator(self._model, parameters)
        inputs = genai.NamedTensors()
        if prompt.images:
            inputs["image_tokens"] = inputs["pixel_values"] = prompt.tokens[None]
            inputs["num_image_tokens"] = np.array([len(image.tokens) for image in prompt.images], np.int64)
        generator.set_inputs(inputs)
        return _Held(generator, sampling, room, prompt.images, len(prompt.ids))

    def _common(self, held: _Held, prompt: Prompted, sampling: Sampling) -> int:
        """How many ids at the front need not be read again; 0 where the cache is of no use.

        Images go in with the first prompt alone, so all of them must be there. Where tokens are drawn, only a prompt
        that goes on behind the answer is taken up: a question that is asked again draws the same again.
        """
        if replace(held.sampling, max_new_tokens=1) != replace(sampling, max_new_tokens=1):
            return 0
        if len(held.images) != len(prompt.images) or any(
            a is not b for a, b in zip(held.images, prompt.images, strict=True)
        ):
            return 0
        if len(prompt.ids) + sampling.max_new_tokens > held.room < self._context:
            return 0
        pairs = zip(held.ids, prompt.ids[:-1], strict=False)  # the logits behind the last id are wanted
        most = min(len(held.ids), len(prompt.ids) - 1)
        common = next((at for at, (old, new) in enumerate(pairs) if old != new), most)
        needed = prompt.behind_images(self._image) if sampling.greedy else held.asked
        return common if common >= max(needed, 1) else 0


def release(version: str) -> str:
    """What must be the same: major and minor.

    >>> release("0.18.2")
    '0.18'
    """
    return ".".join(version.split(".")[:2])


def _options(sampling: Sampling, room: int) -> dict[str, Any]:
    options: dict[str, Any] = {"max_length": room, "do_sample": not sampling.greedy}
    if sampling.past_stop:
        options["min_length"] = room  # masks the ids behind which an answer ends
    if not sampling.greedy:
        seed = secrets.randbits(31) if sampling.seed is None else sampling.seed
        options |= {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p}
        options["random_seed"] = seed
    return options


def _import() -> Any:
    try:
        import onnxruntime_genai
    except ImportError as error:
        raise MissingPackageError(PACKAGE, "generate", error, module="onnxruntime_genai") from None
    return onnxruntime_genai


def _check_release(version: str, folder: Folder) -> None:
    made = folder.manifest.versions.get(PACKAGE, version)
    if release(version) != release(made):
        raise RequestError(
            f"{PACKAGE} must be {release(made)}, for which {folder.path} was assembled, {version} is installed, whose "
            f"Python API differs; pip install '{PACKAGE}=={release(made)}.*', or assemble it again"
        )


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
