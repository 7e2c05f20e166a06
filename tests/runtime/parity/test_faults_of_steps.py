"""Planted faults of steps inside the encoder: what a wrong export could do at one, for every reducer, in float32 and
float16. Each must be caught, by decisions or by tokens."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from edgeprune import shortening
from edgeprune.pruners import inside
from edgeprune.pruners._select import top_in_order
from edgeprune.schedule import Reduction, Step
from edgeprune.taps import Taps
from tests.covering import always
from tests.device import Arrays
from tests.device_of_steps import Fault, Stepping, stepping

REDUCERS = inside.names()
FIRST = ("cells", "drop", "tome")
"""the others run with the slow ones"""
SHARING = ["gtp", "token_transforming"]
"""which share rows out by weights of their own"""
MERGING = [name for name in REDUCERS if inside.get(name).merges]
PRECISIONS = ("float32", "float16")
Carried = Mapping[str, Tensor]


def some(names: Sequence[str]) -> list[Any]:
    return [name if name in FIRST else pytest.param(name, marks=pytest.mark.cells) for name in names]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", some(REDUCERS))
def test_without_a_fault_it_passes_and_is_decided(name: str, precision: str) -> None:
    device = stepping(name)
    verdict = device.judge(precision, device.healthy(precision), forced=precision == "float16")
    assert verdict.reasons == ()
    assert verdict.decided > 0.7 * verdict.decisions


# --- what it reads ----------------------------------------------------------------------------------------------------


def attending(change: Callable[[Any], Any], moved: Callable[[Tensor], Tensor]) -> Fault:
    """change: of what each layer attends to; moved: of the rows themselves, for who reads these."""

    def fault(own: Any, step: Step, taps: Taps, carried: Carried) -> Reduction:
        seen = {at: change(one) for at, one in taps.attention.items()}
        found: Reduction = own.select(step, replace(taps, attention=seen, features=moved(taps.features)), carried)
        return found

    return fault


def of_another_layer(own: Any, step: Step, taps: Taps, carried: Carried) -> Reduction:
    """At the first step, where as many rows stood in front of the layer before."""
    seen = {at: one for at, one in taps.attention.items() if at < step.layer}
    if step.layer == min(seen) + 2:
        seen[step.layer - 1] = seen[step.layer - 2]
    found: Reduction = own.select(step, replace(taps, attention=seen), carried)
    return found


READS: dict[str, Fault] = {
    "cls_off_by_one": attending(
        lambda one: replace(one, query=one.query.roll(-1, 2), key=one.key.roll(1, 2)), lambda rows: rows.roll(1, 1)
    ),
    "keys_of_another_image": attending(lambda one: replace(one, key=one.key.flip(0)), lambda rows: rows.flip(0)),
    "the_first_head_alone": attending(
        lambda one: replace(one, query=one.query[:, :1], key=one.key[:, :1]), lambda rows: rows[..., :32]
    ),
}


@pytest.mark.parametrize("precision", always(PRECISIONS, "float16"))
@pytest.mark.parametrize("fault", READS)
@pytest.mark.parametrize("name", some(REDUCERS))
def test_a_fault_in_what_a_step_reads_is_caught(name: str, fault: str, precision: str) -> None:
    assert caught(stepping(name), precision, stepping(name).run(precision, READS[fault]))


@pytest.mark.parametrize("precision", always(PRECISIONS, "float16"))
@pytest.mark.parametrize("name", some([name for name in REDUCERS if inside.get(name)().layers(Step(2, 80))]))
def test_another_layer_is_caught(name: str, precision: str) -> None:
    def layers(step: Step) -> tuple[int, ...]:
        return (step.layer - 2, step.layer - 1)

    assert caught(stepping(name), precision, stepping(name).run(precision, of_another_layer, layers=layers))


# --- what it does -----------------------------------------------------------------------------------------------------


def doing(change: Callable[[Reduction, Step], Reduction]) -> Fault:
    return lambda own, step, taps, carried: change(own.select(step, taps, carried), step)


def turned(found: Reduction, step: Step) -> Reduction:
    """The rows that go on, from the last to the first."""
    into = found.into
    if into is not None:
        into = torch.where((into >= 0) & (into < step.keep), step.keep - 1 - into, into)
    return replace(found, rows=found.rows.flip(1), into=into)


def going_on(found: Reduction, rows: Tensor) -> Reduction:
    """With other rows; those that do not go on join the first, or what remains where they were."""
    if found.into is None:
        return replace(found, rows=rows)
    here, keep = rows.unsqueeze(-1) == torch.arange(found.into.shape[1]), rows.shape[1]
    elsewhere = torch.where(found.into >= keep, found.into, keep if found.hidden else 0)
    return replace(found, rows=rows, into=torch.where(here.any(dim=1), here.float().argmax(dim=1), elsewhere))


def first_rows(found: Reduction, step: Step) -> Reduction:
    """As if there were no step, but for the number of rows."""
    return going_on(found, torch.arange(step.keep).expand(found.rows.shape[0], -1))


def lowest(found: Reduction, step: Step) -> Reduction:
    """Of the scores as they are."""
    return going_on(found, top_in_order(-found.scores, step.keep))


def another_images(found: Reduction, step: Step) -> Reduction:
    into = None if found.into is None else found.into.flip(0)
    return replace(found, rows=found.rows.flip(0), into=into, scores=found.scores.flip(0))


def next_row(found: Reduction, step: Step) -> Reduction:
    """What joins a row joins the one behind it, what remains of a quadrant is of the next."""
    assert found.into is not None
    stays = (found.rows.unsqueeze(-1) == torch.arange(found.into.shape[1])).any(dim=1)
    first, count = (step.keep, found.hidden) if found.hidden else (0, step.keep)
    moved = first + (found.into - first + 1) % count
    return replace(found, into=torch.where(stays, found.into, moved))


DOES = {"rows_turned": turned, "no_step": first_rows, "the_lowest": lowest, "another_images": another_images}


@pytest.mark.parametrize("precision", always(PRECISIONS, "float16"))
@pytest.mark.parametrize("fault", DOES)
@pytest.mark.parametrize("name", some(REDUCERS))
def test_a_fault_in_what_a_step_does_is_caught(name: str, fault: str, precision: str) -> None:
    assert caught(stepping(name), precision, stepping(name).run(precision, doing(DOES[fault])))


@pytest.mark.parametrize("precision", always(PRECISIONS, "float16"))
@pytest.mark.parametrize("name", some([name for name in MERGING if name != "gtp"]))
def test_a_merge_into_the_wrong_row_is_caught(name: str, precision: str) -> None:
    assert caught(stepping(name), precision, stepping(name).run(precision, doing(next_row)))


# --- what becomes of the rows -----------------------------------------------------------------------------------------


def no_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    own = shortening._weights
    monkeypatch.setattr(shortening, "_weights", lambda reduction, size: own(reduction, None))


def bias_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    own = shortening.Rows.mask

    def mask(self: Any, like: Tensor) -> Tensor | None:
        found = own(self, like)
        return None if found is None else 2 * found

    monkeypatch.setattr(shortening.Rows, "mask", mask)


def no_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortening.Rows, "mask", lambda self, like: None)


def rows_of_another_image(monkeypatch: pytest.MonkeyPatch) -> None:
    own = shortening.reduced
    monkeypatch.setattr(shortening, "reduced", lambda tower, hidden, *rest: own(tower, hidden.flip(0), *rest))


BECOMES = {
    "sizes_left_out_of_the_mean": (no_sizes, [name for name in MERGING if name not in SHARING]),
    "bias_left_out": (no_bias, MERGING),
    "bias_twice": (bias_twice, MERGING),
    "rows_of_another_image": (rows_of_another_image, REDUCERS),
}
EVERY = [
    pytest.param(name, fault, marks=() if name in FIRST else pytest.mark.cells)
    for fault, (_, names) in BECOMES.items()
    for name in names
]


@pytest.mark.parametrize("precision", always(PRECISIONS, "float16"))
@pytest.mark.parametrize(("name", "fault"), EVERY)
def test_a_fault_in_what_becomes_of_the_rows_is_caught(
    name: str, fault: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = stepping(name)
    device.cast(precision)
    BECOMES[fault][0](monkeypatch)
    got = device.run(precision)
    monkeypatch.undo()
    assert caught(device, precision, got)


@pytest.mark.parametrize("precision", always(PRECISIONS, "float16"))
@pytest.mark.parametrize("name", some(SHARING))
def test_sizes_that_are_left_out_of_shares_are_caught(name: str, precision: str) -> None:
    def fault(own: Any, step: Step, taps: Taps, carried: Carried) -> Reduction:
        found: Reduction = own.select(step, replace(taps, size=None), carried)
        return found

    assert caught(stepping(name), precision, stepping(name).run(precision, fault))


def caught(device: Stepping, precision: str, got: Arrays) -> bool:
    """By the stored reference, or by the one that did what the device did, where a step differs within rounding."""
    verdict = device.judge(precision, got)
    return bool(verdict.reasons or device.judge(precision, got, forced=True).reasons)


# --- behind a tie -----------------------------------------------------------------------------------------------------


def tied(own: Any, step: Step, taps: Taps, carried: Carried, garbage: bool) -> Reduction:
    """At the first step the last row that goes on changes places with the first that does not: their scores are as near
    as rounding. garbage: at the second one the rows are chosen by another image's"""
    found: Reduction = own.select(step, taps, carried)
    if step.layer != 2:
        return another_images(found, step) if garbage else found
    scores = found.scores.clone()
    order = scores.argsort(dim=1, descending=True)[:, step.keep - 1 : step.keep + 1]
    scores.scatter_(1, order, scores.gather(1, order.flip(1)))
    return Reduction(top_in_order(scores, step.keep), scores)


def test_garbage_behind_a_tie_is_caught_by_a_reference_that_does_what_the_device_did() -> None:
    device = stepping("drop")
    honest, garbage = (device.run("float16", functools.partial(tied, garbage=garbage)) for garbage in (False, True))
    stored, forced = device.judge("float16", honest), device.judge("float16", honest, forced=True)
    assert stored.reasons == forced.reasons == ()
    assert stored.within == 2
    assert stored.decided < 0.6 * stored.decisions < 0.9 * forced.decisions < forced.decided
    assert device.judge("float16", garbage).reasons == ()  # nothing can be said of it by what is stored
    assert device.judge("float16", garbage, forced=True).reasons
