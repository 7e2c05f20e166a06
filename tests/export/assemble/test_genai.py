"""The embedded model in onnxruntime-genai says what torch says with the same tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgeprune.errors import BundleError, RequestError
from edgeprune.export.assemble import Assembly
from edgeprune.integrations.transformers import generation_inputs
from edgeprune.quality.language import load_language
from edgeprune.runtime.generate import Conversation, Model, Prompted, Sampling, open_model
from edgeprune.runtime.generate.verify import verify_generate

genai = pytest.importorskip("onnxruntime_genai")

SCENES = Path(__file__).parents[3] / "edgeprune/models/tiny/scenes"
QUESTIONS = [json.loads(line) for line in (SCENES / "questions.jsonl").read_text().splitlines()]
ONE, OTHER = SCENES / "scene00.png", SCENES / "scene01.png"
COLOR, COUNT = "what color is the square?", "how many objects are there?"


@pytest.fixture(scope="module")
def model(assembled_once: Callable[..., Assembly]) -> Iterator[Model]:
    with open_model(assembled_once().folder, "cpu", 1) as opened:
        yield opened


@pytest.fixture(scope="module")
def torch_says(model: Model) -> Callable[..., list[int]]:
    """(images, ids, new=2) -> greedy ids of the whole model in torch, with the bundle's tokens"""
    whole = load_language().model

    def say(images: list[Path], ids: tuple[int, ...], new: int = 2) -> list[int]:
        with torch.inference_mode():
            inputs = generation_inputs(
                whole, model.encoder, [str(one) for one in images], torch.tensor([model.chat.shortened(ids)])
            )
            assert inputs["input_ids"].tolist() == [list(ids)]
            found = whole.generate(**inputs, max_new_tokens=new, do_sample=False, eos_token_id=2, pad_token_id=0)
        return found[0, len(ids) :].tolist()  # type: ignore[no-any-return]

    return say


@pytest.mark.parametrize(
    "keep", [64, pytest.param(144, marks=pytest.mark.slow), pytest.param(32, marks=pytest.mark.slow)]
)
def test_every_answer_is_torchs(assembled_once: Callable[..., Assembly], keep: int) -> None:
    done = assembled_once(keep)
    assert done.report is not None
    found = verify_generate(done.folder, "cpu", 1)
    assert (found.equal, len(found.said), found.passed) == (len(QUESTIONS), 33, True)
    assert [len(one.expected) for one in found.said] == [2] * 33
    texts = [(one.image, one.question, one.text) for one in found.said]
    right = sum((one["image"], one["question"], one["answer"]) in texts for one in QUESTIONS)
    assert right >= 27  # it says something, too: 29 of 33 with 64 tokens


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float16", "int4"])
def test_they_are_in_other_precisions(assembled_once: Callable[..., Assembly], precision: str) -> None:
    found = verify_generate(assembled_once(precision=precision).folder, "cpu", 1)
    assert found.passed
    assert found.equal >= 31


def test_the_folder_opens_in_genai_alone_with_the_encoder_in_it(model: Model) -> None:
    """What `ask` does not do: genai runs the bundle's graph, as genai_config.json has it."""
    prompt = Conversation(model).prompt(COLOR, [model.encode(ONE)])
    own = genai.Model(str(model.folder.path))
    parameters = genai.GeneratorParams(own)
    parameters.set_search_options(max_length=len(prompt.ids) + 2)
    generator, inputs = genai.Generator(own, parameters), genai.NamedTensors()
    inputs["pixel_values"] = model.encoder.prepare([ONE])
    inputs["num_image_tokens"] = np.array([64])
    generator.set_inputs(inputs)
    generator.append_tokens(np.array([prompt.ids], np.int32))
    ids = []
    while not generator.is_done():
        generator.generate_next_token()
        ids.append(int(generator.get_next_tokens()[0]))
    assert tuple(ids) == model.ask(ONE, COLOR).ids


def test_two_images_stand_behind_each_other(model: Model, torch_says: Callable[..., list[int]]) -> None:
    prompt = Conversation(model).prompt(COUNT, [model.encode(ONE), model.encode(OTHER)])
    assert sum(id == 3 for id in prompt.ids) == 128
    assert list(model.engine.answer(prompt, Sampling(2))) == torch_says([ONE, OTHER], prompt.ids)


def test_a_conversation_is_what_torch_makes_of_all_its_words(
    model: Model, torch_says: Callable[..., list[int]]
) -> None:
    """Third turn with another image; what the cache holds is wound back to, or read anew."""
    talk, turns = Conversation(model), [(COLOR, [ONE]), (COUNT, []), (COUNT, [OTHER]), (COLOR, [])]
    seen: list[Path] = []
    for question, images in turns:
        seen += images
        read = [model.encode(one) for one in images]
        prompt = talk.prompt(question, read)
        assert list(talk.ask(question, read, Sampling(6)).ids) == torch_says(seen, prompt.ids, 6)


def test_what_is_in_the_cache_is_not_read_again(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tokens of an image that was asked about go in once; and the answers are those of an empty cache."""
    seen, appended = model.encode(ONE), []
    prompts = [Conversation(model).prompt(question, [seen]) for question in (COLOR, COUNT, COLOR)]
    expected = []
    for prompt in prompts:
        model.engine.forget()
        expected.append(list(model.engine.answer(prompt, Sampling(4))))
    own = genai.Generator

    class Counting:
        def __init__(self, *given: Any) -> None:
            self._own = own(*given)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._own, name)

        def append_tokens(self, ids: Any) -> None:
            appended.append(ids.shape[1])
            self._own.append_tokens(ids)

    monkeypatch.setattr(genai, "Generator", Counting)
    model.engine.forget()
    assert [list(model.engine.answer(prompt, Sampling(4))) for prompt in prompts] == expected
    assert appended[0] == len(prompts[0].ids)
    assert max(appended[1:]) < 12
    again = Prompted(prompts[0].ids, (model.encode(ONE),))
    assert list(model.engine.answer(again, Sampling(4))) == expected[0]
    assert appended[-1] == len(again.ids)  # encoded again, it may be another image


def test_a_seed_draws_the_same_again(model: Model) -> None:
    seen = model.encode(ONE)
    hot = [Sampling(8, temperature=3.0, top_k=50, seed=seed) for seed in (1, 1, 2, 3)]
    drawn = [model.ask(seen, COLOR, how).ids for how in hot]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1
    greedy = model.ask(seen, COLOR).ids
    assert model.ask(seen, COLOR, Sampling(8, temperature=3.0, top_k=1)).ids == greedy
    assert model.ask(seen, COLOR, Sampling(8, temperature=1e-3, top_p=0.5, seed=7)).ids == greedy


def test_an_answer_is_as_long_as_it_may_be(model: Model) -> None:
    seen = model.encode(ONE)
    short, whole = model.ask(seen, COLOR, Sampling(1)), model.ask(seen, COLOR)
    assert (len(short.ids), short.stopped, len(whole.ids), whole.stopped) == (1, False, 2, True)
    beyond = list(model.engine.answer(Conversation(model).prompt(COLOR, [seen]), Sampling(9, past_stop=True)))
    assert len(beyond) == 9


def test_where_the_time_went_adds_up(model: Model) -> None:
    answer = model.ask(ONE, COLOR)
    assert answer.first_token_ms == pytest.approx(answer.image_ms + answer.encoder_ms + answer.prefill_ms)
    assert min(answer.image_ms, answer.encoder_ms, answer.prefill_ms, answer.decode_ms) > 0
    assert answer.to_json()["tokens_per_s"] == pytest.approx(1e3 / answer.decode_ms)
    assert (answer.prompt_tokens, answer.image_tokens) == (77, 64)


def test_what_does_not_fit_is_refused_in_one_line(model: Model) -> None:
    with pytest.raises(RequestError, match=r"must have one placeholder \(token 3\) for each image, got 2 for 1"):
        model.ask(ONE, "what is <image> here?")
    with pytest.raises(
        RequestError, match=r"must fit into 512 tokens; the prompt alone has 971, 64 of them of 1 image;"
    ):
        model.ask(ONE, "what? " * 300)
    with pytest.raises(RequestError, match=r"must fit into 512 tokens; .* 512 of them of 8 images"):
        model.ask([ONE] * 8, COLOR)
    with pytest.raises(BundleError, match=r"onnxruntime-genai .* failed"):
        list(model.engine.answer(Prompted((5, *[3] * 65, 6), (model.encode(ONE),)), Sampling(2)))
    assert model.ask(ONE, COLOR).text == "red"
