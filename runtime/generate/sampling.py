"""Which token comes next: the likeliest one, or one that is drawn.

temperature  logit / t
top_k        the k likeliest, and what is as likely as the last of them
top_p        of those the fewest likeliest whose probabilities sum to p or more
draw         in proportion to what is left of the probabilities

Source  huggingface/transformers@v5.23 generation/logits_process.py (TemperatureLogitsWarper, TopKLogitsWarper,
        TopPLogitsWarper), in the order of its generate
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeprune.runtime.generate.engine import Sampling

__all__ = ["choose", "probabilities"]


def choose(logits: NDArray[np.float32], sampling: Sampling, random: np.random.Generator) -> int:
    """The next token. logits: [V]; of equals the first one"""
    if sampling.greedy:
        return int(np.argmax(logits))
    return int(random.choice(len(logits), p=probabilities(logits, sampling)))


def probabilities(logits: NDArray[np.float32], sampling: Sampling) -> NDArray[np.float64]:
    """[V] float64, what a token is drawn by; they sum to 1. Of a sampling that is not greedy."""
    scores = logits.astype(np.float64) / sampling.temperature
    if 0 < sampling.top_k < len(scores):
        scores[scores < np.partition(scores, -sampling.top_k)[-sampling.top_k]] = -np.inf
    likely = _softmax(scores)
    if sampling.top_p < 1:
        order = np.argsort(likely, kind="stable")
        beyond = order[likely[order].cumsum() <= 1 - sampling.top_p]
        likely[beyond[: len(order) - 1]] = 0  # one stays, whatever the sum rounds to
    drawn: NDArray[np.float64] = likely / likely.sum()
    return drawn


def _softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(scores - scores.max())
    likely: NDArray[np.float64] = powers / powers.sum()
    return likely
