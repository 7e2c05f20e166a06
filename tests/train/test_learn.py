"""A scorer is trained on what a frozen model answers, straight through the choice; and by the command line."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from edgeprune.errors import MethodError, ModelError, RequestError
from edgeprune.export.opening import opened
from edgeprune.export.request import Request
from edgeprune.pruners.learnpruner import Method
from edgeprune.quality.language import Language, load_language
from edgeprune.quality.packing import hidden_states, pack
from edgeprune.quality.sweep.items import drawn
from edgeprune.targets import load
from edgeprune.train.learn import LearnSettings, learn
from edgeprune.train.resume import Interrupted
from edgeprune.train.sights import Seen, Sights
from edgeprune.train.straight import FLOOR, gated, straight

REQUEST = Request("learnpruner", "cpu")
ITEMS = drawn(8, seed=5)
SHORT = LearnSettings(epochs=2, batch=4, lr=5e-3)
KEEP = 24


@pytest.fixture(scope="module")
def language() -> Language:
    return load_language()


@pytest.fixture(scope="module")
def seen() -> Seen:
    found = opened(Request("none", "cpu"), load("cpu"))
    return Sights(found.encoder, found.preprocessing, ITEMS, "cpu").seen(range(2))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "scorer"
    learn(REQUEST, ITEMS, folder, SHORT)
    return folder


def test_the_choice_is_hard_forth_and_soft_back() -> None:
    scores = torch.tensor([[3.0, -1.0, 0.5, 2.0, 0.0]], requires_grad=True)
    gate = straight(scores, 2)
    torch.testing.assert_close(gate.detach(), torch.tensor([[1.0, FLOOR, FLOOR, 1.0, FLOOR]]))
    gate.sum().backward()  # type: ignore[no-untyped-call]
    assert scores.grad is not None
    soft = torch.sigmoid((scores.detach() - 1.25) / scores.detach().std())
    torch.testing.assert_close(scores.grad, soft * (1 - soft) / scores.detach().std())


def test_tokens_of_no_weight_are_as_good_as_gone(language: Language, seen: Seen) -> None:
    """What stands behind the image is what it would be without them."""
    kept = torch.stack([torch.randperm(144, generator=torch.Generator().manual_seed(at))[:KEEP] for at in range(2)])
    kept = kept.sort(dim=1).values
    gate = torch.full((2, 144), 1e-7).scatter(1, kept, 1.0)
    prompts = [[language.prompt(query.text) for query in item.queries[:2]] for item in seen.items]
    front, embed, decoder = len(prompts[0][0][0]), language.model.get_input_embeddings(), language.model.model
    with torch.no_grad():
        alone = pack(embed, [one[rows] for one, rows in zip(seen.tokens, kept, strict=True)], prompts)
        every = pack(embed, list(seen.tokens), prompts)
        weighed = gated(every, gate, KEEP, front)
        wanted = hidden_states(decoder.language_model, alone)[alone.rows, alone.ends]
        got = hidden_states(decoder.language_model, weighed)[weighed.rows, weighed.ends]
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)


def test_it_writes_what_the_method_reads_and_says_what_it_was_made_from(whole: Path) -> None:
    scorer: Any = Method.read(whole)
    made = scorer.made
    assert {path.name for path in whole.iterdir()} == {"scorer.safetensors"}
    assert (made["method"], made["model"], made["layer"], made["images"]) == ("learnpruner", "edgeprune/tiny", 5, 8)
    assert len(made["loss"]) == SHORT.epochs
    found = opened(dataclasses.replace(REQUEST, keep=16, scorer=whole), load("cpu"))
    assert found.learned["scorer"] == made
    assert found.method.options() == {"share": 0.1, "sha256": scorer.digest}


@pytest.mark.slow
def test_an_interrupted_training_goes_on_bit_for_bit(whole: Path, tmp_path: Path) -> None:
    def show(done: int, total: int, what: str) -> None:
        if done == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match=r"after step 3 of 4 for .*; nothing is lost"):
        learn(REQUEST, ITEMS, tmp_path / "scorer", SHORT, show=show)
    with pytest.raises(ModelError, match=r"lr 0\.005, not 0.001"):
        learn(REQUEST, ITEMS, tmp_path / "scorer", dataclasses.replace(SHORT, lr=1e-3), resume=True)
    learn(REQUEST, ITEMS, tmp_path / "scorer", SHORT, resume=True)
    assert Method.read(tmp_path / "scorer").digest == Method.read(whole).digest


def test_what_cannot_be_trained_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(MethodError, match=r"fastervlm has nothing to learn; `edgeprune train` trains .*learnpruner"):
        learn(Request("fastervlm", "cpu"), ITEMS, tmp_path / "a", SHORT)
    with pytest.raises(RequestError, match="images must be 16 or more, as many as a batch, got 8"):
        learn(REQUEST, ITEMS, tmp_path / "b", LearnSettings(batch=16))
    bare = [dataclasses.replace(one, queries=()) for one in ITEMS]
    with pytest.raises(RequestError, match="every image must have a question and its answer, scene0000 has none"):
        learn(REQUEST, bare, tmp_path / "c", SHORT)
    with pytest.raises(ModelError, match="needs a training that was begun"):
        learn(REQUEST, ITEMS, tmp_path / "d", SHORT, resume=True)
    assert not [*tmp_path.iterdir()]
