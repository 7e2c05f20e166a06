"""`pairs`: of the rows at even places those most like one at an odd place join it. One step of ToMe. numpy only.

quantities   `alike` [even, odd], cosines of the rows' keys
scores       1 - the highest cosine of a row at an even place; TAKES of one at an odd place
decisions    a cut: the r even rows of the highest cosine merge; each of them joins the most similar odd row

Errors are those of cosines, whatever they are beside the largest score. What merges are judged by leaves the graph as
the scores: the error of a cosine is taken for the largest of theirs.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgeprune.runtime.parity.decisions import COSINE_NOISE, Case, Chain, cut, joined, largest, mask
from edgeprune.runtime.parity.joins import nearest
from edgeprune.runtime.parity.topk import lower_went_on
from edgeprune.runtime.parity.worth import worth_of_cut

__all__ = ["TAKES", "pairs", "unpaired"]

TAKES = 4.0
"""score of a row that others may join, above every 1 - cosine"""


def pairs(case: Case) -> Chain:
    reference, got = (side["scores"].astype(np.float64) for side in (case.reference, case.got))
    errors = np.abs(got - reference)
    error = largest(errors)
    stays, trail = (case.got[name].astype(np.int64) for name in ("indices", "trail"))
    even = np.arange(0, len(reference), 2)
    gone = np.setdiff1d(even, stays)
    noise = np.maximum(errors, COSINE_NOISE)
    among = mask(len(reference), even)
    chosen = cut(-reference, gone, among, noise, case.eps)
    chosen = replace(chosen, sets=[worth_of_cut(1 - reference, gone, among)])  # of the cosines themselves
    alike = case.quantities["alike"].astype(np.float64)[gone // 2]
    joins = nearest(alike, stays[trail[gone]] // 2, 2 * largest(error, COSINE_NOISE) + case.eps)
    return joined([chosen, joins], error, error)


def unpaired(case: Case) -> list[str]:
    """What ToMe never does: a row at an odd place joins none, one at an even place the odd ones alone, the lowest
    scores first."""
    scores, stays, trail = (case.got[name] for name in ("scores", "indices", "trail"))
    layer, odd = case.rule["layer"], np.arange(1, len(scores), 2)
    if (scores[odd] != TAKES).any() or (scores[::2] >= TAKES).any():
        return [f"scores.{layer} must be {TAKES:g} at odd places, and below at even ones"]
    if not np.isin(odd, stays).all():
        return [f"a row at an odd place must go on behind layer {layer}"]
    gone = np.setdiff1d(np.arange(len(scores)), stays)
    into = trail[gone]
    if (into < 0).any() or (stays[into.clip(0)] % 2 == 0).any():
        return [f"a row that does not go on behind layer {layer} must join one at an odd place"]
    return lower_went_on(case)
