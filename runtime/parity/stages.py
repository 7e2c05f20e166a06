"""`stages`: several cuts, each among what is left: anchors with their surroundings, then the rest. numpy only.

    first    the anchors, which `picks` begin with: the highest of `first`             hiprune, sppruner
    marked   an anchor and its four neighbours, by `around` [N, 5]; they are kept
    then     the highest of the others by s, where score = s + 2 of a marked patch

    asked    where the rule has so many: the last ones are the highest by `relevance` of those that are left, and those
             before them by `deep`; score = deep + 4 of a marked patch, deep + 2 of them, relevance of all others
                                                                                        hiprune_text
`first` does not leave the graph: its error is taken for that of s, relative to the largest, or of the tokens.
"""

from __future__ import annotations

import numpy as np

from edgeprune.runtime.parity.decisions import Case, Chain, cut, joined, largest, mask, out_of_order
from edgeprune.runtime.parity.tiers import TIER_ROUNDING, compared, parted, tiers_of
from edgeprune.runtime.parity.topk import of_shares

__all__ = ["stages"]


def stages(case: Case) -> Chain:
    if case.rule.get("asked"):
        return _asked(case)
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


def _asked(case: Case) -> Chain:
    count, asked = int(case.rule["anchors"]), int(case.rule["asked"])
    tiers, got = tiers_of(case.got["scores"]), parted(case.got["scores"])
    every, own = np.ones(len(got), bool), tiers > 0
    deep, relevance = (case.quantities[name].astype(np.float64) for name in ("deep", "relevance"))
    anchors, kept = case.picks[:count], np.asarray(case.got["indices"], np.int64)
    marked = mask(len(got), case.quantities["around"][anchors].astype(np.int64).ravel() if count else anchors)
    defects = [] if np.array_equal(tiers > 1, marked) else ["the first picks are not anchors of the marked patches"]
    if own.sum() != case.keep - asked or own[kept].sum() != own.sum():
        defects.append(f"the scores must mark {case.keep - asked} patches that are kept before the question is asked")
    if not np.array_equal(np.sort(case.picks[case.keep - asked :]), kept[~own[kept]]):
        defects.append(f"the last {asked} picks must be those of the question")
    errors = np.abs(got - np.where(own, deep, relevance))
    error = [largest(errors[own]), largest(errors[~own])]
    off = (errors - np.where(own, TIER_ROUNDING, 0.0)).clip(0)  # what s lost to the tier in front of it
    seen = largest(of_shares(np.where(own, off, 0.0), deep))
    relative = largest(seen, off[~own])  # relevance is of 0..1, whatever all patches have of it
    chains = []
    if count:
        first = case.quantities["first"].astype(np.float64)
        chains.append(cut(first, anchors, every, largest(seen, case.unseen) * float(first.max()), case.eps))
    chains.append(cut(deep, np.flatnonzero(own & ~marked), ~marked, error[0], case.eps))
    chains.append(cut(relevance, kept[~own[kept]], ~own, error[1], case.eps))
    return joined(chains, largest(*error), relative, [*defects, *out_of_order(case, count)])
