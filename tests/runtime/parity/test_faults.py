"""Planted faults: what a wrong export could do, on every method, in float32 and float16. Each must be caught.

The device is the traced module itself on the embedded model, its weights cast as the export casts them; a fault changes
what the method reads, how it chooses, or what comes out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from edgeprune import pruners
from edgeprune.pruners import Method, Selection
from edgeprune.taps import Taps
from tests.covering import always, of_methods
from tests.device import KEEP, Arrays, of_scenes

METHODS = [name for name in pruners.names() if name not in ("bavit", "none", "pool", "random", "uniform")]
"""bavit needs a scorer, and its rule is that of received; the others choose nothing"""
PRECISIONS = ("float32", "float16")
"""what is caught in the second, within its wider bounds, always runs"""


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", of_methods(METHODS))
def test_without_a_fault_it_passes(name: str, precision: str) -> None:
    verdict = of_scenes().judge(name, precision, of_scenes().healthy(name, precision))
    assert not verdict.reasons
    assert verdict.wrong == 0


# --- what comes out -------------------------------------------------------------------------------------------------


def tokens_swapped(got: Arrays) -> Arrays:
    tokens = got["tokens"].copy()
    tokens[:, [0, 9]] = tokens[:, [9, 0]]
    return {**got, "tokens": tokens}


def tokens_of_another_image(got: Arrays) -> Arrays:
    return {**got, "tokens": got["tokens"][::-1].copy()}


def everything_of_another_image(got: Arrays) -> Arrays:
    return {key: value[::-1].copy() for key, value in got.items()}


def scores_scaled(got: Arrays) -> Arrays:
    return {**got, "scores": (got["scores"] * np.float32(1.1)).astype(np.float32)}


def order_reversed(got: Arrays) -> Arrays:
    return {**got, "indices": got["indices"][:, ::-1].copy(), "tokens": got["tokens"][:, ::-1].copy()}


def a_dropped_patch_in_place_of_a_kept_one(got: Arrays) -> Arrays:
    """The best kept patch gives its place to one that was dropped, everywhere alike."""
    found = {key: value.copy() for key, value in got.items()}
    for image in range(2):
        kept = found["indices"][image]
        out = next(at for at in range(found["scores"].shape[1]) if at not in kept)
        gone = kept[int(np.argmax(found["scores"][image][kept]))]
        kept[kept == gone] = out
        kept.sort()
        if "picks" in found:
            found["picks"][image][found["picks"][image] == gone] = out
        scores = found["scores"][image]
        scores[[gone, out]] = scores[[out, gone]]
    return found


OUTPUTS = (
    tokens_swapped,
    tokens_of_another_image,
    everything_of_another_image,
    scores_scaled,
    order_reversed,
    a_dropped_patch_in_place_of_a_kept_one,
)


UNSEEN = {("pitome_behind", "tokens_swapped", "float16")}
"""who joins and who takes are turns by energy, and one that rounding turns changes all behind it: 15 of 64 tokens are
of the same patches as the reference's, and of the others nothing is said"""


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("fault", OUTPUTS, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("name", of_methods(METHODS))
def test_a_fault_in_what_comes_out_is_caught(name: str, fault: Callable[[Arrays], Arrays], precision: str) -> None:
    verdict = of_scenes().judge(name, precision, fault(of_scenes().healthy(name, precision)))
    if (name, fault.__name__, precision) in UNSEEN and verdict.passed:
        assert verdict.tokens < KEEP  # of two images
        pytest.xfail("what was swapped is not compared")
    assert verdict.reasons


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", of_methods(name for name in METHODS if "origin" in pruners.get(name).traits.emits))
def test_a_merge_into_the_wrong_token_is_caught(name: str, precision: str) -> None:
    got = of_scenes().healthy(name, precision)
    origin = got["origin"].copy()
    for image in range(2):
        merged = next(at for at in range(origin.shape[1]) if at not in got["indices"][image] and origin[image, at] >= 0)
        origin[image, merged] = (origin[image, merged] + KEEP // 2) % KEEP
    assert of_scenes().judge(name, precision, {**got, "origin": origin}).reasons


ORDERS = [
    *((name, "origin") for name in METHODS if "origin" in pruners.get(name).traits.emits),
    *((name, "order") for name in METHODS if "order" in pruners.get(name).traits.emits),
]


@pytest.mark.parametrize("number", [-2, 1 << 20])
@pytest.mark.parametrize(("name", "output"), of_methods(ORDERS))
def test_an_output_that_names_no_patch_fails_and_breaks_nothing(name: str, output: str, number: int) -> None:
    got = of_scenes().healthy(name, "float32")
    wild = got[output].copy()
    wild[0, 3] = number
    assert f"{output} must lie in" in of_scenes().judge(name, "float32", {**got, output: wild}).reasons[0]


# --- what it reads --------------------------------------------------------------------------------------------------


def another_query(own: Method, taps: Taps) -> Selection:
    """[CLS] off by one: the row of the first patch. Queries are shifted, which changes column means little or not."""
    moved = {at: replace(seen, query=seen.query[:, :, 1:]) for at, seen in taps.attention.items()}
    return own.select(replace(taps, attention=moved))


def scale_of_attention_dropped(own: Method, taps: Taps) -> Selection:
    return own.select(replace(taps, attention={at: replace(one, scaling=1.0) for at, one in taps.attention.items()}))


def features_of_another_image(own: Method, taps: Taps) -> Selection:
    return own.select(replace(taps, features=taps.features.flip(0), projected=taps.projected.flip(0)))


def features_not_of_their_patches(own: Method, taps: Taps) -> Selection:
    return own.select(replace(taps, features=taps.features.roll(1, 1), projected=taps.projected.roll(1, 1)))


def keys_of_another_image(own: Method, taps: Taps) -> Selection:
    return own.select(
        replace(taps, attention={at: replace(one, key=one.key.flip(0)) for at, one in taps.attention.items()})
    )


def keys_of_one_head(own: Method, taps: Taps) -> Selection:
    return own.select(
        replace(taps, attention={at: replace(one, key=one.key[:, :1]) for at, one in taps.attention.items()})
    )


def wrong_normalisation(own: Method, taps: Taps) -> Selection:
    """Rows are squared before anything is measured, as if lengths had been divided out twice."""
    return own.select(replace(taps, features=taps.features**2, projected=taps.projected**2))


def text_of_another_image(own: Method, taps: Taps) -> Selection:
    return own.select(replace(taps, given={name: one.flip(0) for name, one in taps.given.items()}))


def no_text(own: Method, taps: Taps) -> Selection:
    return own.select(replace(taps, given={name: 0 * one for name, one in taps.given.items()}))


def the_opposite_text(own: Method, taps: Taps) -> Selection:
    return own.select(replace(taps, given={**taps.given, "text": -taps.given["text"]}))


READS_CLS = [name for name in METHODS if pruners.get(name).traits.needs_cls]
READS_ATTENTION = [*READS_CLS, "aot", "hiprune", "hiprune_text", "idpruner", "received", "vflowopt"]
READS_KEYS = ["entropyprune", "pitome_behind", "tome_behind"]
READS_FEATURES = [
    *("agilepruner", "aim", "aot", "apet", "cdpruner", "dart", "divprune", "dpp", "forestprune", "idpruner"),
    *("idselection", "learnpruner", "lrcp", "mmtok", "otprune", "prunesid", "scope", "score", "todre", "trim"),
    *("vispruner", "zoo"),
]
ASKS = [name for name in METHODS if pruners.get(name).traits.asks]
CASES = [
    *((name, another_query) for name in READS_CLS),
    *((name, scale_of_attention_dropped) for name in READS_ATTENTION),
    *((name, keys_of_another_image) for name in READS_KEYS),
    *((name, keys_of_one_head) for name in READS_KEYS if name != "entropyprune"),  # which refuses a single head
    *((name, features_of_another_image) for name in READS_FEATURES),
    *((name, features_not_of_their_patches) for name in READS_FEATURES),
    *((name, wrong_normalisation) for name in READS_FEATURES),
    *((name, fault) for name in ASKS for fault in (text_of_another_image, no_text, the_opposite_text)),
]


@pytest.mark.parametrize("precision", always(PRECISIONS, "float16"))
@pytest.mark.parametrize(
    ("name", "fault"),
    of_methods(CASES, ("tome_behind", keys_of_another_image), ("tome_behind", keys_of_one_head)),
    ids=lambda one: one if isinstance(one, str) else one.__name__,
)
def test_a_fault_in_what_it_reads_is_caught(
    name: str, fault: Callable[[Method, Taps], Selection], precision: str
) -> None:
    assert of_scenes().judge(name, precision, of_scenes().run(name, precision, fault)).reasons


# --- how it chooses -------------------------------------------------------------------------------------------------


def garbage_behind(own: Method, taps: Taps, first: int) -> Selection:
    """From the pick `first` on, those that the method wanted least, with the gains that they have."""
    chosen = own.select(taps)
    assert chosen.picks is not None
    everything = replace_keep(own, of_scenes().encoder.patches).select(taps)
    assert everything.picks is not None
    picks = torch.cat((chosen.picks[:, :first], everything.picks.flip(1)[:, : KEEP - first]), dim=1)
    scores = torch.full_like(chosen.scores, -torch.inf)
    return Selection(
        picks.sort(dim=1).values, scores.scatter(1, picks, everything.scores.gather(1, picks)), picks=picks
    )


def replace_keep(method: Method, keep: int) -> Method:
    return replace(method, keep=keep)  # type: ignore[type-var]


GREEDY = [
    name
    for name in METHODS
    if of_scenes().method(name).rule(144)["name"] == "greedy" and pruners.get(name).traits.nested
]


EXCUSED = {("scope", 24, "float16")}
"""coverage is nearly complete by then: what is left to gain is within float16's rounding, and 13 of 64 are decided"""


@pytest.mark.parametrize("precision", always(PRECISIONS, "float16"))
@pytest.mark.parametrize("first", always([0, 1, 8, 24], 1, 24))
@pytest.mark.parametrize("name", of_methods(GREEDY, "dpp", "scope"))  # and those whose gains come to nothing
def test_garbage_behind_any_pick_is_caught(name: str, first: int, precision: str) -> None:
    verdict = of_scenes().judge(
        name, precision, of_scenes().run(name, precision, lambda own, taps: garbage_behind(own, taps, first))
    )
    if (name, first, precision) in EXCUSED and verdict.passed:
        assert verdict.decided < verdict.decisions / 2  # and so it says of itself that it is not proven
        pytest.xfail("the last gains of coverage are within rounding")
    assert verdict.reasons


def test_the_lowest_attention_in_place_of_the_diverse_half_is_caught() -> None:
    """vispruner with its diverse half replaced: comparing sets excused it all in float16."""

    def lowest(own: Method, taps: Taps) -> Selection:
        chosen = own.select(taps)
        order = taps.cls_attention().mean(dim=1).argsort(dim=1, descending=True)
        picks = torch.cat((order[:, : KEEP // 2], order[:, -(KEEP - KEEP // 2) :]), dim=1)
        scores = taps.cls_attention().mean(dim=1).scatter_add(1, picks, torch.full(picks.shape, 2.0))
        return replace(chosen, indices=picks.sort(dim=1).values, picks=picks, scores=scores)

    for precision in PRECISIONS:
        assert of_scenes().judge("vispruner", precision, of_scenes().run("vispruner", precision, lowest)).reasons
