"""What torch answers, with the tokens that the bundle keeps: stored, so that a device can be compared without torch.

    questions/
      answers.json        of each question the ids of the prompt, those of the greedy answer, and their margins
      scene00.png, ...    the pictures

The prompt is transformers' own (its processor, its chat template), and so is the answer: `generate` of the whole model
in float32, with the bundle's tokens in front (`edgeprune.integrations.transformers`). Nothing of `runtime/generate` has
a part in it, so a template that is read differently there shows as well.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from edgeprune.bundle import Bundle, json_text
from edgeprune.checkpoint import DEFAULT_MODEL, Files
from edgeprune.errors import ModelError, RequestError
from edgeprune.export.assemble.texts import Texts, collapsed
from edgeprune.integrations.transformers import generation_inputs
from edgeprune.quality.scenes import draw
from edgeprune.runtime import TokenEncoder, load
from edgeprune.runtime.generate.verify import ANSWERS, QUESTIONS

__all__ = ["LONGEST", "Asked", "ask_torch", "questions_of"]

LONGEST = 12
"""new ids of an answer at most"""
SCENES = 3
DRAWN = ("What is in this picture?", "Which colors are there?")
"""about drawn scenes, where nothing better is known"""


@dataclass(frozen=True)
class Asked:
    image: Path | Image.Image
    name: str
    """of the picture's file in questions/"""
    question: str


def questions_of(given: Path | None, model: str) -> list[Asked]:
    """Those of a file, of the embedded model its own, else about drawn scenes.

    Raises RequestError when the file is not made of such lines.
    """
    if given is None and model == DEFAULT_MODEL:
        given = Path(str(resources.files("edgeprune"))) / "models" / "tiny" / "scenes" / "questions.jsonl"
    if given is None:
        scenes = [draw(0, at) for at in range(SCENES)]
        return [
            Asked(Image.fromarray(scene.image), f"drawn{at}.png", text)
            for at, scene in enumerate(scenes)
            for text in DRAWN
        ]
    return list(_lines(given))


def ask_torch(folder: Path, files: Files, bundle: Bundle, texts: Texts, asked: Sequence[Asked]) -> None:
    """Answer and store. Raises ModelError when transformers cannot read the model."""
    import transformers

    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    where: dict[str, Any] = {} if files.revision == "local" else {"revision": files.revision}
    place = str(files.locate("config.json").parent) if files.revision == "local" else files.id
    try:
        loaded: Any = transformers.AutoModelForImageTextToText.from_pretrained(place, dtype=torch.float32, **where)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{files.id} must be a model that transformers reads: {str(error)[:160]}") from None
    except (MemoryError, RuntimeError) as error:
        raise ModelError(f"{files.id} does not fit into memory ({str(error)[:80]}); use --no-answers") from None
    loaded = loaded.eval()
    plain: Any = transformers.GenerationConfig
    loaded.generation_config = plain()  # penalties of the checkpoint's own would be taken over
    (folder / QUESTIONS).mkdir()
    answers = []
    with load(bundle.folder, device="cpu", kind=TokenEncoder) as opened:
        encoder = _Once(opened)
        for one in asked:
            place_of_it = folder / QUESTIONS / one.name
            if not place_of_it.exists():
                _store(one.image, place_of_it)
            answers.append({"image": one.name, "question": one.question, **_answer(loaded, encoder, texts, one)})
    (folder / ANSWERS).write_text(json_text({"longest": LONGEST, "answers": answers}), encoding="utf-8")


class _Once:
    """An encoder that runs once for questions in a row about one image."""

    def __init__(self, encoder: TokenEncoder) -> None:
        self._encoder, self._image, self._found = encoder, object(), dict[str, Any]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def outputs(self, image: Any) -> dict[str, Any]:
        if image is not self._image and image != self._image:
            self._image, self._found = image, self._encoder.outputs(image)
        return dict(self._found)


def _answer(model: Any, encoder: Any, texts: Texts, asked: Asked) -> dict[str, Any]:
    import transformers

    settings: Any = transformers.GenerationConfig
    picture = asked.image if isinstance(asked.image, Image.Image) else Image.open(asked.image).convert("RGB")
    content = [{"type": "image", "image": picture}, {"type": "text", "text": asked.question}]
    prompt = collapsed(texts.ids([{"role": "user", "content": content}]), texts.image)
    source: Any = asked.image if isinstance(asked.image, Image.Image) else str(asked.image)
    inputs = generation_inputs(model, encoder, source, torch.tensor([prompt]))
    how = settings(
        max_new_tokens=LONGEST,
        do_sample=False,
        eos_token_id=list(texts.stop) or None,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    with torch.inference_mode():
        out = model.generate(**inputs, generation_config=how)
    ids = out.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    best = [step[0].float().topk(2).values.tolist() for step in out.logits]
    return {
        "prompt": prompt,
        "ids": ids,
        "margins": [first - second for first, second in best],
        "largest": [float(step.abs().max()) for step in out.logits],
    }


def _lines(path: Path) -> Iterator[Asked]:
    places: dict[str, Path] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            given = json.loads(line)
            name, question = Path(given["image"]), given["question"]
        except (ValueError, KeyError, TypeError):
            raise RequestError(f"{path} must have lines with image and question, line {number} is none") from None
        image = path.parent / name
        if not image.is_file() or not isinstance(question, str):
            raise RequestError(f"{path}, line {number}: there is no image {image}; names begin at the file's folder")
        if places.setdefault(name.name, image) != image:
            raise RequestError(f"{path}, line {number}: images must differ in their names, {name.name} is another one")
        yield Asked(image, name.name, question)


def _store(image: Path | Image.Image, place: Path) -> None:
    if isinstance(image, Image.Image):
        image.save(place)
    else:
        shutil.copyfile(image, place)
