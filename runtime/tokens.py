"""What an encoder of tokens gives, and how fewer of them are taken without another run.

encoder = load("out")
tokens, indices, scores = encoder("photo.jpg")
few = encoder("photo.jpg").cut(16)
seen = encoder.encode("photo.jpg")                 # of a bundle that was exported with --split
tokens, indices, scores = seen.select(text=vector)
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import RequestError
from edgeprune.runtime.budgets import Budgets, first_picks
from edgeprune.runtime.halves import Halves
from edgeprune.runtime.runner import PIXELS, Given, Images, Runner

__all__ = ["Encoded", "Output", "TokenEncoder"]


CANNOT = Budgets("the kept sets are not known to nest; take the outputs of a bundle")


@dataclass(frozen=True, repr=False, eq=False)
class Output:
    """What one run returns: `tokens, indices, scores = output`. The leading dimension is that of the images given."""

    tokens: NDArray[Any]
    """[B, K, D] float32 or float16, kept tokens in raster order"""
    indices: NDArray[np.int32]
    """[B, K] int32, which patches they are, ascending"""
    scores: NDArray[np.float32]
    """[B, N] float32, what the method ranked by, higher is kept; of a greedy method the gain of each pick, -inf else"""
    picks: NDArray[np.int32] | None = None
    """[B, K] int32, the same patches in the order in which the method chose them, most wanted first; None without"""
    extras: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """what else the graph hands out, by name"""
    budgets: Budgets = CANNOT

    @classmethod
    def of(cls, tensors: dict[str, NDArray[Any]], budgets: Budgets = CANNOT) -> Output:
        """Of the outputs of a run, by name; what is no field of its own stays behind in `tensors`, as the extras."""
        tokens, indices, scores = tensors.pop("tokens"), tensors.pop("indices"), tensors.pop("scores")
        return cls(tokens, indices, scores, tensors.pop("picks", None), tensors, budgets)

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return iter((self.tokens, self.indices, self.scores))

    def __len__(self) -> int:
        return 3

    def __getitem__(self, at: int) -> NDArray[Any]:
        return (self.tokens, self.indices, self.scores)[at]

    def __repr__(self) -> str:
        shown = [f"{name}={value.dtype}{list(value.shape)}" for name, value in self.tensors().items()]
        return f"Output({', '.join(shown)})"

    def tensors(self) -> dict[str, NDArray[Any]]:
        """All of it by name."""
        picks = {} if self.picks is None else {"picks": self.picks}
        return {"tokens": self.tokens, "indices": self.indices, "scores": self.scores, **picks, **self.extras}

    def cut(self, keep: int) -> Output:
        """The same with fewer tokens, without another run: what a bundle exported with --keep `keep` would give.

        keep: 1..K

        Raises RequestError when it is not in that range, or the kept sets of the method do not nest.
        """
        self.budgets.check("cut")
        tensors = first_picks(self.tensors(), keep, self.budgets.greedy)
        return Output.of(tensors, self.budgets)

    def until(self, share: float) -> list[Output]:
        """Each image with the fewest of its picks that hold this share of the total, all K where they do not reach it.

        share: in (0, 1], of the sum of the scores of all N patches (of those that have one, behind steps inside the
            encoder), of a greedy method of the gains of its K picks

        As images differ in how many they need, each is an output of its own, with a leading dimension of 1. Raises
        RequestError for another share, for scores of which there are no shares (below 0), and as `cut` does.
        """
        if not 0 < share <= 1:
            raise RequestError(f"share must be above 0 and at most 1, got {share}")
        if self.budgets.refused or self.picks is None:
            raise RequestError(f"until needs kept sets that nest: {self.budgets.refused or CANNOT.refused}")
        values = np.take_along_axis(self.scores, self.picks.astype(np.intp), 1).astype(np.float64)
        all_of_them = values if self.budgets.greedy else self.scores.astype(np.float64)
        if self.budgets.stepped:
            all_of_them = np.where(np.isneginf(all_of_them), 0, all_of_them)
        if not (np.isfinite(all_of_them).all() and (all_of_them >= 0).all()):
            raise RequestError("until needs scores that are finite and not below 0, these are not; cut(k) needs none")
        wanted = share * all_of_them.sum(axis=1, keepdims=True)
        # Rounding of the sums must not ask for one more pick than the share does.
        short = (values.cumsum(axis=1) < wanted * (1 - 1e-9)).sum(axis=1)
        counts = np.minimum(short + 1, self.picks.shape[1]).tolist()
        return [self._image(at).cut(count) for at, count in enumerate(counts)]

    def _image(self, at: int) -> Output:
        """One of B images, with a leading dimension of 1. What has no leading dimension of B stays as it is."""
        batch = self.tokens.shape[:1]
        one = {
            name: value[at : at + 1] if value.shape[:1] == batch else value for name, value in self.tensors().items()
        }
        return Output.of(one, self.budgets)


class TokenEncoder(Runner):
    """The encoder of a bundle that gives tokens."""

    OUTPUTS = ("tokens", "indices", "scores")

    @functools.cached_property
    def budgets(self) -> Budgets:
        return Budgets.of(self.manifest)

    def __call__(self, images: Images, **inputs: Given) -> Output:
        """Encode B images, or the tiles of one: their tokens, indices and scores. It takes what `outputs` takes."""
        return Output.of(self.outputs(images, **inputs), self.budgets)

    def encode(self, images: Images) -> Encoded:
        """What the pixels of B images decide, to be asked as often as there are questions: `.select(text=...)`.

        The halves are opened with the first call, beside the fused graph. Raises as a call does; RequestError for a
        bundle that was exported without --split, on a device that runs plans, and with a smaller budget.
        """
        seen = self._halves.encoder.run({PIXELS: self.prepare(images)})
        return Encoded(self, seen)

    def selected(self, encoded: Encoded, inputs: Mapping[str, Given]) -> Output:
        """What `Encoded.select` gives."""
        feeds = self.asked(inputs, len(next(iter(encoded.seen.values()))))
        return Output.of(self._halves.select(encoded.seen, feeds), self.budgets)

    @functools.cached_property
    def _halves(self) -> Halves:
        if self.keep != self.manifest.keep:
            raise RequestError(
                "the halves keep all that the bundle keeps; open it without keep, and cut what comes out"
            )
        return Halves(self.bundle, self.device, self.threads)

    def close(self) -> None:
        if "_halves" in self.__dict__:
            self._halves.close()
        super().close()


@dataclass(frozen=True, repr=False, eq=False)
class Encoded:
    """What the pixels alone decide of B images."""

    of: TokenEncoder
    """whose halves they were encoded with"""
    seen: Mapping[str, NDArray[Any]]
    """what the second half needs of them, by name"""

    def select(self, **inputs: Given) -> Output:
        """The tokens for a question or a prior, without another run of the encoder.

        inputs: as `TokenEncoder` takes them beside the images

        Raises RequestError when one is missing or there is no such one, ImageError when one does not fit.
        """
        return self.of.selected(self, inputs)

    def __repr__(self) -> str:
        held = sum(value.nbytes for value in self.seen.values())
        return f"Encoded({', '.join(self.seen)}; {held >> 10} KiB)"
