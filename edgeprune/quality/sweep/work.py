"""What a worker does, wherever it is: export one graph, or run one shard of images through it. Only numbers come back.

A bundle and the language part are opened once in a process and kept, as many as are in use.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeprune import catalog
from edgeprune.errors import BundleError, EdgepruneError, ImageError, MissingPackageError, ModelError
from edgeprune.ports import TEXT
from edgeprune.quality.sweep.asking import asking
from edgeprune.quality.sweep.fidelity import fidelity
from edgeprune.quality.sweep.items import Item, Shard
from edgeprune.quality.sweep.variants import Variant
from edgeprune.runtime import Output, TokenEncoder, load
from edgeprune.runtime.budgets import Budgets

if TYPE_CHECKING:
    from edgeprune.export import Request
    from edgeprune.quality.language import Language

__all__ = ["BLIND", "ORACLE", "RIGHT", "WRONG", "Graph", "Place", "Wanted", "answers", "export", "faithful"]

TOKENS_NBYTES = 64 << 20
"""of the images whose tokens are held together"""

RIGHT, WRONG, BLIND, ORACLE = "right", "wrong", "none", "oracle"
"""what the language part sees: its image, another one, no token at all; of a drawn scene its object patches first"""

Wanted = tuple[int, str]
"""tokens, 0 for all, and what is seen"""


@dataclass(frozen=True)
class Place:
    """The model, and how it is run."""

    model: str | None = None
    """a folder here; None for the embedded model"""
    revision: str | None = None
    grid: str | None = None
    device: str = "cpu"
    threads: int | None = None
    """of one worker"""
    longest: int = 1
    """new tokens of an answer"""


@dataclass(frozen=True, order=True)
class Graph:
    """One export."""

    variant: Variant
    keep: int
    """tokens; 0 for all, which is what `none` keeps"""
    precision: str = "float32"
    layer: int | None = None

    @property
    def name(self) -> str:
        return f"{self.variant.name} {self.keep or 'all'} {self.precision}"


def export(place: Place, graph: Graph, into: Path) -> dict[str, Any]:
    """Export and verify a graph -> what is known of it:

    refused: why there is none, in one line, or empty; and if there is one
    patches, keep: N and K;  cuts: whether it can be cut to fewer tokens
    multiply_adds: of the graph;  per_token: how many fewer an export with one token less has, by the formula

    Raises ModelError, BundleError, ImageError and MissingPackageError, which no other method would be spared.
    """
    from edgeprune.export.job import export_bundle

    request = _request(place, graph, into)
    with _threads(place.threads):
        try:
            manifest = export_bundle(request).manifest
        except (ModelError, BundleError, ImageError, MissingPackageError):
            raise
        except EdgepruneError as error:
            return {"refused": str(error)}
        if manifest.kind != "tokens":
            judge = "; `edgeprune bavit eval` judges it" if manifest.kind == "detections" else ""
            return {"refused": f"{manifest.model.family} gives {manifest.kind} and no tokens{judge}"}
        cuts = not Budgets.of(manifest).refused and not graph.variant.inside  # whose steps go with the budget
        return {
            "refused": "",
            "patches": manifest.patches,
            "keep": manifest.keep,
            "cuts": cuts,
            "multiply_adds": manifest.cost["graph"],
            "per_token": _per_token(place, graph) if cuts and manifest.keep > 1 else 0,
        }


def answers(place: Place, folder: Path, shard: Shard, wanted: Sequence[Wanted]) -> list[dict[str, Any]]:
    """Ask the language part about what the graph in a folder makes of a shard's images.

    wanted: for each of them one result, {"score": [...], "answer": [...]}, question by question of the shard
    """
    language, encoder = _language(place), _encoder(folder, place.device, place.threads)
    items = shard.items
    if TEXT in encoder.manifest.ports:
        with _threads(place.threads):
            return [_judged(items, [*_asked_each(language, encoder, items, keep, place)]) for keep, _ in wanted]
    said: list[list[list[str]]] = [[[] for _ in items] for _ in wanted]
    with _threads(place.threads):
        for at, output in _runs(encoder, items):
            images = range(at, at + len(output.tokens))
            for own, one in zip(said, wanted, strict=True):
                asked = _asked(images, one, len(items))
                texts = [[query.text for query in items[item].queries] for item in asked]
                given = language.answers(list(_seen(output, items, images, one)), texts, place.longest)
                for item, answer in zip(asked, given, strict=True):
                    own[item] = answer
    return [_judged(items, own) for own in said]


def _asked_each(
    language: Language, encoder: TokenEncoder, items: Sequence[Item], keep: int, place: Place
) -> Iterator[list[str]]:
    """Of each image the answers, where its tokens are chosen question by question: encoded once, asked often.

    Raises RequestError for a text in another space than the language model's.
    """
    given = asking(language, encoder)
    for item in items:
        seen = encoder.encode(item.image())
        texts = [query.text for query in item.queries]
        chosen = [_cut(seen.select(**given(text)), keep).tokens[0] for text in texts]
        yield [one for (one,) in language.answers(chosen, [[text] for text in texts], place.longest)] if texts else []


def _asked(images: Sequence[int], wanted: Wanted, count: int) -> Sequence[int]:
    """Of each image the item whose questions are asked about it."""
    if wanted[1] != WRONG:
        return images
    from edgeprune.quality.language import elsewhere

    sees = elsewhere(count)
    return [sees.index(image) for image in images]


def _seen(output: Output, items: Sequence[Item], images: Sequence[int], wanted: Wanted) -> NDArray[Any]:
    """The tokens that the language part is given, [B, K, D]."""
    keep, seen = wanted
    if seen == BLIND:
        return output.tokens[:, :0]
    if seen == ORACLE:
        rows = np.array([items[image].object_patches(keep) for image in images])
        return np.take_along_axis(output.tokens, rows[:, :, None], axis=1)
    return _cut(output, keep).tokens


def _judged(items: Sequence[Item], said: Sequence[Sequence[str]]) -> dict[str, Any]:
    pairs = [pair for item, own in zip(items, said, strict=True) for pair in zip(item.queries, own, strict=True)]
    return {"score": [query.score(answer) for query, answer in pairs], "answer": [answer for _, answer in pairs]}


def faithful(
    place: Place, folder: Path, shard: Shard, wanted: Sequence[Wanted], unpruned: Path
) -> list[dict[str, Any]]:
    """The same without a language part: how much is left of what the unpruned graph gives (`fidelity`), per image.

    unpruned: the folder of that graph; of one whose scores are what [CLS] attends to, if there is [CLS]
    """
    encoder, whole = (_encoder(one, place.device, place.threads) for one in (folder, unpruned))
    has_cls = whole.manifest.method != "none"
    columns: list[dict[str, list[float]]] = [{} for _ in wanted]
    for at, output in _runs(encoder, shard.items):
        full = [whole(item.image()) for item in shard.items[at : at + len(output.tokens)]]
        every = np.concatenate([one.tokens for one in full])
        attended = np.concatenate([one.scores for one in full]) if has_cls else None
        for one, (keep, _) in zip(columns, wanted, strict=True):
            cut = _cut(output, keep)
            for column, values in fidelity(cut.tokens, cut.indices, every, attended).items():
                one.setdefault(column, []).extend(values)
    return columns


def _runs(encoder: TokenEncoder, items: Sequence[Item]) -> Iterator[tuple[int, Output]]:
    """(number of the first image, what the graph gives for it and those behind it), as many as fit together."""
    held: list[Output] = []
    first = 0
    for at, item in enumerate(items):
        try:
            held.append(encoder(item.image()))
        except ImageError as error:
            raise ImageError(f"{item.name}: {error}") from None
        if (at + 1 - first) * held[0].tokens.nbytes >= TOKENS_NBYTES or at + 1 == len(items):
            tensors = [one.tensors() for one in held]
            joined = {name: np.concatenate([one[name] for one in tensors]) for name in tensors[0]}
            yield first, Output.of(joined, held[0].budgets)
            first, held = at + 1, []


def _cut(output: Output, keep: int) -> Output:
    return output if keep in (0, output.tokens.shape[1]) else output.cut(keep)


def _per_token(place: Place, graph: Graph) -> int:
    """What the formula gives for one token, for this method on this encoder."""
    from edgeprune.export.cost import formula
    from edgeprune.export.opening import opened
    from edgeprune.targets import load as target

    loaded = opened(_request(place, graph), target("cpu"))
    most = min(graph.keep, loaded.encoder.patches - 1)  # with all of them, the last layer is not shortened
    one, less = (formula(loaded.encoder, replace(loaded.method, keep=k)) for k in (most, most - 1))  # type: ignore[type-var]
    return one - less


def _request(place: Place, graph: Graph, into: Path | None = None) -> Request:
    from edgeprune.export import Request

    return Request(
        **graph.variant.request(),
        target="cpu",
        keep=graph.keep or None,
        model=place.model,
        revision=place.revision,
        output=into,
        precision=graph.precision,
        layer=graph.layer,
        grid=place.grid,
        baselines=False,
        runtime=False,
        split=any(entry.name == graph.variant.method and entry.traits.asks for entry in catalog.methods()),
    )


@lru_cache(maxsize=2)
def _encoder(folder: Path, device: str, threads: int | None) -> TokenEncoder:
    """Two are used at a time: what is judged, and the unpruned one."""
    return load(folder, device, threads, kind=TokenEncoder)


def _language(place: Place) -> Language:
    return _loaded(place.model, place.revision, place.device)


@lru_cache(maxsize=1)
def _loaded(model: str | None, revision: str | None, device: str) -> Language:
    from edgeprune.quality.language import load_language

    return load_language(model, revision, device)


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """torch's threads for a block."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
