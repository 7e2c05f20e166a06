"""Steps inside the encoder, chosen for a cost: met from below, or refused with what can be had."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders import Encoder
from edgeprune.errors import MethodError, RequestError
from edgeprune.export import Request
from edgeprune.export.baselines import unpruned
from edgeprune.export.cost import by_layer, formula
from edgeprune.export.manifest import layers_of
from edgeprune.export.request import check
from edgeprune.export.steps import chosen_steps
from edgeprune.fit_inside import build_reducer, check_steps, parse_steps, with_inside
from edgeprune.pruners import get
from edgeprune.pruners.inside import names
from edgeprune.schedule import Inside, Step
from tests.covering import always


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return encoders.load(open_checkpoint())


def share(encoder: Encoder, reducer: str, steps: tuple[Step, ...], keep: int) -> float:
    method = get("fastervlm")(keep)  # type: ignore[call-arg]
    built = build_reducer(encoder, reducer, method, "fastervlm")
    short = with_inside(encoder, reducer, built, steps, method)
    return formula(short, method) / formula(*unpruned(encoder))


@pytest.mark.parametrize("cost", always([0.6, 0.5], 0.5))
@pytest.mark.parametrize("reducer", [one for one in names() if one in ("drop", "tome", "cells", "nearest", "pitome")])
def test_the_cost_is_met_from_below_and_nearly_used(encoder: Encoder, reducer: str, cost: float) -> None:
    method = get("fastervlm")(32)  # type: ignore[call-arg]
    built = build_reducer(encoder, reducer, method, "fastervlm")
    steps = chosen_steps(encoder, built, reducer, method, cost)
    assert cost - 0.02 < share(encoder, reducer, steps, 32) <= cost
    counts = [step.keep for step in steps]
    assert counts == sorted(set(counts), reverse=True)
    assert counts[-1] >= 32


def test_counts_with_special_tokens_are_what_tensor_cores_take(encoder: Encoder) -> None:
    method = get("fastervlm")(32)  # type: ignore[call-arg]
    built = build_reducer(encoder, "drop", method, "fastervlm")
    steps = chosen_steps(encoder, built, "drop", method, 0.6, multiple=8)
    assert all((step.keep + encoder.tower.prefix) % 8 == 0 for step in steps)


def test_a_cost_out_of_reach_is_refused_with_the_least_that_can_be_had(encoder: Encoder) -> None:
    method = get("fastervlm")(64)  # type: ignore[call-arg]
    built = build_reducer(encoder, "tome", method, "fastervlm")
    with pytest.raises(
        RequestError, match=r"cannot be met with --inside tome and 64 tokens: the least is 0\.\d+"
    ) as why:
        chosen_steps(encoder, built, "tome", method, 0.2)
    least = float(str(why.value).partition("the least is ")[2].partition(";")[0])
    chosen_steps(encoder, built, "tome", method, least)
    with pytest.raises(RequestError, match="must be below what it costs without steps inside"):
        chosen_steps(encoder, built, "tome", method, 0.99)


def test_no_step_leaves_less_than_every_patch_where_all_are_kept(encoder: Encoder) -> None:
    method = get("fastervlm")(encoder.patches)  # type: ignore[call-arg]
    built = build_reducer(encoder, "drop", method, "fastervlm")
    with pytest.raises(RequestError, match="cannot be met with --inside drop and 144 tokens"):
        chosen_steps(encoder, built, "drop", method, 0.6)


def test_what_is_in_front_of_a_head_is_brought_to_a_cost_as_well(
    model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """The method that keeps all that the last step leaves costs all of the encoder where there is no step."""
    folder = model_folder(tmp_path, "ViTForImageClassification")
    headed = encoders.load(open_checkpoint(str(folder)), head=True)
    method = get("none")(1)  # type: ignore[call-arg]
    built = build_reducer(headed, "drop", method, "none")
    steps = chosen_steps(headed, built, "drop", method, 0.6)
    short = with_inside(headed, "drop", built, steps, method)
    left = get("none")(short.candidates)  # type: ignore[call-arg]
    assert 0.5 < formula(short, left) / formula(*unpruned(headed)) <= 0.6


def test_each_layer_costs_what_its_tokens_do(encoder: Encoder) -> None:
    method = get("fastervlm")(32)  # type: ignore[call-arg]
    built = build_reducer(encoder, "tome", method, "fastervlm")
    short = dataclasses.replace(encoder, inside=Inside("tome", built, (Step(2, 80),)))
    whole, layers = by_layer(*unpruned(encoder)), by_layer(short, method)
    width, mlp = encoder.tower.width, 2 * encoder.tower.width * encoder.tower.mlp_width
    assert layers[0] == whole[0]
    assert layers[1] == whole[1] + built.multiply_adds(Step(2, 80), 144, width, encoder.tower.heads)
    assert layers[2] == 81 * (4 * width * width + mlp) + 2 * 81 * 81 * width


WRONG = {
    "8": "must be layers:tokens for each step",
    "offical": "or official, got 'offical'",
    "2:70,4:90": "must shorten the sequence at every step, got 90",
    "2:144": "must shorten the sequence at every step, got 144",
    "2:20": "must leave at least the 32 tokens that --keep asks for, got 20",
    "9:70": "must stand behind 1..4 of the 5 layers, got 9",
    "0:70": "must stand behind 1..4 of the 5 layers, got 0",
    "4:70,2:40": "must rise, got 2 behind 4",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_schedule_that_cannot_be_is_refused(encoder: Encoder, text: str) -> None:
    with pytest.raises(RequestError, match=WRONG[text]):
        check_steps(parse_steps(text), encoder, 32)


REFUSED = {
    "pool": "needs every patch in its place",
    "hiprune": "needs every patch in its place",
    "received": "drops tokens inside the encoder itself",
}


@pytest.mark.parametrize("method", REFUSED)
def test_a_method_that_cannot_choose_of_rows_is_refused_with_those_that_can(encoder: Encoder, method: str) -> None:
    with pytest.raises(MethodError, match=f"{method} {REFUSED[method]}.*use .*fastervlm"):
        build_reducer(encoder, "tome", get(method)(32), method)  # type: ignore[call-arg]


ASKED = {
    "needs either --encoder-cost, such as 0.55, or --schedule": {"inside": "tome"},
    "got both": {"inside": "tome", "schedule": "2:70", "encoder_cost": 0.5},
    "--schedule goes with --inside, which is missing": {"schedule": "2:70"},
    "--encoder-cost goes with --inside": {"encoder_cost": 0.5},
    "must be a share of the unpruned multiply-adds": {"inside": "tome", "encoder_cost": 1.5},
    "There is no reducer 'tone'|no reducer": {"inside": "tone", "encoder_cost": 0.5},
    "option bias of tome must be true or false, got 'no'": {
        "inside": "tome",
        "encoder_cost": 0.5,
        "options": {"bias": "no"},
    },
}


@pytest.mark.parametrize("message", ASKED)
def test_options_that_do_not_go_together_are_refused_before_anything_is_read(message: str) -> None:
    fields: dict[str, object] = ASKED[message]  # type: ignore[assignment]
    with pytest.raises(RequestError, match=message):
        check(Request("fastervlm", "cpu", keep=32, **fields))  # type: ignore[arg-type]


def test_the_manifest_has_tokens_and_multiply_adds_of_each_layer(encoder: Encoder) -> None:
    method = get("fastervlm")(32)  # type: ignore[call-arg]
    built = build_reducer(encoder, "cells", method, "fastervlm")
    short = with_inside(encoder, "cells", built, (Step(2, 64),), method)
    layers = layers_of(method, short)
    tower, every = encoder.tower, encoder.patches + 1

    def full(rows: int) -> int:
        return rows * tower.width * (4 * tower.width + 2 * tower.mlp_width) + 2 * rows * rows * tower.width

    assert [layer[0] for layer in layers] == [every] * 2 + [1 + 64 + built.hidden] * (encoder.layer - 2)
    assert layers[0] == (every, full(every), full(every))
    assert layers[2] == (1 + 64 + built.hidden, full(1 + 64 + built.hidden), full(every))
    assert layers_of(method, encoder) == ()


def test_a_method_that_drops_inside_has_them_too(encoder: Encoder) -> None:
    method = get("received")(32, layer=2)  # type: ignore[call-arg]
    layers = layers_of(method, encoder)
    assert [tokens for tokens, _, _ in layers] == [145, 145, 33, 33, 33]
    projector = formula(*unpruned(encoder)) - sum(whole for _, _, whole in layers)
    assert sum(own for _, own, _ in layers) + method.multiply_adds(144) + projector * 32 // 144 == formula(
        encoder, method
    )
    assert all(own < whole for _, own, whole in layers[2:])
