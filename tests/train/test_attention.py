"""What the deeper layers of a language model attend to, question by question, and a scorer that learns it."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from edgeprune.errors import ModelError, RequestError
from edgeprune.export.opening import opened
from edgeprune.export.request import Request
from edgeprune.pruners.covipal import Method
from edgeprune.quality.language import Language, load_language
from edgeprune.quality.sweep.items import Item, drawn
from edgeprune.targets import load
from edgeprune.train import attention
from edgeprune.train.attention import Attention, deeper_shares
from edgeprune.train.learn import LearnSettings, learn
from edgeprune.train.sights import Sights
from tests.learned import by_chance

REQUEST = Request("covipal", "cpu")
ITEMS = tuple(dataclasses.replace(one, queries=one.queries[:2]) for one in drawn(2, seed=5))


@pytest.fixture(scope="module")
def language() -> Language:
    return load_language()


@pytest.fixture(scope="module")
def sights() -> Sights:
    found = opened(Request("none", "cpu"), load("cpu"))
    return Sights(found.encoder, found.preprocessing, ITEMS, "cpu")


def alone(language: Language, tokens: Tensor, question: str) -> Tensor:
    """[N], of one question about one image, by the attention maps that transformers hands out."""
    front, behind = language.prompt(question)
    embed, decoder = language.model.get_input_embeddings(), language.model.model.language_model
    embedded = torch.cat([embed(torch.tensor(front)), tokens, embed(torch.tensor(behind))])[None]
    decoder.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            maps = decoder(inputs_embeds=embedded, output_attentions=True).attentions
    finally:
        decoder.set_attn_implementation("sdpa")
    assert len(maps) == 4
    paid: Tensor = (maps[2] + maps[3])[0, :, -1, len(front) : len(front) + 144].sum(dim=0)
    return paid / paid.sum()


def test_a_label_is_the_share_of_what_the_answering_position_attends_to(language: Language, sights: Sights) -> None:
    tokens = sights.seen(range(2)).tokens
    prompts = [[language.prompt(query.text) for query in item.queries] for item in ITEMS]
    asked = [(image, query.text) for image, item in zip(tokens, ITEMS, strict=True) for query in item.queries]
    wanted = torch.stack([alone(language, image, text) for image, text in asked])
    got = deeper_shares(language, list(tokens), prompts)
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-6)
    assert (got[0] - got[1]).abs().max() > 0.01  # another question, elsewhere


def test_the_loss_is_the_divergence_from_it_of_each_question_and_of_none(language: Language, sights: Sights) -> None:
    scorer: Any = by_chance("covipal", 128, 128)
    seen = sights.seen(range(2))
    loss, said = Attention(scorer, sights, language, 2, 0).loss(seen)
    each = []
    for row, item in enumerate(ITEMS):
        labels = [alone(language, seen.tokens[row], query.text) for query in item.queries]
        words = [language.words(query.text) for query in item.queries]
        labels, words = [*labels, torch.stack(labels).mean(dim=0)], [*words, torch.zeros(1, 128)]
        masks = [torch.ones(1, len(one)) for one in words[:-1]] + [torch.zeros(1, 1)]
        for label, text, mask in zip(labels, words, masks, strict=True):
            score = scorer(seen.tokens[row : row + 1], text[None], mask)[0]
            each.append(float((label * (label.log() - score.log_softmax(dim=0))).sum()))
    assert len(each) == 6
    np.testing.assert_allclose(loss.item(), np.mean(each), rtol=1e-3)
    assert said == loss.item()


@pytest.mark.slow
def test_it_learns_where_the_model_looks_and_needs_no_boxes(tmp_path: Path) -> None:
    files = []
    for item in drawn(16, seed=5):
        Image.fromarray(np.asarray(item.image())).save(tmp_path / f"{item.name}.png")
        files.append(Item(item.name, str(tmp_path / f"{item.name}.png"), item.queries))
    made = learn(REQUEST, files, tmp_path / "scorer", LearnSettings(6, 8, 3e-3))
    assert made["loss"][-1] < 0.8 * made["loss"][0]
    scorer: Any = Method.read(tmp_path / "scorer")
    assert scorer.made == made


@pytest.mark.slow
def test_what_cannot_be_learned_from_is_refused(
    language: Language, sights: Sights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = [dataclasses.replace(one, queries=()) for one in ITEMS]
    with pytest.raises(RequestError, match="every image must have a question, scene0000 has none"):
        learn(REQUEST, bare, tmp_path / "a", LearnSettings(1, 2))
    assert not [*tmp_path.iterdir()]
    monkeypatch.setattr(attention, "attending", lambda *_: contextlib.nullcontext())
    with pytest.raises(ModelError, match="the layers of edgeprune/tiny must hand out their attention, and do not"):
        deeper_shares(language, list(sights.seen([0]).tokens), [[language.prompt("how many objects are there?")]])
