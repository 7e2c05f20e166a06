"""The ledger of the whole: an answer with the tokens that a bundle keeps, beside one with all of them.

    image         read, resized, cut up               the same of both
    encoder       the bundle's graph                  its baseline `unpruned`
    prefill       the decoder, up to the first id     of K and of N image tokens, with the same words
    first token   the three together
    token         each id behind the first

Both sides take turns within a round, in one process, with the same engine; nothing of a prompt is in the cache. Figures
are medians, ratios are of medians, and one that the rounds do not bear out is not told (`runtime/ledger/spread.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.bundle import Bundle
from edgeprune.errors import RequestError
from edgeprune.runtime.backends.ort import Session, open_session
from edgeprune.runtime.generate.engine import Encoded, Prompted, Sampling
from edgeprune.runtime.generate.folder import load_folder
from edgeprune.runtime.generate.model import Conversation, Model
from edgeprune.runtime.generate.verify import ANSWERS, QUESTIONS, stored
from edgeprune.runtime.images.preprocess import ImageLike
from edgeprune.runtime.ledger.spread import ratio_of
from edgeprune.runtime.runner import PIXELS

__all__ = ["PARTS", "Side", "WholeLedger", "bench_whole"]

PRUNED, UNPRUNED = "pruned", "unpruned"
PARTS = ("image", "encoder", "prefill", "first token", "token")
NEW = 16
WARM_UP = 2
BUDGET_S = 20.0
ROUNDS = (7, 100)
QUESTION = "What is in this picture?"
"""where no question is stored"""


@dataclass(frozen=True)
class Side:
    """Medians of one side, in milliseconds."""

    image_tokens: int
    prompt_tokens: int
    ms: Mapping[str, float]
    """part -> median"""

    @property
    def tokens_per_s(self) -> float:
        return 1e3 / self.ms["token"]

    def share(self, part: str) -> float:
        """Of the time to the first token."""
        return self.ms[part] / self.ms["first token"]


@dataclass(frozen=True)
class WholeLedger:
    engine: str
    version: str
    precision: str
    """of the decoder"""
    device: str
    """of the encoder"""
    threads: int | None
    rounds: int
    question: str
    pruned: Side
    unpruned: Side
    ratios: Mapping[str, float | None]
    """part -> median of the pruned side over that of the other; None where the rounds do not bear it out"""
    doubts: Mapping[str, str]
    """part -> why there is no ratio"""

    @property
    def text_tokens(self) -> int:
        return self.pruned.prompt_tokens - self.pruned.image_tokens

    def to_json(self) -> dict[str, Any]:
        sides = {
            name: {
                **asdict(side),
                "tokens_per_s": side.tokens_per_s,
                "share": {part: side.share(part) for part in PARTS[:3]},
            }
            for name, side in ((PRUNED, self.pruned), (UNPRUNED, self.unpruned))
        }
        return {**asdict(self), **sides}


def bench_whole(
    path: str | Path,
    device: str = "cpu",
    threads: int | None = None,
    rounds: int | None = None,
    new_tokens: int = NEW,
    question: str | None = None,
    show: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> WholeLedger:
    """Measure an assembled model.

    new_tokens: of each answer, which goes on behind its end
    question: about a picture of noise; None for the first that is stored, else one of edgeprune's own
    rounds: answers of each side; None for about 20 seconds' worth (7 to 100)

    Raises RequestError when the bundle brings no unpruned baseline, its tokens do not fit into the context, or the
    model cannot be opened; BundleError when it is damaged.
    """
    folder = load_folder(path)
    if rounds is not None and rounds < 1:
        raise RequestError(f"--rounds must be at least 1, got {rounds}")
    if new_tokens < 2:
        raise RequestError(f"an answer must have at least 2 tokens to be timed, got {new_tokens}")
    image: ImageLike = _picture(folder.bundle)
    if question is None and ANSWERS in folder.manifest.files:
        first = stored(folder)[0][0]
        image, question = folder.file(f"{QUESTIONS}/{first.image}"), first.question
    question = question or QUESTION
    every = _unpruned(folder.bundle, device, threads)
    with Model(folder, device, threads) as model:
        sampling = Sampling(max_new_tokens=new_tokens, past_stop=True)
        times: dict[str, dict[str, list[float]]] = {name: {part: [] for part in PARTS} for name in (PRUNED, UNPRUNED)}
        prompts: dict[str, Prompted] = {}
        begun, done, total = time.perf_counter(), 0, rounds or ROUNDS[0]
        while done < total + WARM_UP:
            for name in times:
                took, prompts[name] = _answer(model, None if name == PRUNED else every, image, question, sampling)
                if done >= WARM_UP:
                    for part, ms in took.items():
                        times[name][part].append(ms)
            done += 1
            if done == WARM_UP:
                begun = time.perf_counter()
            elif rounds is None and done > WARM_UP:
                each = (time.perf_counter() - begun) / (done - WARM_UP)
                total = int(np.clip(BUDGET_S / each, *ROUNDS))
            show(done, total + WARM_UP, question)
        ratios = {part: ratio_of(times[PRUNED][part], times[UNPRUNED][part], (PRUNED, UNPRUNED)) for part in PARTS}
        sides = {
            name: Side(
                image_tokens=sum(len(one.tokens) for one in prompts[name].images),
                prompt_tokens=len(prompts[name].ids),
                ms={part: float(np.median(values)) for part, values in own.items()},
            )
            for name, own in times.items()
        }
        return WholeLedger(
            engine=model.engine.name,
            version=model.engine.version,
            precision=folder.manifest.decoder.precision,
            device=model.encoder.device,
            threads=threads,
            rounds=total,
            question=question,
            pruned=sides[PRUNED],
            unpruned=sides[UNPRUNED],
            ratios={part: None if one.doubt else one.value for part, one in ratios.items()},
            doubts={part: one.doubt for part, one in ratios.items() if one.doubt},
        )


def _answer(
    model: Model, every: Session | None, image: ImageLike, question: str, sampling: Sampling
) -> tuple[dict[str, float], Prompted]:
    """One answer from the picture on, by the bundle's encoder or the one that keeps every token."""
    seen: Encoded = model.encode(image, every)
    prompt = Conversation(model, turns=1).prompt(question, [seen], sampling)
    model.check_length(prompt, sampling.max_new_tokens)
    model.engine.forget()
    start = time.perf_counter()
    at = [time.perf_counter() for _ in model.engine.answer(prompt, sampling)]
    prefill = 1e3 * (at[0] - start)
    return {
        "image": seen.image_ms,
        "encoder": seen.encoder_ms,
        "prefill": prefill,
        "first token": seen.image_ms + seen.encoder_ms + prefill,
        "token": 1e3 * (at[-1] - at[0]) / (len(at) - 1),
    }, prompt


def _unpruned(bundle: Bundle, device: str, threads: int | None) -> Session:
    if UNPRUNED not in bundle.baselines:
        raise RequestError(
            f"{bundle.folder} must bring the baseline unpruned to be measured beside it; "
            "export it with baselines and assemble it again"
        )
    names = list(bundle.manifest.graphs[f"baseline.{UNPRUNED}"].outputs)
    return open_session(bundle.baselines[UNPRUNED], "cpu" if device != "cuda" else device, threads, outputs=names)


def _picture(bundle: Bundle) -> ImageLike:
    """Grey noise of the encoder's own size."""
    spec = bundle.manifest.inputs[PIXELS]
    rows, columns = (int(size) for size in (spec.shape[1:3] if spec.dtype == "uint8" else spec.shape[2:4]))
    return np.random.default_rng(0).integers(0, 256, (rows, columns, 3), np.uint8)
