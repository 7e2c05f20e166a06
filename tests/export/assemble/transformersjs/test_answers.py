"""The folder of transformers.js: its graphs run as that library runs them, in Python, in node and in a browser."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from PIL import Image

from edgeprune.errors import EdgepruneError
from tests.browser import NODE, NODE_MODULES, needs_node

END = 2
"""id behind which an answer ends"""
DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}

Answers = list[list[int]]


def torch_said(folder: Path) -> list[dict[str, Any]]:
    """Questions, and the ids of torch's greedy answers with the bundle's tokens."""
    stored: list[dict[str, Any]] = json.loads((folder / "questions/answers.json").read_text())["answers"]
    assert len(stored) == 33
    return stored


def said_by_graphs(folder: Path, asked: list[dict[str, Any]]) -> Answers:
    """Greedy, by the three graphs, as transformers.js runs them: a free dimension of the empty cache is 0."""
    suffix = {"fp32": "", "fp16": "_fp16", "q4": "_q4"}
    dtypes = json.loads((folder / "config.json").read_text())["transformers.js_config"]["dtype"]
    encoder, embed, decoder = (
        ort.InferenceSession(folder / "onnx" / f"{name}{suffix[dtype]}.onnx", providers=["CPUExecutionProvider"])
        for name, dtype in dtypes.items()
    )
    from tokenizers import Tokenizer

    from edgeprune.runtime.images.preprocess import Preprocessing

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    processor = json.loads((folder / "processor_config.json").read_text())
    preprocessing = Preprocessing((96, 96), {"height": 96, "width": 96}, 3, None, 1 / 255, *MEAN_STD, True)
    outputs = [value.name for value in decoder.get_outputs()]
    said = []
    for one in asked:
        pixels = preprocessing(Image.open(folder / "questions" / one["image"]))[None]
        (image,) = encoder.run(["image_features"], {"pixel_values": pixels})
        count = counted(96, 96, processor)
        ids = tokenizer.encode(f"USER: {'<image>' * count}\n{one['question']} ASSISTANT:").ids
        (embeds,) = embed.run(None, {"input_ids": np.array([ids])})
        embeds[np.array([ids]) == tokenizer.token_to_id("<image>")] = image[0]
        caches = [value for value in decoder.get_inputs() if value.name.startswith("past_key_values")]
        feeds: dict[str, Any] = {
            value.name: np.zeros([1 if d == "batch_size" else d if isinstance(d, int) else 0 for d in value.shape],
                                 DTYPES[value.type]) for value in caches
        }  # fmt: skip
        answer: list[int] = []
        length = len(ids)
        while not answer or (answer[-1] != END and len(answer) < 12):
            feeds |= {"inputs_embeds": embeds, "attention_mask": np.ones((1, length), np.int64)}
            places = np.arange(length - embeds.shape[1], length)[None]
            asks = {value.name for value in decoder.get_inputs()} & {"position_ids"}
            made = dict(zip(outputs, decoder.run(None, feeds | dict.fromkeys(asks, places)), strict=True))
            answer.append(int(made.pop("logits")[0, -1].argmax()))
            feeds = {name.replace("present", "past_key_values"): value for name, value in made.items()}
            (embeds,) = embed.run(None, {"input_ids": np.array([answer[-1:]])})
            length += 1
        said.append(answer)
    return said


MEAN_STD = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def counted(height: int, width: int, processor: Mapping[str, Any]) -> int:
    """LlavaProcessor's formula: src/models/llava/processing_llava.js."""
    patch = processor["patch_size"]
    return int((height // patch) * (width // patch) + processor["num_additional_image_tokens"])


@pytest.mark.slow
def test_the_three_graphs_answer_as_torch(assembled: Callable[..., Path]) -> None:
    asked = torch_said(assembled())
    assert said_by_graphs(assembled(), asked) == [one["ids"] for one in asked]


@pytest.mark.slow
def test_a_folder_names_what_it_holds(assembled: Callable[..., Path]) -> None:
    folder = assembled()
    manifest = json.loads((folder / "manifest.json").read_text())
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert set(manifest["files"]) == there - {"manifest.json"}
    assert {manifest["embedding"], manifest["decoder"]["file"]} <= there
    assert {"index.html", "page.css", "page.mjs", "worker.mjs"} <= there
    assert json.loads((folder / "page.json").read_text()).items() >= {"keep": 64, "grid": [12, 12]}.items()


@pytest.mark.slow
def test_ask_says_that_a_browser_opens_it(assembled: Callable[..., Path]) -> None:
    from edgeprune.runtime.generate import open_model

    with pytest.raises(EdgepruneError, match=r"is for transformers\.js.*python -m http\.server"):
        open_model(assembled())


@pytest.mark.slow
@needs_node
@pytest.mark.parametrize(
    ("keep", "precision"), [(32, "float32"), (64, "float32"), (144, "float32"), (64, "float16"), (64, "int4")]
)
def test_node_answers_every_question_as_the_reference(
    assembled: Callable[..., Path], keep: int, precision: str
) -> None:
    """torch for float32; for a decoder of less, ONNX Runtime on the same graphs."""
    folder = assembled(keep, precision)
    asked = torch_said(folder)
    command = [NODE, str(Path(__file__).with_name("ask.mjs")), str(NODE_MODULES), str(folder)]
    said = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    expected = [one["ids"] for one in asked] if precision == "float32" else said_by_graphs(folder, asked)
    assert said == expected


@pytest.mark.slow
@needs_node
def test_the_script_of_the_documentation_answers(assembled: Callable[..., Path], tmp_path: Path) -> None:
    page = (Path(__file__).parents[4] / "docs/browser.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```js\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "ask.mjs").write_text(script, encoding="utf-8")
    (tmp_path / "node_modules").symlink_to(NODE_MODULES)
    (tmp_path / "web-model").symlink_to(assembled())
    with Image.open(assembled() / "questions/scene00.png") as picture:
        picture.save(tmp_path / "photo.jpg", quality=95)
    said = subprocess.run([NODE, "ask.mjs"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert said.strip() == "red"
