"""Is it the same output? The device's own decisions are judged, each given those before it, by the reference's numbers.

    1  quantities   what the device ranked by is, within the bound, what the reference computes for the same decisions
    2  decisions    no regret above its tolerance (`decisions`); the rule of the method says what a decision is
    3  tokens       that are of the same patches agree within the bound, relative, each
    4  shape        indices ascend, are those of `picks` and the K highest of the own scores; scores are float32

    Bounds: 1e-4 in float32, 1e-2 in float16. `docs/parity.md` tells it with an example. A quantised graph brings
    bounds of its own, by which it is judged in place of the first three (`regret`).

Where tokens are dropped inside the encoder every output hangs on all that are kept: they are compared only where the
kept sets are equal; where steps shorten the sequence on the way (`inside`), where all of them did the same.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.runtime.parity.chunks import chunks
from edgeprune.runtime.parity.decisions import Case, Chain, joined, largest
from edgeprune.runtime.parity.forest import forest
from edgeprune.runtime.parity.greedy import greedy
from edgeprune.runtime.parity.groups import groups
from edgeprune.runtime.parity.inside import (
    RANKED,
    TRAIL,
    astray,
    followed,
    of_reference,
    places,
    stepped,
    undecided,
)
from edgeprune.runtime.parity.match import match
from edgeprune.runtime.parity.spaced import spaced
from edgeprune.runtime.parity.stages import stages
from edgeprune.runtime.parity.thin import thin
from edgeprune.runtime.parity.topk import fixed, topk
from edgeprune.runtime.parity.worth import beyond, median

__all__ = ["BOUNDS", "RULES", "Verdict", "compare", "relative", "worst"]

BOUNDS = {"float32": 1e-4, "float16": 1e-2}
"""Two float32 executors that sum in another order differ by some 1e-6 after a dozen layers, a wrong formula by 1e-2;
float16 keeps 11 bits, 5e-4 per rounding, and adds up over the layers."""

RULES: dict[str, Callable[[Case], Chain]] = {
    "topk": topk,
    "fixed": fixed,
    "stages": stages,
    "greedy": greedy,
    "thin": thin,
    "chunks": chunks,
    "match": match,
    "spaced": spaced,
    "groups": groups,
    "forest": forest,
}
TELLING = 4
"""scores that show whether they were rounded to float16; a few may be float16 numbers by chance"""
ROUNDING = 1e-5
"""far more than a float32 score of another executor differs by, and far less than most differ from a float16 number"""
NOT_ROWS = ("tokens", "indices", "scores", "picks", "origin", "order", "worth")
"""outputs that are no rows of the kept patches, of another kind than an extra"""
NEXT = "next."
"""how the names of outputs begin that are kept for the next frame: of all rows in front of a step"""

Outputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Verdict:
    """What parity makes of one run, or of several: counts add up, errors are those of the worst image.

    When the outputs are malformed nothing can be measured: the errors are inf, and `reasons` says why.
    """

    images: int
    equal_sets: int
    """images whose kept set is the reference's"""
    decisions: int
    decided: int
    """whose margin exceeds the tolerance: a mistake there would be seen"""
    within: int
    """within rounding: something else was better, by less than the tolerance"""
    wrong: int
    regret: float
    """the largest, over its tolerance"""
    lost: float
    """of what the best choice is worth, the share that this one lacks"""
    blind: float
    """of a choice by chance; the smallest of the images: where it is little, a small `lost` says little"""
    error: float
    """of what the device ranked by"""
    error_relative: float
    """the same over the largest of these quantities"""
    token_error: float
    """the largest ||a - b|| / ||b|| of tokens that are of the same patches; of a head, of its rows"""
    token_median: float
    """the median of them"""
    tokens: int
    """how many were compared"""
    reasons: tuple[str, ...] = ()
    """why it failed, each in one line; empty when it passed"""

    @property
    def passed(self) -> bool:
        return not self.reasons

    def to_json(self) -> dict[str, Any]:
        """The fields and `passed`; an error that is not finite becomes null."""
        fields = dataclasses.asdict(self)
        finite = {
            name: value if not isinstance(value, float) or math.isfinite(value) else None
            for name, value in fields.items()
        }
        return {"passed": self.passed, **finite, "reasons": list(self.reasons)}


def compare(
    reference: Outputs,
    got: Outputs,
    dtype: str,
    rule: Mapping[str, Any],
    quantities: Outputs,
    whole: bool = False,
    bounds: Mapping[str, Any] | None = None,
) -> Verdict:
    """Judge one run, image by image.

    reference, got: outputs by name: indices [B, K] int32, scores [B, N] float32, picks [B, K] and origin [B, N] where
        the graph has them, tokens [B, K, D] or a head's rows, extras [B, K, D], or positions [3, K]
    dtype: what the device computes in, float32 or float16: the bounds go with it
    rule: as the manifest has it, {"name": ..., parameters}; `whole` as below, where it is so of a method
    quantities: what the rule replays, by name, [B, ...]
    whole: whether every output hangs on all that are kept, as where tokens are dropped inside the encoder
    bounds: of a quantised graph, `regret`, `token_median` and `token_each`; no single decision is held against it then

    Raises ValueError for another dtype or rule. Malformed outputs are a failed verdict, not an exception.
    """
    if dtype not in BOUNDS:
        raise ValueError(f"dtype must be one of {', '.join(BOUNDS)}, got {dtype}")
    if rule.get("name") not in RULES:
        raise ValueError(f"the rule of parity must be one of {', '.join(RULES)}, got {rule.get('name')}")
    images = len(reference["indices"])
    if defects := _not_finite(reference, quantities, rule) or _defects(reference, got, dtype, rule):
        inf = math.inf
        return Verdict(images, 0, 0, 0, 0, 0, inf, inf, 0.0, inf, inf, inf, inf, 0, tuple(defects))
    verdicts = []
    for at in range(images):
        parts = [
            {name: _image(value, at, images) for name, value in one.items()} for one in (reference, got, quantities)
        ]
        name = f"image {at}: " if images > 1 else ""
        hanging = whole or bool(rule.get("whole"))
        verdicts.append(_judge(name, parts[0], parts[1], parts[2], dtype, rule, hanging, bounds))
    return worst(verdicts)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """All of them as one: counts added, errors the largest, reasons in order."""
    parts = list(verdicts)
    values: dict[str, Any] = {}
    for spec in dataclasses.fields(Verdict):
        column = [getattr(part, spec.name) for part in parts]
        if spec.name == "reasons":
            values[spec.name] = tuple(reason for reasons in column for reason in reasons)
        elif spec.name == "blind":
            values[spec.name] = min(column, default=0.0)
        elif spec.type == "float":
            values[spec.name] = largest(*column)
        else:
            values[spec.name] = sum(column)
    return Verdict(**values)


def _image(value: NDArray[Any], at: int, images: int) -> NDArray[Any]:
    """Of one image; positions are the same of all, and have their patches last."""
    return value.T if value.ndim == 2 and value.dtype.kind == "i" and len(value) == 3 != images else value[at]


def _judge(
    name: str,
    reference: Outputs,
    got: Outputs,
    quantities: Outputs,
    dtype: str,
    rule: Mapping[str, Any],
    whole: bool,
    bounds: Mapping[str, Any] | None,
) -> Verdict:
    bound, eps = bounds["token_each"] if bounds else BOUNDS[dtype], float(np.finfo(dtype).eps)
    same = np.array_equal(reference["indices"], got["indices"])
    steps = rule.get("steps") or []
    hanging = not followed(reference, got) if steps else whole and not same and not bounds
    errors, others = _rows(reference, got, steps, hanging)
    apart = largest(errors)
    unseen = min(apart, bound) if len(errors) else bound
    case, judge = Case(reference, got, quantities, rule, bound, eps, unseen), RULES[rule["name"]]
    if steps:
        inside = stepped(case)
        own = undecided(judge(of_reference(case))) if inside.case is None else judge(inside.case)
        chain = joined([inside.chain, own])
    else:
        chain = judge(case)
    reasons = [f"{name}{defect}" for defect in chain.defects]
    what, extras = ("tokens", others) if "tokens" in reference else (" or ".join(others), {})
    reasons += [
        f"{name}{one}"
        for one in (beyond(bounds, chain.lost, errors, what) if bounds else _wrong(chain, apart, bound, dtype, what))
    ]
    ranks = {"scores": rule["name"] == "greedy"}
    ranks |= {f"{RANKED}{step['layer']}": not step.get("shares") for step in steps}
    if any(_rounded(reference[one], got[one], small) for one, small in ranks.items()):
        reasons.append(f"{name}every score is a float16 number, so they were rounded; they must be computed in float32")
    allows = f"{bound:g} is allowed" if bounds else f"{dtype} allows {bound:g}"
    for extra, error in extras.items():
        if not error <= bound:
            reasons.append(f"{name}{extra} differs by up to {error:.2g} of its length, {allows}")
    return Verdict(
        images=1,
        equal_sets=int(same),
        decisions=len(chain.regret),
        decided=chain.decided,
        within=chain.within,
        wrong=chain.wrong,
        regret=chain.worst,
        lost=chain.lost,
        blind=chain.blind,
        error=chain.error,
        error_relative=chain.relative,
        token_error=apart,
        token_median=median(errors),
        tokens=len(errors),
        reasons=tuple(reasons),
    )


def _wrong(chain: Chain, apart: float, bound: float, dtype: str, what: str) -> Iterator[str]:
    """Why one image fails where every decision is held against it; apart: the largest error of `what`."""
    if not chain.relative <= bound:
        yield f"scores differ by {chain.relative:.2g} of the reference's, {dtype} allows {bound:g}"
    if chain.wrong:
        yield (
            f"{chain.wrong} of {len(chain.regret)} decisions are wrong: something better was there, by up to "
            f"{chain.worst:.3g} times what rounding explains"
        )
    if not apart <= bound:
        yield f"{what} differ by up to {apart:.2g} of their length, {dtype} allows {bound:g}"


def _rows(
    reference: Outputs, got: Outputs, steps: Sequence[Mapping[str, Any]], undecided: bool
) -> tuple[NDArray[np.float64], dict[str, float]]:
    """Errors of the tokens that are of the same patches, or of the same rows behind the steps; and the largest of each
    extra, by name.

    undecided: whether nothing can be said of them, because everything hangs on a set that differs
    """
    extras = [name for name in reference if name not in NOT_ROWS and not name.startswith((TRAIL, RANKED))]
    if undecided:
        return np.zeros(0), {}
    if "tokens" not in reference:
        errors = {name: np.atleast_1d(relative(reference[name], got[name])) for name in extras}
        return np.concatenate(list(errors.values())), {name: largest(one) for name, one in errors.items()}
    ours, theirs = (one["indices"].astype(np.int64) for one in (reference, got))
    if steps:
        ours, theirs = places(reference, steps)[ours], places(got, steps)[theirs]
    _, at, where = np.intersect1d(ours, theirs, return_indices=True)
    if "origin" in reference and not steps:  # a token of the same members, which joined it in the same way
        same = reference["order"] == got["order"] if "order" in reference else np.ones(len(reference["origin"]), bool)
        alike = [
            np.array_equal(members := reference["origin"] == one, got["origin"] == other) and same[members].all()
            for one, other in zip(at, where, strict=True)
        ]
        at, where = at[np.array(alike, bool)], where[np.array(alike, bool)]
    others = {}
    for name in extras:
        kept = name.startswith(NEXT)
        pair = (reference[name], got[name]) if kept else (reference[name][at], got[name][where])
        if pair[0].dtype.kind == "i":
            others[name] = 0.0 if np.array_equal(*pair) else math.inf
        else:
            others[name] = largest(np.atleast_1d(relative(*pair)))
    return relative(reference["tokens"][at], got["tokens"][where]), others


def relative(reference: NDArray[Any], got: NDArray[Any]) -> NDArray[np.float64]:
    """[F, D], [F, D] -> [F], ||got - reference|| / ||reference||; for a reference of zeros, 0 or inf."""
    wanted, given = reference.astype(np.float64), got.astype(np.float64)
    difference, length = np.linalg.norm(given - wanted, axis=-1), np.linalg.norm(wanted, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(difference == 0, 0.0, difference / length))


def _rounded(reference: NDArray[Any], got: NDArray[Any], small: bool) -> bool:
    """Scores are float32 in every precision. What stands in a tier lost bits to it.

    small: whether they may be differences of larger numbers; 1 - cosine of a small one has few bits by itself
    """

    def numbers(scores: NDArray[Any]) -> NDArray[Any]:
        scores = scores[np.isfinite(scores)]
        sizes = np.abs(scores)
        scores, sizes = scores[sizes < 2], sizes[sizes < 2]
        telling: NDArray[Any] = scores[sizes > 1e-2 * (1 if small else sizes.max(initial=0))]
        return telling

    def through(scores: NDArray[Any], tolerance: float) -> bool:
        with np.errstate(over="ignore", invalid="ignore"):
            away = np.abs(scores.astype(np.float16).astype(np.float32) - scores)
        return len(scores) >= TELLING and bool((away <= tolerance * np.abs(scores)).all())

    return through(numbers(got), 0) and not through(numbers(reference), ROUNDING)


def _not_finite(reference: Outputs, quantities: Outputs, rule: Mapping[str, Any]) -> list[str]:
    """What nothing can be compared with. Of a greedy method, -inf is the score of what it did not pick."""
    defects = []
    for name, value in (*reference.items(), *quantities.items()):
        unranked = name == "scores" and (rule["name"] == "greedy" or rule.get("steps"))
        allowed = np.isneginf(value) & ~_kept(reference) if unranked else False
        if count := int((~(np.isfinite(value) | allowed)).sum()):
            defects.append(f"the reference's {name} hold {count} values that are not finite; export the bundle again")
    return defects


def _kept(outputs: Outputs) -> NDArray[np.bool_]:
    """[B, N]"""
    kept = np.zeros(outputs["scores"].shape, bool)
    np.put_along_axis(kept, outputs["indices"].astype(np.int64), True, axis=1)
    return kept


def _defects(reference: Outputs, got: Outputs, dtype: str, rule: Mapping[str, Any]) -> list[str]:
    """What is wrong with the outputs themselves, whatever they are compared with."""
    defects = []
    for name, like in reference.items():
        if name not in got:
            defects.append(f"{name} is missing")
            continue
        exact = like.dtype.kind == "i" or name.partition(".")[0] == "scores"  # whatever the precision of the rest
        kind = dtype if name == "tokens" else (like if exact else got[name]).dtype.name
        if got[name].shape != like.shape or got[name].dtype != kind:
            defects.append(f"{name} must be {kind} {list(like.shape)}, got {got[name].dtype} {list(got[name].shape)}")
        elif got[name].dtype.kind == "f" and name != "scores" and not np.isfinite(got[name]).all():
            defects.append(f"{name} hold {int((~np.isfinite(got[name])).sum())} values that are not finite")
    if defects:
        return defects
    indices, scores = got["indices"], got["scores"]
    patches, keep = scores.shape[1], indices.shape[1]
    if indices.size and (indices.min() < 0 or indices.max() >= patches):
        return [f"indices must lie in 0..{patches - 1}, got {indices.min()}..{indices.max()}"]
    if (np.diff(indices, axis=1) <= 0).any():
        return ["indices must ascend strictly; they repeat or run backwards"]
    for name, lowest, size in (("origin", -1, keep), ("order", 0, patches)):
        if name in got and (got[name].min() < lowest or got[name].max() >= size):
            return [f"{name} must lie in {lowest}..{size - 1}, got {got[name].min()}..{got[name].max()}"]
    if "picks" in got and not np.array_equal(np.sort(got["picks"], axis=1), indices):
        defects.append("picks must hold the kept patches, each once")
    kept, gains = _kept(got), rule["name"] == "greedy"
    for at in range(len(indices) if rule.get("steps") else 0):
        own = {name: _image(value, at, len(indices)) for name, value in got.items()}
        if lost := astray(own, rule["steps"], gains):
            return [f"image {at}: {one}" if len(indices) > 1 else one for one in lost]
    if gains:
        wrong = int((np.isfinite(scores) != kept).sum() + ((scores != -np.inf) & ~np.isfinite(scores) & ~kept).sum())
        if wrong:
            defects.append(f"scores must be finite at the kept patches and -inf elsewhere; {wrong} are not")
    elif not (np.isfinite(scores) | (np.isneginf(scores) & bool(rule.get("steps")))).all():
        defects.append(f"scores hold {int((~np.isfinite(scores)).sum())} values that are not finite")
    elif rule["name"] != "fixed" and keep < patches:
        lowest = np.where(kept, scores, np.inf).min(axis=1)
        if (np.where(kept, -np.inf, scores).max(axis=1) > lowest).any():
            defects.append("the kept patches must be those of the highest scores; they are not")
    return defects
