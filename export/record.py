"""What the independent reference makes of the probes, as it travels in the bundle; and the probes that decide.

A probe that decides is a drawn scene whose decisions have wide margins for this model and method: a mistake in any of
them would be seen. Up to MOST are drawn, fewer for a large encoder; the reference runs on each, and the TELLING best
are kept.
Where steps shorten the encoder on the way, later numbers hang on earlier decisions: a device that decided one of them
otherwise within rounding is judged by a reference that is run again and does what the device did (`forced`). On a
device without torch everything behind such a step counts as undecided, so that those scenes tell most whose steps are
far from any such decision (`_steady`).
Where the graph is given more than pixels, a probe has that of its own (`edgeprune.export.questions`).
Where a step keeps something from frame to frame, every second probe is the frame behind the one in front of it: drawn
scenes are pairs of frames, and of the two pairs that tell most both become probes.
Before any weight is cast the traced module itself is held against the reference, in float32: a wrong algorithm cannot
hide behind the rounding of a precision. A float32 graph is held against it itself, when it is verified.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import save_file
from torch import Tensor, nn

from edgeprune.encoders import Encoder
from edgeprune.errors import ParityError
from edgeprune.export.cost import formula
from edgeprune.export.questions import given_to
from edgeprune.export.ranges import watching
from edgeprune.probes.drawn import Scenes
from edgeprune.pruners import Method, one_pool
from edgeprune.reference import OfficialEncoder
from edgeprune.reference_steps import Taken
from edgeprune.runtime.images.preprocess import Preprocessing
from edgeprune.runtime.parity import BOUNDS, Verdict, compare
from edgeprune.runtime.parity.decisions import Case
from edgeprune.runtime.parity.inside import RANKED, followed, stepped
from edgeprune.runtime.parity.stored import IMAGES, QUANTITY, REFERENCE, packed, replayed
from edgeprune.runtime.parity.worth import of_probe
from edgeprune.schedule import NEXT, STATE
from edgeprune.trace import PrunedEncoder, first_frame, outputs

__all__ = ["TELLING", "Reference", "candidates"]

MOST, LEAST = 32, 4
"""scenes that are drawn to choose from"""
WORK = 7 * 10**11
"""multiply-adds that may be spent on them, beyond LEAST: some 7 s on two CPU cores"""
TELLING = 3
"""how many of them become probes"""
STAYS = 2
"""frames of a video that a scene is there for: from one to the next something stays, and something is new"""
HALF = 2.0**-11
"""a rounding to float16"""
SEED = 20
"""of the drawn scenes; a probe's name says which of them it is"""

Arrays = dict[str, NDArray[Any]]
Outputs = Mapping[str, NDArray[Any]]
NOTHING: Outputs = MappingProxyType({})
T = TypeVar("T")


class Reference:
    """The official form of a method on an encoder, as eager float32 torch.

    batch: images of one run
    rule: how its decisions are judged (`Method.rule`)
    largest: module of the graph -> largest |value| that it takes or gives on the probes, once they are written
    """

    def __init__(
        self, encoder: Encoder, method: Method, preprocessing: Preprocessing, batch: int, rule: dict[str, Any]
    ) -> None:
        self._official = OfficialEncoder(encoder, method).eval()
        self._traced = PrunedEncoder(encoder, method).eval()
        self._names, self._preprocessing, self._batch, self._rule = outputs(encoder, method), preprocessing, batch, rule
        self._together = batch if one_pool(type(method), method.options(), encoder) else 1
        self._stays = STAYS if encoder.framed and self._together > 1 else 1
        self._whole = bool(method.steps(encoder.layer)) or encoder.headed
        self._candidates = candidates(formula(encoder, method) * self._together)
        self._encoder, self.largest = encoder, dict[str, float]()
        self._known: dict[str, tuple[Arrays, Arrays]] = {}
        self._given: dict[str, Arrays] = {}
        self._method = method
        self._first: Arrays = {name: value.numpy() for name, value in first_frame(encoder, batch).items()}
        self._before: dict[str, Arrays] = {}
        self._written: dict[str, tuple[NDArray[np.float32], Arrays, Arrays]] = {}
        self._hardest = ""

    def telling(self, size: tuple[int, int]) -> dict[str, Image.Image]:
        """Name -> drawn scene of the given (height, width), the most telling ones; none where nothing is decided."""
        if self._rule["name"] == "fixed" or min(size) < 32:
            return {}
        scenes = Scenes(self._candidates, seed=SEED, size=size)
        drawn = {f"drawn{SEED}-{at:02}": Image.fromarray(scenes[at].image) for at in range(self._candidates)}
        pixel_values = [self._preprocessing(image) for image in drawn.values()]
        shares, ran, wanted = {}, {}, Arrays()
        frames = 2 if self._first else 1
        for at, name in enumerate(drawn):
            self._before[name] = _left(wanted) if at % frames else {}
            given = np.stack([*_tiles(pixel_values, at, self._together, self._stays)])
            wanted, quantities = ran[name] = self._run(given, before=self._before[name], asked=self._asked(name, given))
            # As a float16 device would be judged: its tolerance is the one that margins have to exceed.
            rounded = _rounded(wanted, self._rule)
            verdict = compare(wanted, rounded, "float16", self._rule, quantities)
            steady = _steady(wanted, rounded, self._rule, quantities)
            shares[name] = steady * verdict.decided / max(verdict.decisions, 1)
        every = [list(drawn)[at : at + frames] for at in range(0, len(drawn), frames)]
        every.sort(key=lambda names: (-sum(shares[name] for name in names), names[0]))
        best = [name for names in every[: -(-TELLING // frames)] for name in names]
        if self._batch == 1:  # of several images another one stands beside it among the probes
            self._known = {name: ran[name] for name in best}
        return {name: drawn[name] for name in sorted(best)}

    def write(self, folder: Path, images: dict[str, Image.Image], uint8: bool, check: bool = True) -> Tensor:
        """Run every probe, unless `telling` did, and store inputs, outputs and quantities; returns one input as an
        example.

        With several tiles, a probe fills them with its image and the ones after it, so that mixed-up tiles show. The
        first probe is stored as an image, too, so that a device runs the preprocessing.

        check: whether the traced module is held against the reference here; a float32 graph itself is, later

        Raises ParityError when the traced module decides anything wrong, in float32.
        """
        tensors, wanted = Arrays(), Arrays()
        for at, name in enumerate(images):
            tiles = _tiles(list(images.values()), at, self._batch, self._stays)
            pixel_values = np.stack([self._preprocessing(image) for image in tiles])
            if name not in self._known:
                self._before[name] = _left(wanted) if at % 2 else {}
            before = self._before[name]
            asked = self._asked(name, pixel_values)
            wanted, quantities = self._known.get(name) or self._run(pixel_values, before=before, asked=asked)
            self._written[name] = pixel_values, wanted, quantities
            if check:
                self._check(name)
            tensors |= {
                f"{name}/{key}": np.ascontiguousarray(value)
                for key, value in {**asked, **self._first, **before}.items()
            }
            given = np.stack([self._preprocessing.pixels(image) for image in tiles]) if uint8 else pixel_values
            tensors[f"{name}/pixel_values"] = given
            tensors |= {f"{name}/{key}": np.ascontiguousarray(value) for key, value in wanted.items()}
            tensors |= {f"{name}/{QUANTITY}{key}": packed(key, value) for key, value in quantities.items()}
            same_size = len({image.size for image in tiles}) == 1
            if not at and self._preprocessing.tiles is None and same_size:
                tensors[f"{name}/{IMAGES}"] = np.stack([np.asarray(image.convert("RGB")) for image in tiles])
        save_file(tensors, folder / REFERENCE)
        return torch.from_numpy(given)

    def forced(self, name: str, got: Mapping[str, NDArray[Any]]) -> tuple[Arrays, Arrays]:
        """Outputs and quantities of a probe that was written, with every step inside the encoder as in `got`."""
        return self._run(self._written[name][0], got, self._before[name], self._given[name])

    def judge(self, module: nn.Module, bounds: Mapping[str, float]) -> str:
        """What a traced module makes of the probes that were written, where it is beyond the bounds of a quantised
        graph: the first of them, with why; nothing where none is.

        The one that was beyond them the last time is asked first: of modules that differ little, it tells most.
        """
        for name in sorted(self._written, key=lambda one: one != self._hardest):
            with torch.inference_mode():
                results = module(*self._inputs(name))
            verdict = self._judged(name, results, of_probe(bounds, name))
            if not verdict.passed:
                self._hardest = name
                return f"of {name}, {verdict.reasons[0]}"
        return ""

    def _inputs(self, name: str) -> list[Tensor]:
        """Of a traced module, for a probe that was written: its pixels, what else it is given, what the frame before
        left."""
        state = {**self._given[name], **self._first, **self._before[name]}
        return [torch.from_numpy(value) for value in (self._written[name][0], *state.values())]

    def _asked(self, name: str, pixel_values: NDArray[np.float32]) -> Arrays:
        """What a probe is given beside the pixels, of as many images as there are: fewer where scenes are chosen."""
        known = self._given.get(name)
        if known is None or any(len(value) != len(pixel_values) for value in known.values()):
            number = [*self._given, name].index(name)
            given = given_to(number, self._encoder, self._method, pixel_values)
            self._given[name] = {key: value.numpy() for key, value in given.items()}
        return self._given[name]

    def _run(
        self,
        pixel_values: NDArray[np.float32],
        done: Outputs = NOTHING,
        before: Outputs = NOTHING,
        asked: Outputs = NOTHING,
    ) -> tuple[Arrays, Arrays]:
        """done: outputs of a device, whose steps are done here, too; empty where there is none
        before: what the frame before left, by the names of the graph's inputs; empty in front of a first one
        asked: what else it is given"""
        inside, forced = self._encoder.inside, dict[int, Taken]()
        for step in inside.steps if inside and done else ():
            trail, scores = (np.asarray(done[f"{name}.{step.layer}"]) for name in ("trail", "scores"))
            forced[step.layer] = torch.from_numpy(trail.astype(np.int64)), torch.from_numpy(scores)
        with torch.inference_mode():
            state = {name.removeprefix(STATE): torch.from_numpy(value) for name, value in before.items()}
            given = {name: torch.from_numpy(value) for name, value in asked.items()}
            results, chosen = self._official.choose(torch.from_numpy(pixel_values), forced, state, given)
        wanted = {name: value.numpy() for name, value in zip(self._names, results, strict=True)}
        return wanted, replayed({name: value.float().numpy() for name, value in chosen.quantities.items()})

    def _check(self, name: str) -> None:
        encoder = self._encoder
        with torch.inference_mode(), watching(self._traced, encoder.tower, encoder.layer, self.largest):
            results = self._traced(*self._inputs(name))
        verdict = self._judged(name, results)
        if not verdict.passed:
            raise ParityError(f"the traced module differs from the reference on {name}: {verdict.reasons[0]}")

    def _judged(self, name: str, results: Sequence[Tensor], bounds: Mapping[str, float] | None = None) -> Verdict:
        """Outputs of a traced module for a probe that was written; bounds: of a quantised one."""
        _, wanted, quantities = self._written[name]
        got = {key: value.numpy() for key, value in zip(self._names, results, strict=True)}
        verdict: Verdict = compare(wanted, got, "float32", self._rule, quantities, self._whole, bounds)
        if verdict.passed and not followed(wanted, got):
            wanted, quantities = self.forced(name, got)
            verdict = compare(wanted, got, "float32", self._rule, quantities, self._whole, bounds)
        return verdict


def _left(outputs: Outputs) -> Arrays:
    """What a frame left for the next one, by the names of the inputs that it goes into."""
    return {STATE + name.removeprefix(NEXT): value for name, value in outputs.items() if name.startswith(NEXT)}


def candidates(multiply_adds: int) -> int:
    """How many scenes are drawn to choose from, where the reference takes so many multiply-adds for each.

    >>> candidates(180 * 10**6), candidates(178 * 10**9), candidates(10**12)
    (32, 4, 4)
    """
    return min(MOST, max(LEAST, WORK // multiply_adds))


def _tiles(images: Sequence[T], at: int, count: int, stays: int = 1) -> list[T]:
    """`count` tiles for the probe at a place: its own image and those after it, around the end; or frames, of which so
    many show each."""
    return [images[(at + offset // stays) % len(images)] for offset in range(count)]


def _rounded(outputs: Arrays, rule: Mapping[str, Any]) -> Arrays:
    """The same with scores as far off as float16 would have them, so that the tolerance is that of a device.

    What a step inside the encoder ranks by is a share of attention, or made of cosines: of the embedded model these are
    3e-4 to 4e-4 off, whatever their size.
    """
    scores = outputs["scores"]
    off = {"scores": np.where(np.isfinite(scores), scores * np.float32(1 + HALF), scores)}
    for step in rule.get("steps", ()):
        scores = outputs[name := f"{RANKED}{step['layer']}"]
        moved = scores * (1 + HALF) if step.get("shares") else scores + np.where(np.abs(scores) < 2, HALF, 0)
        off[name] = moved
    with np.errstate(over="ignore"):
        tokens = {name: value.astype(np.float16) for name, value in outputs.items() if name == "tokens"}
    return {**outputs, **{name: value.astype(np.float32) for name, value in off.items()}, **tokens}


def _steady(wanted: Arrays, rounded: Arrays, rule: Mapping[str, Any], quantities: Arrays) -> float:
    """How likely no step of a device that is off by so much decides otherwise than the reference, 0..1: errors use up
    to half of the tolerance, and each decision whose margin is below that is as likely to turn as it is short of it."""
    short, images = 0.0, len(wanted["indices"])
    for at in range(images if rule.get("steps") else 0):
        reference, got, own = (
            {name: value[at] for name, value in one.items() if len(value) == images}
            for one in (wanted, rounded, quantities)
        )
        chain = stepped(Case(reference, got, own, rule, BOUNDS["float16"], 2 * HALF, HALF)).chain
        short += float((0.5 - chain.margin[chain.tolerance > 0] / chain.tolerance[chain.tolerance > 0]).clip(0).sum())
    return math.exp(-short)
