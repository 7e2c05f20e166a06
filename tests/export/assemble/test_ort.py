"""An assembled model on ONNX Runtime alone says what torch says of the same tokens, word by word."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeprune.errors import BundleError, RequestError
from edgeprune.export.assemble import Request as AssembleRequest
from edgeprune.export.assemble import assemble
from edgeprune.runtime.generate import Conversation, Encoded, Prompted, Sampling, open_model
from edgeprune.runtime.generate.decoder import Cache
from tests.export.assemble.asking import NEW, PHOTOS, PROMPTS, QUESTIONS, Made
from tests.export.assemble.kinds import IMAGE, KINDS

EVERY = [pytest.param(name, marks=() if name == "qwen2.5 vl" else pytest.mark.slow) for name in KINDS]


@pytest.mark.parametrize("kind", EVERY)
def test_it_says_what_torch_says(made: Callable[[str], Made], kind: str) -> None:
    one, answers = made(kind), []
    for photo, question in PROMPTS:
        prompt = one.prompt([photo], question)
        answers.append(one.says(prompt))
        assert answers[-1] == one.torch_says([photo], prompt.ids)
    half = len(answers) // 2
    assert answers[:half] != answers[half:]  # which photo it is changes what is said


@pytest.mark.parametrize("kind", EVERY)
def test_it_does_of_two_images_and_in_a_second_turn(made: Callable[[str], Made], kind: str) -> None:
    one = made(kind)
    turns = one.prompt(PHOTOS, *QUESTIONS[:2])
    first = one.prompt(PHOTOS, QUESTIONS[0])
    assert one.says(first) == one.torch_says(PHOTOS, first.ids)
    expected = one.torch_says(PHOTOS, turns.ids)
    assert one.says(turns) == expected  # what was read is read anew: the images were encoded again
    again = Prompted((*turns.ids,), turns.images)
    assert one.says(again) == expected  # and now it is not


@pytest.mark.parametrize("kind", [name for name in KINDS if name.startswith("qwen")][1:2])
def test_positions_without_gaps_say_something_else(made: Callable[[str], Made], kind: str) -> None:
    one, equal = made(kind), 0
    for photo, question in PROMPTS:
        prompt = one.prompt([photo], question)
        count = len(prompt.images[0].tokens)
        numbered = np.tile(np.arange(count, dtype=np.int32), (3, 1))
        compact = Prompted(prompt.ids, (replace(prompt.images[0], positions=numbered, side=count),))
        equal += one.says(compact) == one.says(prompt)
    assert equal == 0


def test_features_of_deeper_layers_change_what_is_said(made: Callable[[str], Made]) -> None:
    one, equal = made("qwen3 vl"), 0
    for photo, question in PROMPTS:
        prompt = one.prompt([photo], question)
        flat = {name: np.zeros_like(values) for name, values in prompt.images[0].extras.items()}
        assert len(flat) == 2
        equal += one.says(Prompted(prompt.ids, (replace(prompt.images[0], extras=flat),))) == one.says(prompt)
    assert equal < len(PROMPTS) / 2


def test_a_conversation_goes_on_where_it_was(made: Callable[[str], Made]) -> None:
    """Words, pieces and turns through `Conversation`, of which the second adds an image."""
    one = made("qwen3 vl")
    talk, heard = Conversation(one.model), list[str]()
    first = talk.ask(QUESTIONS[0], PHOTOS[0], Sampling(NEW), heard.append)
    assert "".join(heard).strip() == first.text
    second = talk.ask(QUESTIONS[1], PHOTOS[1], Sampling(NEW))
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTIONS[0]}]},
        {"role": "assistant", "content": [{"type": "text", "text": first.text}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTIONS[1]}]},
    ]
    ids = one.model.chat.ids(messages, [KINDS["qwen3 vl"].keep] * 2)
    assert list(second.ids) == one.torch_says(PHOTOS, ids)


def test_what_is_no_prompt_for_it_is_refused(made: Callable[[str], Made]) -> None:
    one = made("qwen3 vl")
    good = one.prompt([PHOTOS[0]], QUESTIONS[0])
    image = good.images[0]
    at = good.ids.index(IMAGE)
    wrong: list[tuple[type[Exception], str, tuple[int, ...], Encoded]] = [
        (RequestError, "must have 9 placeholders .* got 8", (*good.ids[:at], *good.ids[at + 1 :]), image),
        (RequestError, "must have 9 placeholders .* got 10", (*good.ids[:at], IMAGE, *good.ids[at:]), image),
        (RequestError, "must have 1 to 600 tokens, .* got 6", (*good.ids, *[20] * 600), image),
        (BundleError, "takes tokens 48 wide .* got 40", good.ids, replace(image, tokens=image.tokens[:, :40])),
        (BundleError, "2 deeper layers, got 48 and 0", good.ids, replace(image, extras={})),
        (BundleError, "needs the places of the tokens .* image 1 has none", good.ids, replace(image, positions=None)),
    ]
    for error, message, ids, images in wrong:
        with pytest.raises(error, match=message):
            one.says(Prompted(ids, (images,)))
    assert one.says(good) == one.torch_says([PHOTOS[0]], good.ids)


def test_an_answer_ends_where_the_context_does(made: Callable[[str], Made]) -> None:
    """The one behind the last token that fits was not read, and needs no room."""
    one = made("qwen2.5 vl")
    prompt = one.prompt([PHOTOS[0]], QUESTIONS[0])
    long = Prompted((*prompt.ids, *[20] * (595 - len(prompt.ids))), prompt.images)
    assert len(list(one.model.engine.answer(long, Sampling(NEW, past_stop=True)))) == 6


def test_what_was_read_is_not_read_again(made: Callable[[str], Made], monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where the cache must grow; but what differs is, and an image that differs with all behind it."""
    one, read = made("qwen2.5 vl"), list[int]()
    engine: Any = one.model.engine
    run = engine._decoder.run

    def counted(embeds: NDArray[Any], *rest: Any) -> NDArray[np.float32]:
        read.append(len(embeds))
        found: NDArray[np.float32] = run(embeds, *rest)
        return found

    monkeypatch.setattr(engine._decoder, "run", counted)
    engine.forget()
    engine._cache = Cache()
    first = one.prompt([PHOTOS[0]], QUESTIONS[0])
    long = Prompted((*first.ids, *[20, 30, 40] * 100), first.images)
    other = Prompted(long.ids, one.prompt([PHOTOS[1]], QUESTIONS[0]).images)
    image = first.ids.index(IMAGE)
    for prompt, images, count in [
        (first, PHOTOS[:1], len(first.ids)),
        (long, PHOTOS[:1], 300),
        (other, PHOTOS[1:], len(long.ids) - image),
        (other, PHOTOS[1:], 1),
    ]:
        read.clear()
        assert one.says(prompt) == one.torch_says(images, prompt.ids)
        assert read[0] == count


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float16", "int4"])
def test_features_of_deeper_layers_reach_a_smaller_decoder(
    made: Callable[[str], Made], tmp_path: Path, precision: str
) -> None:
    """What they change of its logits is what they change of the whole decoder's."""
    one = made("qwen3 vl")
    folder = one.model.folder.path.parent
    request = AssembleRequest(
        folder / "bundle",
        str(folder / "model"),
        engine="onnxruntime",
        decoder_precision=precision,
        output=tmp_path / "a",
    )
    assert assemble(request).report is not None
    with open_model(tmp_path / "a", "cpu", 1) as model:
        added, loops = [], list[Any]([one.model.engine, model.engine])
        for loop in loops:
            prompt = one.prompt([PHOTOS[0]], QUESTIONS[0])
            flat = {name: np.zeros_like(values) for name, values in prompt.images[0].extras.items()}
            without = Prompted(prompt.ids, (replace(prompt.images[0], extras=flat),))
            added.append(loop._read(prompt)[0] - loop._read(without)[0])
    whole, small = added
    assert whole @ small > 0.9 * np.linalg.norm(whole) * np.linalg.norm(small)


def test_an_onnx_runtime_that_is_too_old_is_named(made: Callable[[str], Made], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.__version__", "1.28.0")
    with pytest.raises(RequestError, match=r"needs ONNX Runtime 1.29 or newer, 1.28.0 is installed"):
        open_model(made("qwen3 vl").model.folder.path, "cpu", 1)
