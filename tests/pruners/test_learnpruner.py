"""LearnPruner against its formula, written here in numpy float64, each step from scratch; and its file."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.errors import MethodError, ModelError
from edgeprune.export.opening import opened
from edgeprune.export.request import Request
from edgeprune.fit import build_method
from edgeprune.pruners import Eager, Selection
from edgeprune.pruners.learnpruner import Method, Mlp
from edgeprune.runtime.parity import Verdict
from edgeprune.taps import Taps
from edgeprune.targets import load
from tests.learned import by_chance

Floats = NDArray[np.float64]
IMAGES, PATCHES, WIDTH = 36, 40, 24
FEATURES = np.random.default_rng(8).normal(size=(IMAGES, PATCHES, WIDTH))
BUDGETS = (2, 11, 24)


@pytest.fixture(scope="module")
def scorer() -> Any:
    return by_chance("learnpruner", WIDTH, 0)


def odds(h: Floats, scorer: Mlp) -> Floats:
    first, bias, second, shift = (value.double().numpy() for value in scorer.state_dict().values())
    hidden = h @ first.T + bias
    hidden = hidden * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2))) / 2
    z = hidden @ second.T + shift
    return np.asarray(z[:, 1] - z[:, 0])


def formula(h: Floats, s: Floats, keep: int, share: float) -> tuple[list[int], list[float]]:
    """One image: features, their log odds -> picks in their order, and what each was picked at."""
    unit = h / np.linalg.norm(h, axis=1, keepdims=True)
    picks = np.argsort(-s)[: keep - math.floor(share * keep)].tolist()
    worth = s[picks].tolist()
    while len(picks) < keep:
        nearest = (unit @ unit[picks].T).max(axis=1)
        nearest[picks] = np.inf
        picks.append(int(nearest.argmin()))
        worth.append(1 - float(nearest.min()))
    return picks, worth


def both(method: Method, features: Floats = FEATURES) -> tuple[Selection, Selection]:
    """The static form and the official one, in float32."""
    h = torch.tensor(features).float()
    return method.select(Taps({}, h, h, (5, 8), 1, 1)), method.official(Eager([], h, h, (5, 8), 1))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("keep", BUDGETS)
def test_both_forms_equal_the_formula(scorer: Mlp, keep: int, share: float, judged: Callable[..., Verdict]) -> None:
    method = Method(keep, scorer, share)
    static, official = both(method)
    for chosen in (static, official):
        assert chosen.picks is not None
        for image in range(IMAGES):
            picks, worth = formula(FEATURES[image], odds(FEATURES[image], scorer), keep, share)
            assert chosen.picks[image].tolist() == picks
            assert chosen.indices[image].tolist() == sorted(picks)
            np.testing.assert_allclose(chosen.scores[image, picks].numpy(), worth, rtol=1e-4, atol=1e-5)
            assert int(torch.isfinite(chosen.scores[image]).sum()) == keep
    assert not judged(method, FEATURES, official, static).reasons


def test_what_is_kept_for_being_unlike_the_rest_is_judged(scorer: Mlp, judged: Callable[..., Verdict]) -> None:
    """A device that takes the share by score as well, or leaves the scorer out, is caught."""
    method = Method(20, scorer)
    _, official = both(method)
    other: Any = by_chance("learnpruner", WIDTH, 0)
    torch.nn.init.normal_(other.first.weight)
    for wrong in (replace(method, share=0.0), replace(method, scorer=other)):
        assert judged(method, FEATURES, official, both(wrong)[0]).reasons


def test_a_tenth_is_rounded_down_and_a_small_budget_is_all_by_score(scorer: Mlp) -> None:
    assert [Method(keep, scorer).leading for keep in (1, 9, 10, 64)] == [1, 9, 9, 58]
    assert Method(64, scorer).rule(144) == {"name": "greedy", "objective": "leading", "leading": 58}


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_out_of_range_is_refused(scorer: Mlp, share: float) -> None:
    with pytest.raises(MethodError, match=r"option share of learnpruner must be in \[0, 1\), got"):
        Method(9, scorer, share)


def test_features_with_mean_and_spread_are_folded_into_the_weights() -> None:
    scorer: Any = by_chance("learnpruner", WIDTH, 0)
    h = torch.tensor(5 + 3 * FEATURES).float()
    scorer.normalised(h.mean(dim=(0, 1)), h.std(dim=(0, 1)))
    wanted = scorer(h)
    assert [name for name, _ in scorer.named_buffers()] == ["mean", "spread"]
    scorer.folded()
    assert not [*scorer.named_buffers()]
    torch.testing.assert_close(scorer(h), wanted, rtol=1e-4, atol=1e-4)


# --- the file ---------------------------------------------------------------------------------------------------------


def test_a_file_gives_the_same_scorer_and_what_it_was_made_from(scorer: Mlp, tmp_path: Path) -> None:
    path = tmp_path / "scorer.safetensors"
    path.write_bytes(scorer.packed("learnpruner", {"images": 3}))
    for given in (path, tmp_path):
        read = Method.read(given)
        assert (read.digest, read.made) == (scorer.digest, {"images": 3})


def test_what_is_no_file_of_its_own_is_refused(scorer: Mlp, tmp_path: Path) -> None:
    path = tmp_path / "scorer.safetensors"
    with pytest.raises(ModelError, match="which is none; train one with `edgeprune train learnpruner`"):
        Method.read(tmp_path)
    whole = scorer.packed("learnpruner", {})
    path.write_bytes(whole[:200])
    with pytest.raises(ModelError, match=r"must be what `edgeprune train` wrote; .* is not: "):
        Method.read(path)
    save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match=r"is not: it has no edgeprune\.learned"):
        Method.read(path)
    path.write_bytes(scorer.packed("other", {}))
    with pytest.raises(ModelError, match="was trained for other, got --method learnpruner"):
        Method.read(path)
    broken: Any = by_chance("learnpruner", WIDTH, 0)
    broken.first.bias[3] = math.nan
    path.write_bytes(broken.packed("learnpruner", {}))
    with pytest.raises(ModelError, match=r"is damaged: first\.bias is not finite"):
        Method.read(path)


def test_without_weights_the_command_that_makes_them_is_named(scorer: Mlp) -> None:
    encoder = encoders.load(open_checkpoint())
    with pytest.raises(MethodError, match="give --scorer, made by `edgeprune train learnpruner`"):
        build_method(Method, "learnpruner", encoder, 16)
    with pytest.raises(MethodError, match=r"reads features 24 wide, this encoder has 128; train one on it"):
        build_method(Method, "learnpruner", encoder, 16, scorer=scorer)


def test_of_the_embedded_model_weights_come_along() -> None:
    found = opened(Request("learnpruner", "cpu", keep=16), load("cpu"))
    said = found.learned["scorer"]
    assert (said["method"], said["model"]) == ("learnpruner", "edgeprune/tiny")
    assert found.method.options()["sha256"] == found.method.scorer.digest
    json.dumps(found.learned)


def test_of_another_layer_or_another_tower_they_are_refused(clip_folder: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"was trained on features of layer 5 of edgeprune/tiny, this is layer 4 of"):
        opened(Request("learnpruner", "cpu", keep=16, layer=4), load("cpu"))
    path = tmp_path / "mine.safetensors"
    path.write_bytes(by_chance("learnpruner", 128, 0).packed("learnpruner", {"tower": "", "layer": 5, "model": "x"}))
    with pytest.raises(ModelError, match="whose weights are other ones; train one"):
        opened(Request("learnpruner", "cpu", keep=16, scorer=path), load("cpu"))
