"""A language model's decoder, as onnxruntime-genai's model builder writes it, and the cache of what it has read.

The cache is the caller's: a pair of arrays [1, heads, capacity, head size] for each layer, which the graph reads and
writes in place (GroupQueryAttention with past and present in one buffer), so that a step copies nothing. How much of it
is filled is `length`; to forget what came last, that is made smaller.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import BundleError
from edgeprune.runtime.backends.ort import Session, in_one_line, open_session

__all__ = ["DEEPER", "Cache", "Decoder"]

DEEPER = "deepstack_"
"""inputs deepstack_0, deepstack_1, ... [1, S, D] are added behind the first, the second, ... layer; [1, 1, D] of zeros
where there is no image"""
EMBEDS, MASK, POSITIONS, LOGITS = "inputs_embeds", "attention_mask", "position_ids", "logits"
PAST = re.compile(r"past_key_values\.\d+\.(key|value)")
STEP = 256
"""tokens by which a cache grows"""


@dataclass
class Cache:
    """What one conversation has in a decoder's memory."""

    length: int = 0
    """tokens that are in it"""
    capacity: int = 0
    values: dict[str, Any] = field(default_factory=dict)
    """name of the input -> OrtValue [1, heads, capacity, head size]"""


class Decoder:
    """An open decoder. Several conversations may use it in turn, each with a cache of its own.

    context: the most tokens of a conversation, and one above the highest position
    hidden: D, the width of embeddings
    axes: of its rotary positions, 3 or 1
    deeper: how many layers take features of the image (DeepStack)
    """

    def __init__(self, session: Session, context: int, head_size: int) -> None:
        """Raises BundleError when it is no such graph."""
        self._session, self._head_size, self.source, self.context = session, head_size, session.source, context
        self._inputs = inputs = session.inputs
        self._past = [name for name in inputs if PAST.fullmatch(name)]
        if not {EMBEDS, MASK} <= set(inputs) or LOGITS not in session.outputs or not self._past:
            raise BundleError(
                f"{self.source} must take {EMBEDS}, {MASK} and past_key_values, and give {LOGITS}, as a decoder "
                f"without embedding does; it takes {', '.join(inputs)}; assemble it again"
            )
        self.hidden = int(inputs[EMBEDS].shape[2])
        self.axes = 3 if POSITIONS in inputs and inputs[POSITIONS].shape[0] == 3 else 1
        self.deeper = sum(name.startswith(DEEPER) for name in inputs)

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], context: int, head_size: int, threads: int | None = None, device: str = "cpu"
    ) -> Decoder:
        """threads, device: as `open_session` has them; see there for the errors, too."""
        return cls(open_session(path, device, threads), context, head_size)

    def run(
        self, embeds: NDArray[Any], positions: NDArray[np.int64], cache: Cache, deeper: Sequence[NDArray[Any]] = ()
    ) -> NDArray[np.float32]:
        """Read S tokens more.

        embeds: [S, D]
        positions: [axes, S]
        deeper: [S, D] each, zeros where there is no image; none where there is no image at all among the S

        Returns what the decoder thinks of the token behind them: logits [V] float32. That there is room for S more in
        the context is the caller's promise. Raises BundleError when the graph fails on the way.
        """
        total = cache.length + len(embeds)
        if total > cache.capacity:
            self._grow(cache, min(self.context, -(-total // STEP) * STEP))
        feeds = {EMBEDS: embeds[None], MASK: np.ones((1, total))}
        if POSITIONS in self._inputs:
            feeds[POSITIONS] = positions[:, None] if self.axes == 3 else positions
        nothing = np.zeros((1, self.hidden))
        feeds |= {f"{DEEPER}{at}": (deeper[at] if deeper else nothing)[None] for at in range(self.deeper)}
        binding = self._session.raw.io_binding()
        binding.bind_output(LOGITS, "cpu")
        for name, values in feeds.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(values, self._inputs[name].dtype))
        for name, value in cache.values.items():
            binding.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_output(name.replace("past_key_values", "present"), value)
        with in_one_line(self.source):
            self._session.raw.run_with_iobinding(binding)
        cache.length = total
        last: NDArray[np.float32] = binding.get_outputs()[0].numpy()[0, -1].astype(np.float32)
        return last

    def close(self) -> None:
        self._session.close()

    def _grow(self, cache: Cache, capacity: int) -> None:
        """Larger arrays with the same in them."""
        import onnxruntime

        for name in self._past:
            spec = self._inputs[name]
            values: NDArray[Any] = np.zeros((1, int(spec.shape[1]), capacity, self._head_size), spec.dtype)
            if cache.length:
                values[:, :, : cache.length] = cache.values[name].numpy()[:, :, : cache.length]
            cache.values[name] = onnxruntime.OrtValue.ortvalue_from_numpy(values, self._session.device, 0)
        cache.capacity = capacity
