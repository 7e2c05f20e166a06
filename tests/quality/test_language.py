"""Answers of the packed pass and of `generate` are those of an unmodified transformers model, asked one by one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from edgeprune.errors import ModelError, RequestError
from edgeprune.probes import scenes
from edgeprune.quality.language import Language, elsewhere, load_language

KEPT = [3, 17, 40, 41, 66, 67, 68, 90, 143]


@pytest.fixture(scope="module")
def language() -> Language:
    return load_language()


@pytest.fixture(scope="module")
def asked() -> list[tuple[str, Any]]:
    """(question, image as RGB) of the stored scenes"""
    folder = scenes()[0].parent
    lines = [json.loads(line) for line in (folder / "questions.jsonl").read_text(encoding="utf-8").splitlines()]
    return [(line["question"], Image.open(folder / line["image"]).convert("RGB")) for line in lines]


@pytest.fixture(scope="module")
def tokens(language: Language) -> list[np.ndarray]:
    """[144, 128] of each stored scene, as the model's own tower and projector make them"""
    pixels = language.processor.image_processor([Image.open(path) for path in scenes()], return_tensors="pt")[
        "pixel_values"
    ]
    with torch.inference_mode():
        found = language.model.model.get_image_features(pixel_values=pixels, return_dict=True).pooler_output
    return [one.numpy() for one in found]


def one_by_one(language: Language, image: np.ndarray, question: str, longest: int) -> str:
    """By transformers' generate, with these tokens in place of what its tower would give."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    tokenizer: Any = language.processor.tokenizer
    prompt = f"USER: {'<image>' * len(image)}\n{question} ASSISTANT:"
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    outputs: Any = [torch.from_numpy(image)]
    given = language.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_encoder_outputs={"image": BaseModelOutputWithPooling(pooler_output=outputs)},
        max_new_tokens=longest,
        do_sample=False,
    )
    return str(tokenizer.decode(given[0, ids.shape[1] :], skip_special_tokens=True)).strip()


QUESTIONS = [
    ["what color is the star?", "how many squares are there?", "is there a white star?"],
    [],
    ["what shape is the orange object?", "how many objects are there?"],
    ["what color is the triangle?"],
]


@pytest.mark.parametrize("longest", [1, 4])
def test_answers_are_those_of_generate(language: Language, tokens: list[np.ndarray], longest: int) -> None:
    """Sequences of unlike lengths, and an image that nothing is asked about."""
    given = [tokens[0], tokens[1], tokens[2][KEPT], tokens[3][KEPT[:2]]]
    expected = [
        [one_by_one(language, image, text, longest) for text in texts]
        for image, texts in zip(given, QUESTIONS, strict=True)
    ]
    assert language.answers(given, QUESTIONS, longest) == expected


def test_answers_from_pixels_are_those_of_the_checkpoint_as_anyone_runs_it(
    language: Language, tokens: list[np.ndarray], asked: list[tuple[str, Any]]
) -> None:
    processor: Any = language.processor
    question, image = asked[0]
    inputs = processor(text=f"USER: <image>\n{question} ASSISTANT:", images=image, return_tensors="pt")
    given = language.model.generate(**inputs, max_new_tokens=1, do_sample=False)
    expected = processor.decode(given[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
    assert language.answers(tokens[:1], [[question]]) == [[expected]]


def test_an_answer_hangs_on_its_own_question_and_image_alone(language: Language, tokens: list[np.ndarray]) -> None:
    texts = ["what color is the square?", "how many rings are there?", "is there a red square?"]
    together = language.answers(tokens[:3], [texts] * 3)
    alone = [[language.answers([image], [[text]])[0][0] for text in texts] for image in tokens[:3]]
    assert together == alone
    assert len({answer for row in together for answer in row}) > 2


def test_nothing_is_seen_without_tokens(language: Language, tokens: list[np.ndarray]) -> None:
    blind = language.answers(np.stack(tokens)[:, :0], [["what color is the square?"]] * len(tokens))
    assert len({row[0] for row in blind}) == 1


def test_what_does_not_fit_is_refused(language: Language, tokens: list[np.ndarray]) -> None:
    with pytest.raises(RequestError, match="1 images and 2"):
        language.answers(tokens[:1], [[], []])
    with pytest.raises(RequestError, match=r"\[K, 128\].*\[144, 64\]"):
        language.answers([tokens[0][:, :64]], [["is there a red star?"]])
    with pytest.raises(RequestError, match="two images"):
        elsewhere(1)


def test_a_checkpoint_that_answers_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(ModelError, match="images and text"):
        load_language(str(tmp_path))


def test_positions_of_three_axes_are_refused(tmp_path: Path) -> None:
    text = {"model_type": "qwen2_5_vl_text", "rope_parameters": {"rope_type": "default", "mrope_section": [4, 4, 4]}}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2_5_vl", "text_config": text}))
    with pytest.raises(ModelError, match="has three"):
        load_language(str(tmp_path))
