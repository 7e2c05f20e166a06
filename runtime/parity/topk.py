"""`topk`: one cut, the K highest of N scores. And `fixed`: the same of every image, nothing to decide. numpy only.

quantities   the scores themselves, which leave the graph
"""

from __future__ import annotations

import math

import numpy as np

from edgeprune.runtime.parity.decisions import NOTHING, Case, Chain, cut, joined

__all__ = ["fixed", "measured", "topk"]


def topk(case: Case) -> Chain:
    reference = case.reference["scores"].astype(np.float64)
    own = case.got["scores"].astype(np.float64)
    error, relative, errors = measured(own, reference)
    chosen = np.asarray(case.got["indices"], np.int64)
    chain = cut(reference, chosen, np.ones(len(reference), bool), errors, case.eps)
    falls = "picks" not in case.got or not (np.diff(own[case.picks]) > 0).any()
    return joined([chain], error, relative, [] if falls else ["picks must run from the highest score down"])


def fixed(case: Case) -> Chain:
    """No decision: the kept patches must be those of the reference, and in its order."""
    error, relative, _ = measured(case.got["scores"], case.reference["scores"])
    named = [name for name in ("indices", "picks") if name in case.reference]
    same = all(np.array_equal(case.got[name], case.reference[name]) for name in named)
    return joined([NOTHING], error, relative, [] if same else ["the kept patches are not the fixed ones"])


def measured(got: np.ndarray, reference: np.ndarray) -> tuple[float, float, np.ndarray]:
    """Largest difference, the same over the largest reference, and [N] all of them."""
    errors = np.abs(got.astype(np.float64) - reference.astype(np.float64))
    error, scale = float(errors.max(initial=0)), float(np.abs(reference).max(initial=0))
    return error, error / scale if scale else (math.inf if error else 0.0), errors
