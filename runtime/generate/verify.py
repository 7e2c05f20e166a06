"""What an assembled model says, beside what torch said with the same tokens when it was assembled.

equal            every id is torch's
within rounding  the first one that differs was as good as torch's own: its margin lies below what the precision may
                 move logits by; what follows has another beginning and proves nothing
wrong            it differs where rounding cannot be why, or the prompt is another one

float32          1e-4 of the largest logit        as tokens are judged (docs/parity.md)
float16          1e-2
int4             no bound: quantised weights give other logits. What is said is how many ids agree; below half of
                 the first ones the decoder is taken to be broken
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from edgeprune import typed
from edgeprune.errors import BundleError, RequestError
from edgeprune.runtime.generate.engine import Encoded, Sampling
from edgeprune.runtime.generate.folder import Folder, load_folder
from edgeprune.runtime.generate.model import Conversation, Model

__all__ = ["ANSWERS", "BOUNDS", "QUESTIONS", "GenerateReport", "Said", "Stored", "stored", "verify_generate"]

QUESTIONS = "questions"
ANSWERS = f"{QUESTIONS}/answers.json"
BOUNDS = {"float32": 1e-4, "float16": 1e-2}
"""of the largest logit; a margin moves by twice as much"""
ENOUGH = 0.5
"""of the first ids of a quantised decoder that must be torch's"""


@dataclass(frozen=True)
class Stored:
    """One question, and torch's answer."""

    image: str
    question: str
    prompt: tuple[int, ...]
    """ids, with a single one for the image"""
    ids: tuple[int, ...]
    margins: tuple[float, ...]
    """of each id, how far its logit is above the next"""
    largest: tuple[float, ...]
    """absolute value of the logits there"""


@dataclass(frozen=True)
class _File:
    longest: int
    answers: tuple[Stored, ...]


@dataclass(frozen=True)
class Said:
    image: str
    question: str
    text: str
    expected: tuple[int, ...]
    given: tuple[int, ...]
    verdict: str
    """equal, within rounding, wrong, or differs (of a quantised decoder)"""
    reason: str = ""

    @property
    def agree(self) -> int:
        """Ids at the front that are torch's."""
        pairs = zip(self.expected, self.given, strict=False)
        return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(self.expected), len(self.given)))


@dataclass(frozen=True)
class GenerateReport:
    engine: str
    version: str
    device: str
    """of the encoder"""
    precision: str
    """of the decoder"""
    said: tuple[Said, ...]

    @property
    def equal(self) -> int:
        return sum(one.verdict == "equal" for one in self.said)

    @property
    def passed(self) -> bool:
        if self.precision in BOUNDS:
            return all(one.verdict != "wrong" for one in self.said)
        first = sum(one.agree > 0 for one in self.said)
        return first >= ENOUGH * len(self.said) and all(one.verdict != "wrong" for one in self.said)

    @property
    def worst(self) -> str:
        """Why it does not pass, in one line; empty where it does."""
        if self.passed:
            return ""
        wrong = next((one for one in self.said if one.verdict == "wrong"), None)
        if wrong is not None:
            return f"{wrong.image}, {wrong.question!r}: {wrong.reason}"
        first = sum(one.agree > 0 for one in self.said)
        return f"{first} of {len(self.said)} answers begin as torch's do, half of them must"

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "equal": self.equal, "asked": len(self.said), "passed": self.passed}


def stored(folder: Folder) -> tuple[list[Stored], int]:
    """What torch answered, and how many ids at most. Raises RequestError when nothing was stored."""
    if ANSWERS not in folder.manifest.files:
        raise RequestError(
            f"{folder.path} holds no answers of torch to compare with; assemble it again without --no-answers"
        )
    try:
        given: _File = typed.read(_File, folder.read_json(ANSWERS), typed.JSON)
        for one in given.answers:
            if not len(one.ids) == len(one.margins) == len(one.largest):
                raise ValueError(f"ids, margins and largest must be as many for {one.question!r:.60}")
    except ValueError as error:
        raise BundleError(f"{folder.path}/{ANSWERS}: {error}; assemble it again") from None
    return list(given.answers), given.longest


def verify_generate(
    path: Any,
    device: str = "auto",
    threads: int | None = None,
    show: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> GenerateReport:
    """Ask what torch was asked, and compare the ids.

    path: of an assembled model

    Raises RequestError (and its kinds) when it cannot be opened, or holds no answers.
    """
    folder = load_folder(path)
    answers, longest = stored(folder)
    with Model(folder, device, threads) as model:
        seen: dict[str, Encoded] = {}
        said = []
        for at, one in enumerate(answers):
            show(at, len(answers), one.question)
            if one.image not in seen:
                seen = {one.image: model.encode(folder.file(f"{QUESTIONS}/{one.image}"))}
            said.append(_compare(model, seen[one.image], one, longest))
        return GenerateReport(
            model.engine.name, model.engine.version, model.encoder.device, model.manifest.decoder.precision, tuple(said)
        )


def _compare(model: Model, image: Encoded, one: Stored, longest: int) -> Said:
    bound = BOUNDS.get(model.manifest.decoder.precision)
    talk = Conversation(model, turns=1)
    prompt = talk.prompt(one.question, [image])
    ours = model.chat.shortened(prompt.ids)
    if ours != list(one.prompt):
        at = next((at for at, (a, b) in enumerate(zip(ours, one.prompt, strict=False)) if a != b), None)
        where = f"token {at} is {ours[at]}, not {one.prompt[at]}" if at is not None else f"{len(ours)} tokens long"
        return Said(
            one.image, one.question, "", one.ids, (), "wrong", f"the prompt is not what the processor writes: {where}"
        )
    answer = talk.ask(one.question, [image], Sampling(max_new_tokens=longest))
    said = Said(one.image, one.question, answer.text, one.ids, answer.ids, "equal")
    if answer.ids == one.ids:
        return said
    at = said.agree
    if at >= len(one.ids):
        return Said(*_fields(said), "wrong", f"it goes on behind {len(one.ids)} ids, where torch ends")
    got = answer.ids[at] if at < len(answer.ids) else "nothing"
    told = f"id {at} is {got}, not {one.ids[at]}, which torch prefers by {one.margins[at]:.3g}"
    if bound is None:
        return Said(*_fields(said), "differs", told)
    allowed = 2 * bound * one.largest[at]
    verdict = "within rounding" if one.margins[at] <= allowed else "wrong"
    return Said(*_fields(said), verdict, f"{told}; rounding moves it by {allowed:.3g} at most")


def _fields(said: Said) -> tuple[str, str, str, tuple[int, ...], tuple[int, ...]]:
    return said.image, said.question, said.text, said.expected, said.given
