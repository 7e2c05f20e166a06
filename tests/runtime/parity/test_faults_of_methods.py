"""Further faults, of somebody who has not read the rules: other tokens of the right patches, wrong merges, other
inputs, and choices whose reported gains are really theirs, or nearly. Each must be caught in float16.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeprune import pruners
from edgeprune.pruners import Method, Selection
from edgeprune.runtime.parity.greedy import OBJECTIVES
from edgeprune.taps import Taps
from tests.covering import parted

Arrays: TypeAlias = "dict[str, np.ndarray]"
Device: TypeAlias = Any
"""of conftest.py"""
KEEP, N = 32, 144
NAMES = [name for name in pruners.names() if name not in ("bavit", "none")]
TRAITS = {name: pruners.get(name).traits for name in NAMES}
MERGING = [name for name in NAMES if "origin" in TRAITS[name].emits]
CLS = [name for name in NAMES if TRAITS[name].needs_cls]
GREEDY = [
    *("cdpruner", "divprune", "dpp", "idpruner", "idselection", "learnpruner", "mmtok", "otprune", "scope", "score"),
    *("todre", "zoo"),
]
TAKING = [name for name in NAMES if name not in (*MERGING, "pool") and not pruners.get(name).traits.inside]
"""whose tokens are those of their patches, projected"""


def drawn() -> np.random.Generator:
    return np.random.default_rng(7)


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


@pytest.mark.parametrize(("fault", "names"), parted(dict.fromkeys(MADE, TAKING)))
def test_right_indices_do_not_excuse_other_tokens(device: Device, fault: str, names: list[str]) -> None:
    make, off = MADE[fault]
    encoder, _ = device.cast("fastervlm", "float16")
    with torch.inference_mode():
        out = encoder.tower.module(device.pixels.half(), output_hidden_states=True)
        features = out.hidden_states[encoder.layer + off][:, encoder.tower.prefix :]

        def tokens(got: Arrays, make: Make) -> Arrays:
            made = make(encoder.projector, features, torch.from_numpy(got["indices"].astype(np.int64)))
            return {**got, "tokens": made.numpy()}

        every = {name: device.healthy(name, "float16") for name in names}
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


ATTENDING = [*CLS, "aot", "hiprune", "hiprune_text", "idpruner", "received", "vflowopt"]
# of idselection, whose pull hardly tells near rows apart, 5 % of noise moves no gain beyond what float16 may
COSINES = [
    *("apet", "cdpruner", "dart", "divprune", "dpp", "forestprune", "lrcp", "mmtok", "otprune", "prunesid", "scope"),
    *("score", "todre", "trim", "vispruner", "zoo"),
]
READS: dict[str, tuple[Callable[[Method, Taps], Selection], list[str]]] = {
    "the_first_head_alone": (first_head, ATTENDING),
    "keys_of_another_image": (keys_of_another_image, ATTENDING),
    # todre reads the row for its first pick alone, eventprune and desap its ratios, which are the same
    "a_row_renormalised": (
        reading(lambda row: row / row.sum(dim=-1, keepdim=True)),
        [name for name in CLS if name not in ("desap", "eventprune", "todre")],
    ),
    "the_highest_of_heads": (reading(lambda row: row.amax(dim=1, keepdim=True)), CLS),
    # idselection stretches the row to 0..1, which is the same, and again there are those of ratios
    "the_sum_of_heads": (
        reading(lambda row: row.sum(dim=1, keepdim=True)),
        [name for name in CLS if name not in ("desap", "eventprune", "idselection")],
    ),
    "noise_on_a_peaked_map": (reading(noise_on_a_peaked_map), ["fastervlm", "holov", "vispruner"]),
    "noisy_features": (noisy_features, COSINES),
}


@pytest.mark.parametrize(("fault", "names"), parted({fault: names for fault, (_, names) in READS.items()}))
def test_a_fault_in_what_it_reads_is_caught(device: Device, fault: str, names: list[str]) -> None:
    change, _ = READS[fault]
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
