"""A device to plant faults in: the traced module itself on the embedded model, its weights cast as the export does."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from edgeprune import encoders, pruners, trace
from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders import Encoder
from edgeprune.encoders._keys import Keys
from edgeprune.export.precision import in_precision
from edgeprune.export.questions import given_to
from edgeprune.fit import build_method
from edgeprune.probes import probes, scenes
from edgeprune.pruners import Method, Selection
from edgeprune.reference import OfficialEncoder
from edgeprune.runtime.images.preprocess import Preprocessing
from edgeprune.runtime.parity import Verdict, compare
from edgeprune.runtime.parity.stored import replayed
from edgeprune.taps import Taps
from edgeprune.trace import PrunedEncoder, Reducing, outputs, run_steps
from tests.learned import scorer_of

Arrays = dict[str, np.ndarray]
Fault = Callable[[Method, Taps], Selection]
KEEP = 32
JOINT = 24
"""width of the space in which patches are compared with a text"""
HEADS = (4, 2, 16)
"""of a language model: heads, those with keys of their own, their width"""


def with_aligner(encoder: Encoder, precision: str = "float32") -> Encoder:
    """The encoder with a way into a joint space of images and texts, and to keys of a language model, by seeded
    weights."""
    torch.manual_seed(3)
    width = encoder.tower.width * encoder.unit * (len(encoder.beside) or 1)
    aligner = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, JOINT, bias=False))
    encoder = dataclasses.replace(encoder, aligner=aligner.to(getattr(torch, precision)).eval().requires_grad_(False))
    if encoder.head is not None:
        return encoder
    patches = math.prod(encoder.tower.grid)
    dtype = next(encoder.tower.module.parameters()).dtype
    with torch.no_grad():
        own = torch.zeros(1, patches, encoder.tower.width * (len(encoder.beside) or 1), dtype=dtype)
        width = encoder.project(encoder.arrange(own)).shape[-1]
    keyer = Keys(width, *HEADS, eps=1e-6, bias=True).to(getattr(torch, precision)).eval().requires_grad_(False)
    return dataclasses.replace(encoder, keyer=keyer)


def asked(encoder: Encoder, method: Method, pixels: Tensor, numbers: Iterable[int]) -> dict[str, Tensor]:
    """What a method is given beside each image, as the probes of these numbers are."""
    each = [
        given_to(number, encoder, method, pixels[at : at + 1].numpy())
        for at, number in enumerate(numbers)
        if method.ports
    ]
    return {name: torch.cat([one[name] for one in each]) for name in (each[0] if each else ())}


def handed(method: Method, rows: Any, chosen: Selection) -> Arrays:
    """What a graph would hand out for a selection of a method, with tokens of rows [B, N, D]."""
    rows = torch.as_tensor(rows).float()
    if chosen.merged is not None:
        tokens = chosen.merged
    elif chosen.merge is not None:
        tokens = chosen.merge @ rows
    else:
        tokens = rows.gather(1, chosen.indices[..., None].expand(-1, -1, rows.shape[2]))
    names = ("tokens", "indices", "scores", *method.traits.emits)
    values = (tokens, chosen.indices.int(), chosen.scores, *chosen.emitted(method.traits.emits))
    return {name: value.numpy() for name, value in zip(names, values, strict=True)}


@functools.cache
def of_scenes() -> Device:
    """Two scenes; one for all tests of a process."""
    return Device(Image.open(path).convert("RGB") for path in scenes()[:2])


@functools.cache
def of_probes() -> Device:
    """Every probe, flat ones with nothing but ties among them."""
    return Device(probes((96, 96)).values())


class Device:
    """Images through one method, with or without a fault in how it chooses, and what parity makes of the outputs.

    What it hands out is kept, and not to be changed.
    """

    def __init__(self, images: Iterable[Image.Image]) -> None:
        self.encoder: Encoder = with_aligner(encoders.load(open_checkpoint()))
        size = self.encoder.tower.image_size
        mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
        steps = Preprocessing(size, {"height": size[0], "width": size[1]}, 3, None, 1 / 255, mean, std, True)
        self.pixels = torch.from_numpy(np.stack([steps(image) for image in images]))
        self._towers: dict[tuple[str | int, ...], Any] = {}

    @functools.cache  # noqa: B019 - a few devices for all tests
    def method(self, name: str, keep: int = KEEP) -> Method:
        return build_method(pruners.get(name), name, self.encoder, keep, scorer=scorer_of(name, self.encoder))

    @functools.cache  # noqa: B019
    def given(self, name: str, keep: int = KEEP) -> dict[str, Tensor]:
        """What the method is given beside the images, of each another kind in turn."""
        return asked(self.encoder, self.method(name, keep), self.pixels, range(1, len(self.pixels) + 1))

    @functools.cache  # noqa: B019
    def cast(self, name: str, precision: str, keep: int = KEEP) -> tuple[Encoder, Method]:
        return in_precision(self.encoder, self.method(name, keep), None, precision, False, "tiny")  # type: ignore[arg-type]

    @functools.cache  # noqa: B019
    def healthy(self, name: str, precision: str, keep: int = KEEP) -> Arrays:
        return self.run(name, precision, keep=keep)

    def run(self, name: str, precision: str, fault: Fault | None = None, keep: int = KEEP) -> Arrays:
        """Outputs by name; `fault` in place of the method's own `select`."""
        encoder, method = self.cast(name, precision, keep)
        module = PrunedEncoder(encoder, method).eval()
        if fault is not None:
            own, faulty = module.selection._method, fault

            class Faulty:
                def __getattr__(self, attribute: str) -> Any:
                    return getattr(own, attribute)

                def select(self, taps: Taps) -> Selection:
                    return faulty(own, taps)

            module.selection._method = Faulty()  # type: ignore[assignment]
        with (
            torch.inference_mode(),
            mock.patch.object(trace, "run_steps", functools.partial(self._run_tower, precision)),
        ):
            results = module(self.pixels.to(getattr(torch, precision)), *self.given(name, keep).values())
        return {key: part.numpy() for key, part in zip(outputs(encoder, method), results, strict=True)}

    def _run_tower(
        self, precision: str, encoder: Encoder, reducer: Reducing | None, pixels: Tensor, layers: Any, state: Any
    ) -> Any:
        """`run_steps` of an encoder in a precision, whose images and weights are the same for every method and fault:
        the tower runs once for those that read the same layers."""
        assert encoder.inside is None
        key = precision, *sorted(layers)
        if key not in self._towers:
            self._towers[key] = run_steps(encoder, reducer, pixels, layers, state)
        return self._towers[key]

    @functools.cache  # noqa: B019
    def reference(self, name: str, keep: int = KEEP) -> tuple[Arrays, Arrays]:
        """Outputs and quantities."""
        method = self.method(name, keep)
        with torch.inference_mode():
            official = OfficialEncoder(self.encoder, method).eval()
            results, chosen = official.choose(self.pixels, given=self.given(name, keep))
        wanted = {key: part.numpy() for key, part in zip(outputs(self.encoder, method), results, strict=True)}
        return wanted, replayed({key: value.float().numpy() for key, value in chosen.quantities.items()})

    def judge(self, name: str, precision: str, got: Arrays) -> Verdict:
        wanted, quantities = self.reference(name)
        method = self.method(name)
        whole = bool(method.steps(self.encoder.layer))
        return compare(wanted, got, precision, method.rule(self.encoder.patches), quantities, whole)
