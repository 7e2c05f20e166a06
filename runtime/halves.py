"""An encoder as its two halves: an image is encoded once, and asked as often as there are questions.

seen = encoder.encode("photo.jpg")
tokens, indices, scores = seen.select(text=vector)
tokens, indices, scores = seen.select(text=another)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from edgeprune.bundle import ENCODE, SELECT, Bundle, TensorSpec
from edgeprune.errors import RequestError
from edgeprune.runtime.backends.ort import DEVICES, open_session

__all__ = ["Halves"]


class Halves:
    """Both graphs, open in ONNX Runtime; a backend that takes and gives what the fused graph does."""

    flags: Sequence[str] = ()

    def __init__(self, bundle: Bundle, device: str, threads: int | None = None) -> None:
        """Raises RequestError where the bundle was not split, or the device runs no graphs; else as `open_session`."""
        manifest = bundle.manifest
        if not manifest.halves:
            raise RequestError(
                f"{bundle.folder} holds the encoder as one graph; export it with --split to encode once and ask often"
            )
        if device not in DEVICES:
            raise RequestError(
                f"the halves run in ONNX Runtime, on {' or '.join(DEVICES)}, got device {device}: a plan holds the "
                "encoder whole; open the bundle on one of these"
            )
        disabled = manifest.disabled(device)
        self.encoder = open_session(bundle.graph(ENCODE), device, threads, disabled=disabled)
        self.selector = open_session(bundle.graph(SELECT), device, threads, disabled=disabled)
        self.raw, self.device = (self.encoder.raw, self.selector.raw), device
        self.source = f"{self.encoder.source} and {self.selector.source}"
        self.inputs: Mapping[str, TensorSpec] = manifest.inputs
        self.outputs: Mapping[str, TensorSpec] = manifest.outputs

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The outputs by name, of both halves one after the other."""
        pixels = {name: feeds[name] for name in self.encoder.inputs}
        return self.select(self.encoder.run(pixels), feeds)

    def select(self, seen: Mapping[str, NDArray[Any]], feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """seen: what the first half gave; feeds: what the image is asked with"""
        every = {**feeds, **seen}
        chosen = self.selector.run({name: every[name] for name in self.selector.inputs})
        early = {name: value for name, value in seen.items() if name in self.outputs}
        return {name: {**early, **chosen}[name] for name in self.outputs}

    def run_on_device(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """Raises RequestError: what lies between the halves is on the host."""
        raise RequestError("the halves hand their outputs out on the host; call outputs_on_device of the whole encoder")

    def close(self) -> None:
        for session in (self.encoder, self.selector):
            session.close()
