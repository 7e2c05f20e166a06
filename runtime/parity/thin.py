"""`thin`: rounds of removal, and each order that decides what is compared next. numpy only.

    order   as the device hands it out, [L]: all patches by falling attention, then for each round those at even places
            by falling value, of which the first are dropped                                                 vispruner
    value   the highest cosine with any at an odd place: `similarity`, given the device's own order so far
    worth   what each place of `order` was sorted by, as the device has it

A sort is as many decisions as it has places: at each, the highest of what is not placed yet.
"""

from __future__ import annotations

import numpy as np

from edgeprune.runtime.parity.decisions import (
    COSINE_NOISE,
    NEAR,
    NOTHING,
    Case,
    Chain,
    cut,
    joined,
    largest,
    mask,
    out_of_order,
)
from edgeprune.runtime.parity.tiers import compared, tiers_of

__all__ = ["thin"]


def thin(case: Case) -> Chain:
    important, dropped = int(case.rule["important"]), [int(count) for count in case.rule["dropped"]]
    reference, error, relative, errors = compared(case)
    patches = len(reference)
    log, worth = np.asarray(case.got["order"], np.int64), case.got["worth"].astype(np.float64)
    order, log, worth = log[:patches], log[patches:], worth[patches:]
    if sorted(order.tolist()) != list(range(patches)):
        return joined([NOTHING], error, relative, ["order does not begin with every patch once"])
    every, similarity = np.ones(patches, bool), case.quantities["similarity"].astype(np.float64)
    chains = [cut(reference, order[:important], every, errors, case.eps)]
    rest = order[important:]
    # Of the rest, too, the order by attention decides which are compared.
    chains.append(_sorted(reference, rest, errors + case.eps * float(reference.max()) / 2))
    for at, count in enumerate(dropped):
        even, odd = rest[0::2], rest[1::2]
        sequence, log = log[: len(even)], log[len(even) :]
        reported, worth = worth[: len(even)], worth[len(even) :]
        if sorted(sequence.tolist()) != sorted(even.tolist()):
            astray = f"order of round {at + 1} holds other patches than stand at even places"
            return joined([NOTHING], error, relative, [astray])
        value = np.full(patches, -np.inf)
        value[even] = similarity[np.ix_(even, odd)].max(axis=1)
        apart = np.zeros(patches)
        apart[sequence] = np.abs(reported - value[sequence])
        most = largest(apart)
        relative, error = largest(relative, case.bound * most / case.cosine_error), largest(error, most)
        chains.append(cut(value, sequence[:count], mask(patches, even), apart + COSINE_NOISE, case.eps))
        if at + 1 < len(dropped):  # the last round's order decides nothing
            chains.append(_sorted(value, sequence[count:], apart + COSINE_NOISE))
        rest = np.concatenate((sequence[count:], odd))
    left, tiers = np.concatenate((order[:important], rest)), np.zeros(patches)
    tiers[order[:important]], tiers[rest] = 2, 1
    defects = [] if np.array_equal(left, case.picks) else ["the picks are not what the rounds leave, in their order"]
    if not np.array_equal(tiers, tiers_of(case.got["scores"])):
        defects.append("the scores must mark the important patches and those that the rounds leave")
    return joined(chains, error, relative, [*defects, *out_of_order(case, 0, important)])


def _sorted(value: np.ndarray, sequence: np.ndarray, errors: np.ndarray) -> Chain:
    """Each place of a falling order as one decision."""
    here = value[sequence]
    highest = np.maximum.accumulate(here[::-1])[::-1] if len(here) else here
    after = np.append(highest[1:], -np.inf)
    apart = errors[sequence]
    near = [apart[max(0, at - NEAR) : at + NEAR + 1].max() for at in range(len(apart))]
    tolerance = 2 * np.array(near)
    return Chain(highest - here, tolerance, np.abs(here - after))
