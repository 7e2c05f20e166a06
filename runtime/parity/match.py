"""`match`: patches that are not kept go to the kept one that is most like them. `origin` says to which. numpy only.

    nearest  a cut by the scores, what main directions leave, which an error turns `turn` times as far; every other
             patch joins the kept one of the highest `similarity`                                               lrcp
    stands   a cut (`dominant`); of the rest, every step-th stands for itself, and the others join the nearest
             of these                                                                                       visionzip
    windows  a cut in each `window` by `first`, and one of the others by the scores; every other patch joins the nearest
             of these, and tokens hang on the whole set                                                   aot, desap
    basis    the basis, each patch the furthest from those before it; a cut by what it leaves of a patch; among the kept
             another, of those that take others: every other patch joins the nearest of these; order[j] is the patch
             whose features stand at j: of the last ones the basis', by `products`                              apet
    recycled the context (`order`), patches that receive more than so much of the `map`; a cut by what this attends to;
             of what is left the highest in each `cell`, which stands for all of it there                   vflowopt
    rest     a cut by the scores; what is not kept joins the last pick, which is the best of it                     trim
    rounds   tokens at even places join the nearest at an odd place, the r most alike of them, round by round; each
             counts once, or `by_size` as often as it stands for patches                           aim, tome_behind
    energy   tokens of the highest energy join each other in turns, round by round (`energy.py`)      pitome_behind

origin[j] is the place in `indices` of the token that patch j went to, -1 for none; of rounds, order[j] is the patch
whose token it joined. What merges are judged by does not leave the graph: the error of a cosine is taken for twice that
of the tokens, or of the scores where that is more.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgeprune.runtime.parity.decisions import (
    COSINE_NOISE,
    NOTHING,
    Case,
    Chain,
    cut,
    joined,
    largest,
    mask,
    out_of_order,
)
from edgeprune.runtime.parity.energy import cosines, energy_rounds
from edgeprune.runtime.parity.joins import nearest
from edgeprune.runtime.parity.tiers import compared, parted, tiers_of
from edgeprune.runtime.parity.topk import topk

__all__ = ["match"]

TURNED = 1 / 8
"""of the farthest that directions may turn, what is allowed in a row: unharmed devices use a 20th of that"""


def match(case: Case) -> Chain:
    return FORMS[case.rule["form"]](case)


def _nearest(case: Case) -> Chain:
    reference = case.reference["scores"].astype(np.float64)
    got = case.got["scores"].astype(np.float64)
    # An error of e in X_j, which subtractions left little of, is one of 2 e sqrt(score_j) in the score. The mean is
    # made of all rows, and as exact as the longest of them; of the turn of the directions a row meets a part.
    length, turn = case.quantities["length"].astype(np.float64), float(case.quantities["turn"][0])
    off = case.cosine_error * (length.max() + TURNED * turn * length)
    scale = (2 * off * np.sqrt(reference.clip(0)) + off**2).clip(1e-30) / case.bound
    errors = np.abs(got - reference) + (COSINE_NOISE * length) ** 2  # of which nothing is left
    kept = np.asarray(case.got["indices"], np.int64)
    chosen = cut(reference, kept, np.ones(len(reference), bool), errors, case.eps)
    others = np.setdiff1d(np.arange(len(reference)), kept)
    error, relative = largest(np.abs(got - reference)), largest(np.abs(got - reference) / scale)
    merges, defects = _joins(case, others, kept, 0.0, case.quantities["similarity"])
    return joined([chosen, merges], error, relative, [*defects, *out_of_order(case)])


def _stands(case: Case) -> Chain:
    dominant, contextual = int(case.rule["dominant"]), int(case.rule["contextual"])
    tiers = tiers_of(case.got["scores"])
    reference, error, relative, errors = compared(case)
    every = np.ones(len(tiers), bool)
    lead = np.flatnonzero(tiers == 2)
    rest = np.setdiff1d(np.arange(len(tiers)), lead)
    step = max(1, len(rest) // max(contextual, 1))
    stands = rest[::step][:contextual]
    defects = []
    if len(lead) != dominant or not np.array_equal(np.flatnonzero(tiers == 1), stands):
        defects.append(f"the scores must mark {dominant} dominant patches and every {step}-th of the others")
    elif not np.array_equal(np.sort(np.concatenate((lead, stands))), case.got["indices"]):
        defects.append("the kept patches are not those that the scores mark")
    chains = [cut(reference, lead, every, errors, case.eps)]
    if contextual and not defects:
        merges, more = _joins(case, np.setdiff1d(rest, stands), stands, relative, case.quantities["similarity"])
        chains.append(merges)
        defects += more
    return joined(chains, error, relative, [*defects, *out_of_order(case)])


def _windows(case: Case) -> Chain:
    reference, error, relative, errors = compared(case)
    marked, window = tiers_of(case.got["scores"]) > 0, case.quantities["window"]
    first = case.quantities["first"].astype(np.float64)
    kept = np.asarray(case.got["indices"], np.int64)
    unseen = largest(relative, case.unseen) * float(first.max())
    counts = [int(marked[window == one].sum()) for one in np.unique(window)]
    even = len(set(counts)) == 1 and sum(counts) == marked.sum()
    defects = [] if even else ["every window must have as many anchors as the others"]
    if marked[kept].sum() != marked.sum():
        defects.append("an anchor of a window is not kept")
    chains = [
        cut(first, np.flatnonzero(marked & (window == one)), window == one, unseen, case.eps) for one in set(window)
    ]
    chains.append(cut(reference, kept[~marked[kept]], ~marked, errors, case.eps))
    merges, more = _joins(
        case, np.setdiff1d(np.arange(len(marked)), kept), kept, relative, case.quantities["similarity"]
    )
    return joined([*chains, merges], error, relative, [*defects, *more, *out_of_order(case)])


def _basis(case: Case) -> Chain:
    got, products = case.got["scores"].astype(np.float64), case.quantities["products"].astype(np.float64)
    order, kept, count = np.asarray(case.got["order"], np.int64), case.got["indices"], int(case.rule["basis"])
    body, last = case.picks[: case.keep - count], np.sort(case.picks[case.keep - count :])
    basis, squares, every = order[last], products.diagonal(), np.ones(len(got), bool)
    others, length = np.setdiff1d(np.arange(len(got)), kept), np.sqrt(squares)
    defects = ["the basis must begin with the first patch"] if count and basis[0] else []
    if (np.delete(order, last) != np.delete(np.arange(len(order)), last)).any():
        defects.append("other features than its own may stand at one of the last kept patches alone")
    # As exact as tokens, a row is off by so much; and so are those that it is explained by, as much as they do.
    off = case.cosine_error * length.max(initial=0)
    regret, tolerance, margin = (np.zeros(max(count - 1, 0)) for _ in range(3))
    for turn in range(1, count):
        before = basis[:turn]
        away = (squares + squares[before, None] - 2 * products[before]).min(axis=0).clip(0)
        alternatives = np.delete(away, basis[turn])
        best = float(alternatives.max(initial=0))
        regret[turn - 1], margin[turn - 1] = max(best - away[basis[turn]], 0), abs(best - away[basis[turn]])
        tolerance[turn - 1] = 2 * (4 * np.sqrt(max(best, 0)) * off + 4 * off**2) + COSINE_NOISE * squares.max()
    parts = _parts(products, basis, float(case.rule["ridge"]))
    explained, off = np.zeros(len(got)), squares.copy()
    for row, patch in enumerate(basis):
        mixed = sum((products[patch, other] * part for other, part in zip(basis, parts, strict=True)), 0 * explained)
        explained = explained + (2 * parts[row] * products[patch] - parts[row] * mixed)
        off = off + parts[row] * parts[row] * squares[patch]
    longest = max(float(squares.max()), 1e-18)
    error = case.reference["scores"].astype(np.float64)
    if not np.array_equal(basis, np.asarray(case.reference["order"], np.int64)[_last(case, count)]):
        error = (squares - explained).clip(0) / longest
    off = case.cosine_error * np.sqrt(off / longest)
    scale = (2 * off * np.sqrt(error.clip(0)) + off**2).clip(1e-30) / case.bound
    errors = np.abs(got - error)
    noise = errors + COSINE_NOISE**2 * (squares / longest)  # of which nothing is left
    alike = products / np.outer(*2 * [np.sqrt(squares.clip(1e-24))])
    merges, more = _joins(case, others, np.sort(body), 0.0, alike)
    chains = [
        Chain(regret, tolerance, margin),
        cut(error, np.asarray(kept, np.int64), every, noise, case.eps),
        cut(error, body, mask(len(got), kept), noise, case.eps),
        merges,
    ]
    return joined(chains, largest(errors), largest(errors / scale), [*defects, *more, *out_of_order(case)])


def _parts(products: np.ndarray, basis: np.ndarray, ridge: float) -> np.ndarray:
    """How much of each of the basis stands in the rows: [count, N]. By elimination with pivots, in an order that can be
    kept elsewhere: the basis may be nearly of one direction."""
    own = products[np.ix_(basis, basis)] + ridge * np.eye(len(basis))
    given: np.ndarray = products[basis]
    for at in range(len(basis)):
        best = at + int(np.abs(own[at:, at]).argmax())
        for rows in (own, given):
            rows[[at, best]] = rows[[best, at]]
        for row in range(at + 1, len(basis)):
            factor = own[row, at] / own[at, at]
            own[row, at:] -= factor * own[at, at:]
            given[row] -= factor * given[at]
    for at in reversed(range(len(basis))):
        for other in range(at + 1, len(basis)):
            given[at] -= own[at, other] * given[other]
        given[at] /= own[at, at]
    return given


def _last(case: Case, count: int) -> np.ndarray:
    """The places that the basis stands at, by the reference."""
    return np.sort(np.asarray(case.reference["picks"], np.int64)[case.keep - count :])


def _recycled(case: Case) -> Chain:
    seen, count = case.quantities["map"].astype(np.float64), int(case.rule["recycled"])
    received, context = seen.mean(axis=0), np.flatnonzero(case.got["order"])
    least = float(case.rule["threshold"]) * received.mean()
    attended = seen[context].mean(axis=0) if len(context) else np.zeros(len(received))
    own = replace(case, reference={**case.reference, "scores": attended})
    reference, error, relative, errors = compared(own)
    tiers, cell, kept = tiers_of(case.got["scores"]), case.quantities["cell"], np.asarray(case.got["indices"], np.int64)
    lead, stands = np.flatnonzero(tiers == 2), np.flatnonzero(tiers == 1)
    defects = [] if len(context) else ["the context must hold a patch"]
    if len(lead) != case.keep - count or len(np.unique(cell[stands])) != len(stands):
        defects.append(f"the scores must mark {case.keep - count} patches, and one of each cell")
    unseen = largest(relative, case.unseen)
    over, among = received - least, mask(len(received), context)
    if (over > 0).any() or len(context) > 1:
        off = np.where(among, -over, over)  # how far on the wrong side
        allowed = 2 * unseen * (received + least) + case.eps * received.max()
        chains = [Chain(off.clip(0), allowed, np.abs(over))]
    else:
        chains = [cut(received, context, np.ones(len(received), bool), unseen * float(received.max()), case.eps)]
    chains.append(cut(reference, lead, np.ones(len(tiers), bool), errors, case.eps))
    free = ~mask(len(tiers), lead)
    for one in range(count):
        here = free & (cell == one)
        if here.any() and not (tiers[here] == 1).any():
            defects.append("a cell that has patches left must have one that stands for them")
        chains.append(cut(reference, np.flatnonzero(here & (tiers == 1)), here, errors, case.eps))
    filled = kept[tiers[kept] == 0]
    chains.append(cut(reference, filled, free & (tiers == 0), errors, case.eps))
    place = np.full(len(tiers), -1)
    for at in stands:
        place[free & (cell == cell[at])] = np.searchsorted(kept, at)
    place[kept] = np.arange(len(kept))
    if not np.array_equal(place, case.got["origin"]):
        defects.append("what is left must go to the patch that stands for its cell")
    return joined(chains, error, relative, [*defects, *out_of_order(case)])


def _rest(case: Case) -> Chain:
    kept, last = np.asarray(case.got["indices"], np.int64), case.picks[-1]
    chosen, first, every = topk(case), case.picks[:-1], np.ones(len(case.got["scores"]), bool)
    reference = case.reference["scores"].astype(np.float64)
    errors = np.abs(case.got["scores"].astype(np.float64) - reference)
    place = np.full(len(every), np.searchsorted(kept, last))
    place[kept] = np.arange(len(kept))
    same = np.array_equal(place, case.got["origin"])
    defects = [] if same else ["what is not kept must go to the last pick, and a kept patch must be of its own token"]
    return joined([chosen, cut(reference, first, every, errors, case.eps)], defects=defects)


def _joins(
    case: Case, others: np.ndarray, targets: np.ndarray, relative: float, similarity: np.ndarray
) -> tuple[Chain, list[str]]:
    """Each of the others must have gone to the nearest of the targets: -> chain, what is no merge at all."""
    origin, kept = np.asarray(case.got["origin"], np.int64), np.asarray(case.got["indices"], np.int64)
    defects = []
    if len(kept) and not np.array_equal(origin[kept], np.arange(len(kept))):
        defects.append("a kept patch must be of its own token")
    if not len(others):
        return NOTHING, defects
    went = np.where(origin[others] >= 0, kept[origin[others]], -1)
    if not np.isin(went, targets).all():
        return NOTHING, [*defects, "a patch went to a token that takes none"]
    alike = similarity.astype(np.float64)[np.ix_(others, targets)]
    tolerance = 2 * _cosine_error(case, relative) + case.eps
    return nearest(alike, np.searchsorted(targets, went), tolerance), defects


def _rounds(case: Case) -> Chain:
    origin, order = (np.asarray(case.got[name], np.int64) for name in ("origin", "order"))
    through = tiers_of(case.got["scores"])
    errors = np.abs(parted(case.got["scores"]) - parted(case.reference["scores"]))
    error = largest(errors)
    noise = _cosine_error(case, 2 * error)  # a score has half of a cosine
    products = case.quantities["products"].astype(np.float64)
    patches = len(through)
    names, mix = np.arange(patches), np.eye(patches)  # what each token is made of
    size, weighted = np.ones(patches), bool(case.rule.get("by_size"))
    root = names  # whose token each patch is by now
    chains: list[Chain] = []
    defects: list[str] = []
    for turn, count in enumerate(int(count) for count in case.rule["merged"]):
        a, b = names[0::2], names[1::2]
        gone = through[a] == turn
        if gone.sum() != count or (through[b] == turn).any():
            defects.append(f"round {turn + 1} must merge {count} of the tokens at even places")
            break
        alike = cosines(mix[a], mix[b], products)
        best = np.zeros(patches)
        best[a] = alike.max(axis=1)
        chains.append(cut(best, a[gone], mask(patches, a), noise, case.eps))
        joins = order[a[gone], None] == b
        if not joins.any(axis=1).all():
            defects.append("a patch went to a token that none of its round became")
            break
        into = joins.argmax(axis=1)
        renamed = np.arange(patches)
        renamed[a[gone]] = b[into]
        root = renamed[root]
        chains.append(nearest(alike[gone], into, 2 * noise + case.eps))
        share = size if weighted else np.ones(patches)
        total, shares = mix[b] * share[b, None], share[b]
        np.add.at(total, into, mix[a[gone]] * share[a[gone], None])
        np.add.at(shares, into, share[a[gone]])
        mix[b] = total / shares[:, None]
        size[b] += np.bincount(into, weights=size[a[gone]], minlength=len(b))
        alone = a[~gone]
        names = np.concatenate((alone[np.argsort(best[alone], kind="stable")], b))
    if not defects:
        kept = np.sort(names)
        if not np.array_equal(kept, case.got["indices"]) or (through[kept] != len(case.rule["merged"])).any():
            defects.append("the kept patches are not what the rounds leave")
        elif not np.array_equal(kept[origin], root):
            defects.append("origin is not where the rounds took each patch")
    return joined([NOTHING, *chains], error, 2 * error, defects)


def _cosine_error(case: Case, relative: float) -> float:
    return 2 * largest(case.unseen, relative) + COSINE_NOISE


FORMS = {
    "nearest": _nearest,
    "stands": _stands,
    "windows": _windows,
    "basis": _basis,
    "recycled": _recycled,
    "rest": _rest,
    "rounds": _rounds,
    "energy": energy_rounds,
}
