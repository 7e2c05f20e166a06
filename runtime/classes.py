"""What a classifier's output says: probabilities of its classes, and the likeliest of them. numpy only.

    p = softmax(logits)                         in float32, whatever the graph computed in

Source  huggingface/transformers@v5.23 pipelines/image_classification.py (function "softmax", of one label each)
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["TOP", "Classes"]

TOP = 5
"""of transformers' pipeline"""


@dataclass(frozen=True, repr=False, eq=False)
class Classes:
    """What one image shows.

    >>> classes = Classes(np.log(np.array([0.2, 0.7, 0.1])), ("cat", "dog", "fox"))
    >>> classes
    dog 0.700, cat 0.200, fox 0.100
    """

    logits: NDArray[Any]
    """[classes] float32 or float16, as the graph gives them"""
    labels: tuple[str, ...]
    """the names of the classes, in the same order"""

    @functools.cached_property
    def probabilities(self) -> NDArray[np.float32]:
        """[classes] float32"""
        logits = self.logits.astype(np.float32)
        powers = np.exp(logits - logits.max())
        shares: NDArray[np.float32] = powers / powers.sum()
        return shares

    def top(self, count: int = TOP) -> list[tuple[str, float]]:
        """The likeliest classes and their probabilities, the likeliest first; all where there are fewer than `count`.

        Of two that are as likely the first in the model's order comes first.
        """
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.labels[at], float(self.probabilities[at])) for at in order.tolist()]

    def __repr__(self) -> str:
        return ", ".join(f"{label} {share:.3f}" for label, share in self.top())
