"""The decoder in onnxruntime-genai.

The encoder has run by then: its tokens go in where genai's own pipeline would run a vision model, through one Identity
(`tokens.onnx`). So the encoder may be a plan of TensorRT, several images and tiles need no graph of their own, and
encoder and prefill are timed apart. The folder's genai_config.json names the encoder's graph itself, for who opens the
folder with genai alone.

Source  onnxruntime-genai 0.18: its Python API has changed from release to release, so another one is refused
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from typing import Any

import numpy as np

from edgeprune.errors import BundleError, MissingPackageError, RequestError
from edgeprune.runtime.generate.engine import Prompted, Sampling
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


class Genai:
    """An open decoder."""

    name = "genai"

    def __init__(self, folder: Folder, threads: int | None = None) -> None:
        """Raises MissingPackageError without onnxruntime-genai, RequestError for another release of it, BundleError
        when it cannot open the folder."""
        self._genai = genai = _import()
        self.version = str(genai.__version__)
        _check_release(self.version, folder)
        self._context = folder.manifest.context_length
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
        genai, left = self._genai, sampling.max_new_tokens
        try:
            parameters = genai.GeneratorParams(self._model)
            parameters.set_search_options(**self._options(prompt, sampling))
            generator = genai.Generator(self._model, parameters)
            generator.set_inputs(self._inputs(prompt))
            generator.append_tokens(np.array([prompt.ids], np.int32))
            while left and not generator.is_done():
                generator.generate_next_token()
                left -= 1
                yield int(generator.get_next_tokens()[0])
        except RuntimeError as error:
            raise BundleError(f"{PACKAGE} {self.version} failed: {_line(error)}") from None

    def close(self) -> None:
        self._model = None

    def _options(self, prompt: Prompted, sampling: Sampling) -> dict[str, Any]:
        options: dict[str, Any] = {
            "max_length": min(len(prompt.ids) + sampling.max_new_tokens, self._context),
            "do_sample": not sampling.greedy,
        }
        if not sampling.greedy:
            seed = secrets.randbits(31) if sampling.seed is None else sampling.seed
            options |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "random_seed": seed}
            options |= {"top_k": sampling.top_k}
        return options

    def _inputs(self, prompt: Prompted) -> Any:
        inputs = self._genai.NamedTensors()
        if prompt.images:
            inputs["image_tokens"] = inputs["pixel_values"] = prompt.tokens
            inputs["num_image_tokens"] = np.array([len(image.tokens) for image in prompt.images], np.int64)
        return inputs


def release(version: str) -> str:
    """What must be the same: major and minor.

    >>> release("0.18.2")
    '0.18'
    """
    return ".".join(version.split(".")[:2])


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
            f"{folder.path} was assembled for {PACKAGE} {release(made)}, whose Python API differs from the {version} that "
            f"is installed; pip install '{PACKAGE}=={release(made)}.*', or assemble it again"
        )


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
