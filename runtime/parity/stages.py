"""`stages`: several cuts, each among what is left: anchors with their surroundings, then the rest. numpy only.

    first    the anchors, which `picks` begin with: the highest of `first`             hiprune
    marked   an anchor and its four neighbours, by `around` [N, 5]; they are kept
    then     the highest of the others by s, where score = s + 2 of a marked patch

`first` does not leave the graph: its error is taken for that of s, relative to the largest, or of the tokens.
"""

from __future__ import annotations

import numpy as np

from edgeprune.runtime.parity.decisions import Case, Chain, cut, joined, largest, mask, out_of_order
from edgeprune.runtime.parity.tiers import compared, tiers_of

__all__ = ["stages"]


def stages(case: Case) -> Chain:
    count, every = int(case.rule["anchors"]), np.ones(len(case.got["scores"]), bool)
    tiers = tiers_of(case.got["scores"])
    reference, error, relative, errors = compared(case)
    anchors = case.picks[:count]
    around = case.quantities["around"][anchors].astype(np.int64).ravel() if count else anchors
    marked = mask(len(every), around)
    defects = [] if np.array_equal(tiers > 0, marked) else ["the first picks are not anchors of the marked patches"]
    chosen = np.asarray(case.got["indices"], np.int64)
    if marked[chosen].sum() != marked.sum():
        defects.append("a marked patch is not kept")
    chains = []
    if count:
        first = case.quantities["first"].astype(np.float64)
        chains.append(cut(first, anchors, every, largest(relative, case.unseen) * float(first.max()), case.eps))
    chains.append(cut(reference, chosen[~marked[chosen]], ~marked, errors, case.eps))
    return joined(chains, error, relative, [*defects, *out_of_order(case, count)])
