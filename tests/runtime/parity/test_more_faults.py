"""Further planted faults, as somebody tries them who has not read the rules: each must be caught, in float16 as well.

A fault changes what comes out of a device that is right, or what its method reads, or how it chooses while it reports
the gains that its choices really have, or nearly.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeprune import pruners
from edgeprune.pruners import Method, Selection
from edgeprune.runtime.parity import RULES, Verdict, compare, worst
from edgeprune.runtime.parity.decisions import Case
from edgeprune.runtime.parity.greedy import OBJECTIVES
from edgeprune.taps import Taps

Arrays: TypeAlias = "dict[str, np.ndarray]"
Device: TypeAlias = Any
"""of conftest.py"""
KEEP, N = 32, 144
NAMES = [name for name in pruners.names() if name not in ("bavit", "none")]
TRAITS = {name: pruners.get(name).traits for name in NAMES}
MERGING = [name for name in NAMES if "origin" in TRAITS[name].emits]
FIXED = ["pool", "random", "uniform"]
CLS = [name for name in NAMES if TRAITS[name].needs_cls]
GREEDY = ["divprune", "dpp", "idpruner", "scope", "todre", "zoo"]
TAKING = [name for name in NAMES if name not in (*MERGING, "pool", "received")]
"""whose tokens are those of their patches, projected"""


def drawn() -> np.random.Generator:
    return np.random.default_rng(7)


# --- what comes out -------------------------------------------------------------------------------------------------


def tokens_one_place_on(got: Arrays) -> Arrays:
    return {**got, "tokens": np.roll(got["tokens"], 1, axis=1)}


def tokens_in_the_order_of_picks(got: Arrays) -> Arrays:
    places = np.stack([np.searchsorted(kept, picks) for kept, picks in zip(got["indices"], got["picks"], strict=True)])
    return {**got, "tokens": np.take_along_axis(got["tokens"], places[:, :, None], axis=1)}


def the_last_token_missing(got: Arrays) -> Arrays:
    tokens = got["tokens"].copy()
    tokens[:, -1] = 0
    return {**got, "tokens": tokens}


def tokens_mixed_with_their_neighbours(got: Arrays) -> Arrays:
    tokens = got["tokens"].astype(np.float32)
    return {**got, "tokens": (0.9 * tokens + 0.1 * np.roll(tokens, 1, axis=1)).astype(got["tokens"].dtype)}


def a_channel_with_the_other_sign(got: Arrays) -> Arrays:
    tokens = got["tokens"].copy()
    tokens[..., 0] *= -1
    return {**got, "tokens": tokens}


def a_pick_twice(got: Arrays) -> Arrays:
    picks = got["picks"].copy()
    picks[:, 1] = picks[:, 0]
    return {**got, "picks": picks}


def picks_in_raster_order(got: Arrays) -> Arrays:
    return {**got, "picks": got["indices"].copy()}


def the_second_half_of_picks_shuffled(got: Arrays) -> Arrays:
    picks = got["picks"].copy()
    picks[:, KEEP // 2 :] = drawn().permuted(picks[:, KEEP // 2 :], axis=1)
    return {**got, "picks": picks}


def indices_off_by_one(got: Arrays) -> Arrays:
    step = 1 if got["indices"].max() < N - 1 else -1
    moved: Arrays = {name: (got[name] + step).astype(np.int32) for name in ("indices", "picks") if name in got}
    return {**got, **moved, "scores": np.roll(got["scores"], step, axis=1)}


def a_constant_added_to_scores(got: Arrays) -> Arrays:
    return {**got, "scores": (got["scores"] + np.float32(0.02 * finite(got).max())).astype(np.float32)}


def two_added_to_scores(got: Arrays) -> Arrays:
    """A tier too high, where there are tiers."""
    return {**got, "scores": got["scores"] + np.float32(2)}


def scores_of_kept_patches_one_place_on(got: Arrays) -> Arrays:
    scores, kept = got["scores"].copy(), got["indices"].astype(np.int64)
    np.put_along_axis(scores, kept, np.roll(np.take_along_axis(scores, kept, 1), 1, axis=1), 1)
    return {**got, "scores": scores}


def scores_rounded_to_float16(got: Arrays) -> Arrays:
    return {**got, "scores": got["scores"].astype(np.float16).astype(np.float32)}


def scores_of_another_image(got: Arrays) -> Arrays:
    return {**got, "scores": got["scores"][::-1].copy()}


def origin_shuffled(got: Arrays) -> Arrays:
    """The same groups, each under the number of another token."""
    numbers, origin = drawn().permutation(KEEP).astype(np.int32), got["origin"]
    return {**got, "origin": np.where(origin >= 0, numbers[origin], -1)}


def origin_by_distance_in_the_raster(got: Arrays) -> Arrays:
    near = np.abs(np.arange(N)[None, :, None] - got["indices"][:, None, :]).argmin(axis=2).astype(np.int32)
    return {**got, "origin": np.where(got["origin"] >= 0, near, -1)}


def nothing_merged_anywhere(got: Arrays) -> Arrays:
    origin = np.full_like(got["origin"], -1)
    np.put_along_axis(origin, got["indices"].astype(np.int64), np.arange(KEEP, dtype=np.int32)[None], 1)
    return {**got, "origin": origin}


def finite(got: Arrays) -> np.ndarray:
    return np.abs(got["scores"][np.isfinite(got["scores"])])


RANKING = [name for name in NAMES if name not in FIXED]
WITH_PICKS = [name for name in NAMES if "picks" in TRAITS[name].emits]
OUTPUTS: dict[Callable[[Arrays], Arrays], list[str]] = {
    tokens_one_place_on: NAMES,
    tokens_in_the_order_of_picks: [name for name in WITH_PICKS if name != "random"],
    the_last_token_missing: NAMES,
    tokens_mixed_with_their_neighbours: NAMES,
    a_channel_with_the_other_sign: NAMES,
    a_pick_twice: WITH_PICKS,
    picks_in_raster_order: WITH_PICKS,
    the_second_half_of_picks_shuffled: WITH_PICKS,
    indices_off_by_one: [name for name in NAMES if name not in MERGING],
    a_constant_added_to_scores: [name for name in RANKING if name not in ("idpruner", "lrcp")],
    two_added_to_scores: NAMES,
    scores_of_kept_patches_one_place_on: RANKING,
    scores_rounded_to_float16: [name for name in NAMES if name not in FIXED],
    scores_of_another_image: RANKING,
    origin_shuffled: MERGING,
    origin_by_distance_in_the_raster: MERGING,
    nothing_merged_anywhere: MERGING,
}


@pytest.mark.parametrize("fault", OUTPUTS, ids=lambda fault: fault.__name__)
def test_a_fault_in_what_comes_out_is_caught(device: Device, fault: Callable[[Arrays], Arrays]) -> None:
    for precision in ("float16", "float32"):
        judged = {
            name: device.judge(name, precision, fault(device.healthy(name, precision))) for name in OUTPUTS[fault]
        }
        assert [name for name, verdict in judged.items() if verdict.passed] == []


# --- tokens that are made another way, of the right patches -----------------------------------------------------------


Make: TypeAlias = "Callable[[nn.Module, Tensor, Tensor], Tensor]"


def taken(x: Tensor, rows: Tensor) -> Tensor:
    return x.gather(1, rows[:, :, None].expand(-1, -1, x.shape[2]))


def without_bias(at: int) -> Make:
    def make(projector: nn.Module, features: Tensor, rows: Tensor) -> Tensor:
        other = copy.deepcopy(projector)
        [part for part in other.modules() if isinstance(part, nn.Linear)][at].bias.data.zero_()
        made: Tensor = other(taken(features, rows))
        return made

    return make


def with_relu(projector: nn.Module, features: Tensor, rows: Tensor) -> Tensor:
    first, second = (part for part in projector.modules() if isinstance(part, nn.Linear))
    made: Tensor = second(torch.relu(first(taken(features, rows))))
    return made


def of_neighbours(projector: nn.Module, features: Tensor, rows: Tensor) -> Tensor:
    made: Tensor = projector(taken(features, (rows + 1).clamp(max=N - 1)))
    return made


def of_a_grid_turned_over(projector: nn.Module, features: Tensor, rows: Tensor) -> Tensor:
    made: Tensor = projector(taken(features, rows % 12 * 12 + rows // 12))
    return made


def normed(projector: nn.Module, features: Tensor, rows: Tensor) -> Tensor:
    made: Tensor = projector(nn.functional.layer_norm(taken(features, rows), features.shape[-1:]))
    return made


def right(projector: nn.Module, features: Tensor, rows: Tensor) -> Tensor:
    made: Tensor = projector(taken(features, rows))
    return made


MADE: dict[str, tuple[Make, int]] = {
    "first_bias_left_out": (without_bias(0), 0),
    "last_bias_left_out": (without_bias(1), 0),
    "another_activation": (with_relu, 0),
    "of_neighbours": (of_neighbours, 0),
    "of_a_grid_turned_over": (of_a_grid_turned_over, 0),
    "of_features_that_were_normed": (normed, 0),
    "of_the_layer_before": (right, -1),
    "of_the_layer_behind": (right, 1),
}


@pytest.mark.parametrize("fault", MADE)
def test_right_indices_do_not_excuse_other_tokens(device: Device, fault: str) -> None:
    make, off = MADE[fault]
    encoder, _ = device.cast("fastervlm", "float16")
    with torch.inference_mode():
        out = encoder.tower.module(device.pixels.half(), output_hidden_states=True)
        features = out.hidden_states[encoder.layer + off][:, encoder.tower.prefix :]

        def tokens(got: Arrays, make: Make) -> Arrays:
            made = make(encoder.projector, features, torch.from_numpy(got["indices"].astype(np.int64)))
            return {**got, "tokens": made.numpy()}

        every = {name: device.healthy(name, "float16") for name in TAKING}
        passed = [name for name, got in every.items() if device.judge(name, "float16", tokens(got, make)).passed]
        assert passed == []
        if fault == "of_neighbours":  # made here in the right way, they pass
            assert all(device.judge(name, "float16", tokens(got, right)).passed for name, got in every.items())


# --- merging ----------------------------------------------------------------------------------------------------------


def times(weights: Callable[[Tensor], Tensor]) -> Callable[[Method, Taps], Selection]:
    """The merge of visionzip, whose rows are 1 for the kept patch and a share for each that joined it, changed."""

    def fault(own: Method, taps: Taps) -> Selection:
        chosen = own.select(taps)
        assert chosen.merge is not None
        return replace(chosen, merge=weights(chosen.merge))

    return fault


def members(merge: Tensor) -> Tensor:
    return (merge > 0).to(merge.dtype)


MERGES: dict[str, Callable[[Method, Taps], Selection]] = {
    "sum_in_place_of_mean": times(members),
    "mean_with_the_kept_patch": times(lambda merge: members(merge) / members(merge).sum(dim=-1, keepdim=True)),
    "nothing_but_the_kept_patch": times(lambda merge: (merge == 1).to(merge.dtype)),
    "half_of_the_mean": times(lambda merge: torch.where(merge < 1, merge / 2, merge)),
    "merged_with_another_image": times(lambda merge: merge.flip(0)),
}


@pytest.mark.parametrize("fault", MERGES)
def test_wrong_weights_of_a_merge_are_caught(device: Device, fault: str) -> None:
    assert not device.judge("visionzip", "float16", device.run("visionzip", "float16", MERGES[fault])).passed


@pytest.mark.parametrize("name", ["aim", "lrcp"])
def test_wrong_means_of_a_merge_are_caught(device: Device, name: str) -> None:
    def of_members(own: Method, taps: Taps, weigh: Callable[[Tensor], Tensor]) -> Selection:
        chosen = own.select(taps)
        assert chosen.origin is not None
        groups = nn.functional.one_hot(chosen.origin, KEEP).mT.to(taps.projected.dtype)
        return replace(chosen, merged=weigh(groups) @ taps.projected)

    def kept_alone(own: Method, taps: Taps) -> Selection:
        chosen = own.select(taps)
        return replace(chosen, merged=taken(taps.projected, chosen.indices))

    sums = device.run(name, "float16", lambda own, taps: of_members(own, taps, lambda groups: groups))
    and_one = device.run(
        name, "float16", lambda own, taps: of_members(own, taps, lambda one: one / (1 + one.sum(dim=-1, keepdim=True)))
    )
    for got in (sums, and_one, device.run(name, "float16", kept_alone)):
        assert not device.judge(name, "float16", got).passed


# --- what it reads ----------------------------------------------------------------------------------------------------


class Otherwise:
    """Taps of which one method gives something else."""

    def __init__(self, taps: Taps, **instead: Callable[..., Tensor]) -> None:
        self._taps, self._instead = taps, instead

    def __getattr__(self, name: str) -> Any:
        return self._instead.get(name, None) or getattr(self._taps, name)


def reading(cls: Callable[[Tensor], Tensor]) -> Callable[[Method, Taps], Selection]:
    """The [CLS] row over heads, [B, H, N], changed."""
    return lambda own, taps: own.select(Otherwise(taps, cls_attention=lambda: cls(taps.cls_attention())))  # type: ignore[arg-type]


def first_head(own: Method, taps: Taps) -> Selection:
    attention = {at: replace(one, query=one.query[:, :1], key=one.key[:, :1]) for at, one in taps.attention.items()}
    return own.select(replace(taps, attention=attention))


def keys_of_another_image(own: Method, taps: Taps) -> Selection:
    attention = {at: replace(one, key=one.key.flip(0)) for at, one in taps.attention.items()}
    return own.select(replace(taps, attention=attention))


def noisy_features(own: Method, taps: Taps) -> Selection:
    """5 % of every number: what is chosen is another set, while the tokens are right."""
    drawn = torch.Generator().manual_seed(0)

    def noisy(x: Tensor) -> Tensor:
        return (x.float() * (1 + 0.05 * torch.randn(x.shape, generator=drawn))).to(x.dtype)

    return own.select(replace(taps, features=noisy(taps.features), projected=noisy(taps.projected)))


def noise_on_a_peaked_map(attended: Tensor) -> Tensor:
    """.3 % of the largest, which is 15 % of what stands at the cut."""
    mean = attended.mean(dim=1, keepdim=True)
    noise = torch.from_numpy(drawn().uniform(-1, 1, mean.shape)).float()
    return (mean + 3e-3 * mean.amax() * noise).clamp_min(0)


ATTENDING = [*CLS, "hiprune", "idpruner", "received"]
COSINES = ["dart", "divprune", "dpp", "lrcp", "scope", "todre", "vispruner", "zoo"]
READS: dict[str, tuple[Callable[[Method, Taps], Selection], list[str]]] = {
    "the_first_head_alone": (first_head, ATTENDING),
    "keys_of_another_image": (keys_of_another_image, ATTENDING),
    # todre reads the row for its first pick alone, which is the same
    "a_row_renormalised": (reading(lambda row: row / row.sum(dim=-1, keepdim=True)), [n for n in CLS if n != "todre"]),
    "the_highest_of_heads": (reading(lambda row: row.amax(dim=1, keepdim=True)), CLS),
    "the_sum_of_heads": (reading(lambda row: row.sum(dim=1, keepdim=True)), CLS),
    "noise_on_a_peaked_map": (reading(noise_on_a_peaked_map), ["fastervlm", "holov", "vispruner"]),
    "noisy_features": (noisy_features, COSINES),
}


@pytest.mark.parametrize("fault", READS)
def test_a_fault_in_what_it_reads_is_caught(device: Device, fault: str) -> None:
    change, names = READS[fault]
    assert [name for name in names if device.judge(name, "float16", device.run(name, "float16", change)).passed] == []


# --- how it chooses, with gains that are honest -----------------------------------------------------------------------


def honest(device: Device, name: str, picks: np.ndarray, off: float = 0.0) -> Arrays:
    """Outputs of a device that made these picks and reports what each is worth, or that up to `off` of the largest."""
    got = {key: value.copy() for key, value in device.healthy(name, "float16").items()}
    _, quantities = device.reference(name)
    rule = device.method(name).rule(N)
    for image, chosen in enumerate(picks.tolist()):
        given = {key: value[image].astype(np.float64) for key, value in quantities.items()}
        gains = OBJECTIVES[rule["objective"]](given, rule).gains
        worth = np.array([gains(chosen[:step])[pick] for step, pick in enumerate(chosen)])
        got["scores"][image] = -np.inf
        got["scores"][image, chosen] = worth + off * np.abs(worth).max() * drawn().uniform(-1, 1, KEEP)
        kept = np.sort(chosen)
        _, at, where = np.intersect1d(kept, got["indices"][image], return_indices=True)
        got["tokens"][image, at] = got["tokens"][image, where]  # right where they can be, so that nothing shows there
        got["indices"][image], got["picks"][image] = kept, chosen
    return got


def others(picks: np.ndarray) -> np.ndarray:
    """[B, N - K], those that were not picked, shuffled"""
    return np.stack([drawn().permutation(np.setdiff1d(np.arange(N), chosen)) for chosen in picks])


def behind(first: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda picks: np.concatenate((picks[:, :first], others(picks)[:, : KEEP - first]), axis=1)


def two_in_turn(picks: np.ndarray) -> np.ndarray:
    swapped = picks.copy()
    swapped[:, [2, 9]] = swapped[:, [9, 2]]
    return swapped


CHOICES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "everything_drawn": behind(0),
    "the_second_half_drawn": behind(KEEP // 2),
    "the_first_left_out": lambda picks: np.concatenate((picks[:, 1:], others(picks)[:, :1]), axis=1),
    "two_that_change_places": two_in_turn,
    "raster_order": lambda picks: np.sort(picks, axis=1),
}


@pytest.mark.parametrize("fault", CHOICES)
def test_honest_gains_do_not_excuse_choices(device: Device, fault: str) -> None:
    for name in GREEDY:
        picks = device.healthy(name, "float16")["picks"]
        verdict = device.judge(name, "float16", honest(device, name, CHOICES[fault](picks)))
        assert any("decisions are wrong" in reason for reason in verdict.reasons), name
        assert not any("tokens" in reason for reason in verdict.reasons), name


@pytest.mark.parametrize("name", GREEDY)
def test_gains_that_are_nearly_right_are_no_cover_for_choices_drawn_by_lot(device: Device, name: str) -> None:
    """Within 1 % of the largest gain they may be, and the last gains are less than that."""
    picks = behind(KEEP // 2)(device.healthy(name, "float16")["picks"])
    assert not device.judge(name, "float16", honest(device, name, picks, off=9e-3)).passed


# --- what is not a number ---------------------------------------------------------------------------------------------

NOT_FINITE = [np.nan, np.inf, -np.inf]


def spoilt(arrays: Arrays, name: str, number: float, everywhere: bool) -> Arrays:
    value = arrays[name].copy()
    value[... if everywhere else (0, 3)] = number
    return {**arrays, name: value}


@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize("number", NOT_FINITE)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_finite_never_passes(device: Device, name: str, number: float, everywhere: bool) -> None:
    """On either side, and in what decisions are replayed by: NaN compares as neither above a bound nor below."""
    wanted, quantities = device.reference(name)
    got, rule = device.healthy(name, "float32"), device.method(name).rule(N)
    floats = [key for key in got if got[key].dtype.kind == "f"]
    if rule["name"] == "greedy" and number == -np.inf and not everywhere:
        floats.remove("scores")  # of what was not picked
    cases = [(wanted, spoilt(got, key, number, everywhere), quantities) for key in floats]
    cases += [(spoilt(wanted, key, number, everywhere), got, quantities) for key in floats]
    cases += [
        (spoilt(wanted, key, number, everywhere), spoilt(got, key, number, everywhere), quantities) for key in floats
    ]
    cases += [(wanted, got, spoilt(quantities, key, number, everywhere)) for key in quantities]
    for reference, outputs, replayed in cases:
        verdict = compare(reference, outputs, "float32", rule, replayed)
        assert "not finite" in verdict.reasons[0] or "must be finite" in verdict.reasons[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_rule_by_itself_lets_no_nan_pass(device: Device, name: str) -> None:
    """Whoever asks a rule without the look at the outputs before it."""
    wanted, quantities = device.reference(name)
    got, rule = device.healthy(name, "float32"), device.method(name).rule(N)
    for key in quantities.keys() - {"around"}:  # places of neighbours, which have no fraction
        replayed = {one: value[0] for one, value in spoilt(quantities, key, np.nan, everywhere=True).items()}
        one, other = ({key: value[0] for key, value in arrays.items()} for arrays in (wanted, got))
        chain = RULES[rule["name"]](Case(one, other, replayed, rule, 1e-4, 1e-7, 1e-6))
        assert chain.wrong or chain.defects or not chain.relative <= 1e-4, key


def test_the_worst_of_several_is_nan_wherever_it_stands() -> None:
    zeros = dict.fromkeys((spec.name for spec in dataclasses.fields(Verdict)), 0)
    one, other = (Verdict(**{**zeros, "token_error": error, "reasons": ()}) for error in (0.5, np.nan))  # type: ignore[arg-type]
    assert np.isnan(worst([one, other]).token_error)
    assert np.isnan(worst([other, one]).token_error)
    assert worst([]).token_error == 0
