"""What every reducer promises, over all of them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgeprune import catalog, encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders import Encoder, Tower
from edgeprune.encoders._attention import recording
from edgeprune.errors import MethodError, RequestError
from edgeprune.fit import build_method
from edgeprune.pruners import fastervlm, inside
from edgeprune.pruners.inside import Reducer, Step
from edgeprune.reference import OfficialEncoder
from edgeprune.runtime.parity.inside import STEPS
from edgeprune.schedule import Inside
from edgeprune.shortening import Rows
from edgeprune.trace import PrunedEncoder
from tests.pruners.inside.conftest import PATCHES, PREFIX, SUFFIX, Cases, rows_at

NAMES = inside.names()
MERGES = [name for name in NAMES if inside.get(name).merges]
WEIGHS = [name for name in MERGES if name != "gtp"]
"""whose rows are weighted means; a row of GTP is more than that"""
LAYERS = 4
CLOSE: Any = {"rtol": 1e-4, "atol": 1e-5}


def built(name: str, **options: Any) -> Reducer:
    make: Any = inside.get(name)
    reducer: Reducer = make(**options).prepared(True, LAYERS)
    return reducer


def stub() -> Tower:
    nothing = nn.Identity()
    return Tower(nothing, [], nn.Conv2d(3, 1, 1), (1, 1), (4, 5), PREFIX, True, 1, 1, suffix=SUFFIX)


@pytest.mark.parametrize("name", NAMES)
def test_it_keeps_so_many_rows_ascending_and_distinct(cases: Cases, name: str) -> None:
    reducer = built(name)
    for rows in cases(hidden=reducer.hidden):
        chosen = reducer.select(rows.step, rows.taps, {})
        assert chosen.rows.shape == (3, rows.step.keep)
        assert bool((chosen.rows.diff(dim=1) > 0).all())
        assert 0 <= int(chosen.rows.min()) <= int(chosen.rows.max()) < rows.count
        assert chosen.scores.dtype == torch.float32
        assert bool(torch.isfinite(chosen.scores).all())


@pytest.mark.parametrize("name", NAMES)
def test_of_rows_that_became_one_the_highest_names_it(cases: Cases, name: str) -> None:
    """What parity, and whoever reads `trail`, takes for granted."""
    reducer = built(name)
    for rows in cases(hidden=reducer.hidden):
        chosen = reducer.select(rows.step, rows.taps, {})
        if chosen.into is None:
            continue
        members = chosen.into[:, None, : rows.count] == torch.arange(rows.step.keep)[:, None]
        highest = torch.where(members, chosen.scores[:, None], -torch.inf).argmax(dim=2)
        assert torch.equal(highest, chosen.rows)


@pytest.mark.parametrize("name", WEIGHS)
def test_nothing_is_lost_of_the_sizes_and_of_the_sum(name: str) -> None:
    """Two steps in a row: sizes add up to the patches, and rows weighed by them to their sum."""
    reducer, random = built(name), torch.Generator().manual_seed(2)
    followed = Rows(stub())
    hidden = torch.randn(3, PREFIX + PATCHES + SUFFIX, 6, generator=random)
    before = hidden[:, PREFIX:-SUFFIX].sum(dim=1)
    for step, count in ((Step(2, 13), PATCHES), (Step(4, 9), 13)):
        rows = rows_at(step, count, 4, reducer.hidden if count < PATCHES else 0)
        size = None if followed.size is None else followed.size[:, :count]
        taps = replace(rows.taps, names=followed.names, size=size)
        hidden = followed.shortened(hidden, step, reducer.select(step, taps, followed.carried))
        assert followed.size is not None
        torch.testing.assert_close(followed.size.sum(dim=1), torch.full((3,), float(PATCHES)))
        weighed = (hidden[:, PREFIX:-SUFFIX] * followed.size[:, :, None]).sum(dim=1)
        torch.testing.assert_close(weighed, before, **CLOSE)
        assert followed.names is not None
        assert followed.names.shape == (3, step.keep)
    if name != "token_transforming":  # there a patch is shared out, and its origin is whom most of it went to
        assert followed.origin is not None
        counts = torch.stack([torch.bincount(one, minlength=9 + reducer.hidden) for one in followed.origin])
        torch.testing.assert_close(counts.float(), followed.size)


@pytest.fixture(scope="module")
def flat(llava_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """One that cannot tell a patch of a flat image from another: its patches have no position."""
    encoder = encoders.load(open_checkpoint(str(llava_folder(tmp_path_factory.mktemp("flat")))))
    module: Any = encoder.tower.module
    for name, value in module.named_parameters():
        if name.endswith("position_embedding.weight"):
            value.data[1:] = value.data[1]
    return encoder


GREY = torch.full((1, 3, 48, 48), 0.4)


def shortened(flat: Encoder, reducer: Reducer, steps: tuple[Step, ...]) -> tuple[Tensor, ...]:
    method = fastervlm.Method(4)
    within = replace(flat, inside=Inside("any", reducer, steps))
    with torch.inference_mode():
        found: tuple[Tensor, ...] = PrunedEncoder(within, method).eval()(GREY)
    return found


@pytest.mark.parametrize("name", WEIGHS)
def test_with_the_bias_rows_of_equal_patches_are_attended_to_as_these_were(flat: Encoder, name: str) -> None:
    """What the logarithm of the sizes is for, exactly: of equal patches nothing is lost at all, and without it [CLS]
    sees fewer of them, which moves every token."""
    whole = PrunedEncoder(flat, fastervlm.Method(4)).eval()
    with torch.inference_mode():
        expected = whole(GREY)[0]
    steps = (Step(1, 20), Step(2, 10))
    torch.testing.assert_close(shortened(flat, built(name), steps)[0], expected, **CLOSE)
    without = shortened(flat, built(name, bias=False), steps)[0]
    assert float((without - expected).abs().max()) > 1e-2


def test_dropping_equal_patches_is_what_the_bias_undoes(flat: Encoder) -> None:
    steps = (Step(1, 20), Step(2, 10))
    dropped = shortened(flat, built("drop"), steps)[0]
    torch.testing.assert_close(dropped, shortened(flat, built("nearest", bias=False), steps)[0], **CLOSE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_quadrant_of_nothing_is_finite_and_unseen_in_every_precision(dtype: torch.dtype) -> None:
    """Of 20 rows 19 go on: three rows of zeros, to which attention gives exactly nothing."""
    reducer, followed = built("cells"), Rows(stub(), bias=True)
    rows = rows_at(Step(2, 19), PATCHES, 0)
    hidden = torch.randn(3, PREFIX + PATCHES + SUFFIX, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    short = followed.shortened(hidden, rows.step, reducer.select(rows.step, rows.taps, {}))
    mask = followed.mask(short)
    assert followed.size is not None
    assert mask is not None
    assert (followed.size == 0).sum(dim=1).tolist() == [3, 3, 3]
    assert bool(torch.isfinite(short).all())
    assert bool(torch.isfinite(mask).all())
    empty = nn.functional.pad(followed.size == 0, (PREFIX, SUFFIX))
    assert short[empty].abs().sum() == 0
    shares = (50 * torch.randn(3, short.shape[1]).to(dtype) + mask[:, 0, 0]).softmax(dim=-1)
    assert shares[empty].sum() == 0
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(3, dtype=dtype), rtol=1e-2, atol=0)


def test_a_quadrant_of_nothing_is_the_same_to_the_reference(flat: Encoder) -> None:
    method = build_method(fastervlm.Method, "fastervlm", flat, 4)
    within = replace(flat, inside=Inside("cells", built("cells"), (Step(1, 35), Step(2, 34))))
    pixels = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode(), recording(flat.tower.module, ()):
        ours, theirs = (kind(within, method).eval()(pixels) for kind in (PrunedEncoder, OfficialEncoder))
    torch.testing.assert_close(ours[0], theirs[0], **CLOSE)


@pytest.mark.parametrize("name", NAMES)
def test_the_file_names_its_formula_and_its_rule_is_known(name: str) -> None:
    head = importlib.import_module(f"edgeprune.pruners.inside.{name}").__doc__ or ""
    plain = head.split(":")[0].casefold().replace("-", "_").replace(" ", "_")
    assert plain.startswith(name) or plain.startswith(name.replace("_", ""))
    assert built(name).rule(Step(2, 4))["name"] in STEPS
    assert bool(built(name).deviations) == ("Paper" in head)  # what is ours departs from nothing


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("gtp", "1:23 2:15 3:8"),  # 30 to 8: 22 / 3 rows behind each of three layers
        ("tome", "1:23 2:15 3:8"),
        ("flowcut", "2:8"),  # behind every second layer that has another one behind it
        ("pitome", "1:19 2:12 3:8"),  # (8 / 30) ** (1 / 3) = .644 of the rows behind each
    ],
)
def test_the_schedule_of_the_paper(name: str, steps: str) -> None:
    found = built(name).own_steps(LAYERS, 30, 8)
    assert " ".join(f"{step.layer}:{step.keep}" for step in found) == steps


def test_a_layer_behind_which_nothing_would_go_has_no_step() -> None:
    assert built("gtp").own_steps(24, 12, 10) == (Step(6, 11), Step(18, 10))


@pytest.mark.parametrize(("name", "depth"), [("cells", 24), ("zero_tprune", 24), ("tome", 1), ("flowcut", 2)])
def test_a_schedule_that_no_paper_has_is_refused(name: str, depth: int) -> None:
    with pytest.raises(RequestError, match=rf"--schedule official needs .* got {name} and {depth}; give layers:tokens"):
        built(name).own_steps(depth, 30, 8)


@pytest.mark.parametrize("one", catalog.reducers(), ids=lambda one: one.name)
def test_the_catalog_knows_its_options(one: catalog.ReducerEntry) -> None:
    assert set(one.options) == set(inside.get(one.name)().options())


def test_an_unknown_reducer_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(MethodError, match=r"no reducer 'cell'; have .* Did you mean 'cells'"):
        inside.get("cell")
