"""The prompt is what transformers makes of the same words, and images are numbered by what they give."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeprune.errors import BundleError, RequestError
from edgeprune.export.assemble import Assembly
from edgeprune.runtime.generate import load_folder
from edgeprune.runtime.generate.chat import PLAIN, Chat, expanded
from edgeprune.runtime.generate.folder import Folder, Prompt

WORDS = {"type": "text", "text": "what color is the square?"}


@pytest.fixture
def folder(assembled_once: Callable[..., Assembly]) -> Folder:
    return load_folder(assembled_once().folder)


@pytest.fixture
def with_template(folder: Folder, tmp_path: Path) -> Callable[[str], Chat]:
    def make(template: str) -> Chat:
        path = Path(shutil.copytree(folder.path, tmp_path / "model"))
        (path / "chat_template.jinja").write_text(template)
        return Chat(replace(folder, path=path))

    return make


def turns(*roles: str) -> list[dict[str, Any]]:
    return [
        {"role": role, "content": [*([{"type": "image"}] if not at else []), WORDS]} for at, role in enumerate(roles)
    ]


def test_ids_are_those_of_the_processor(folder: Folder) -> None:
    from transformers import AutoProcessor

    loader: Any = AutoProcessor
    processor = loader.from_pretrained(Path(__file__).parents[3] / "edgeprune/models/tiny")
    text = processor.apply_chat_template(turns("user"), add_generation_prompt=True)
    own = processor.tokenizer(text)["input_ids"]
    assert Chat(folder).shortened(Chat(folder).ids(turns("user"), [64])) == own
    assert Chat(folder).ids(turns("user"), [64]).count(3) == 64


def test_a_template_is_given_what_transformers_gives_it(with_template: Callable[[str], Chat]) -> None:
    chat = with_template(
        "{{ bos_token }}{%- for m in messages -%}\n{% if loop.index > 1 %}{% break %}{% endif %}{{ m | tojson }}"
        "{%- endfor %}{% if add_generation_prompt %}{{ strftime_now('%%') }}{{ eos_token }}{% endif %}"
    )
    assert chat.text([{"role": "ü", "content": "a"}, {}]) == '<s>{"role": "ü", "content": "a"}%</s>'


def test_a_template_that_opens_with_the_first_token_gets_no_other(with_template: Callable[[str], Chat]) -> None:
    ids = with_template("{{ bos_token }}{{ messages[0]['content'][1]['text'] }}").ids(turns("user"), [])
    assert (ids[0], ids.count(1)) == (1, 1)


@pytest.mark.parametrize(
    "attempt", ["{{ ''.__class__.__mro__.x }}", "{{ messages.append(1) }}", "{{ raise_exception('no system') }}"]
)
def test_a_template_cannot_reach_out(with_template: Callable[[str], Chat], attempt: str) -> None:
    with pytest.raises(BundleError, match=r"chat_template\.jinja cannot write this prompt"):
        with_template(attempt).text(turns("user"))


def test_without_one_it_is_llavas(with_template: Callable[[str], Chat]) -> None:
    text = with_template(PLAIN).text(turns("user", "assistant", "user"))
    said = WORDS["text"]
    assert text == f"USER: <image>\n{said} ASSISTANT: {said} USER: {said} ASSISTANT:"


def test_each_placeholder_becomes_as_many_as_its_image_has_tokens() -> None:
    around = Prompt(image=3, placeholder=9, before=(7,), after=(8, 8))
    assert expanded([1, 9, 2, 9], [2, 1], around) == (1, 7, 3, 3, 8, 8, 2, 7, 3, 8, 8)
    for ids, counts in (([1, 9], [2, 1]), ([1], [2]), ([9, 9], [2])):
        with pytest.raises(RequestError, match=rf"got {ids.count(9)} for {len(counts)}"):
            expanded(ids, counts, around)


def test_words_come_as_their_tokens_do_and_letters_whole(folder: Folder) -> None:
    chat = Chat(folder)
    ids = chat.tokenizer.encode("is the größe red?", add_special_tokens=False).ids
    pieces = list(chat.pieces(iter(ids)))
    assert "".join(pieces) == chat.decode(ids) == "is the größe red?"
    assert len(pieces) > 3
    assert not any("\ufffd" in piece for piece in pieces)
