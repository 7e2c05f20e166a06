"""A sweep from the request to its rows: which graphs are needed, which cells are missing, who computes them.

1  the unpruned graph, which says how many patches there are
2  one graph for each method and budget; where sets nest, one for the largest budget, cut to the others
3  the cells, (method, budget, precision, layer, shard of images): read from the cache, else computed
4  the graphs' times, each in turns with the unpruned one
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeprune import catalog
from edgeprune.errors import RequestError
from edgeprune.quality.scenes import PATCH, SIDE
from edgeprune.quality.sweep import work
from edgeprune.quality.sweep.cache import Cache, key_of, versions
from edgeprune.quality.sweep.items import Item, Shard, shards
from edgeprune.quality.sweep.request import Request, budgets, checked, images_of, place_of
from edgeprune.quality.sweep.rows import Sweep, rows_of
from edgeprune.quality.sweep.speed import time_graph
from edgeprune.quality.sweep.variants import UNPRUNED, Variant
from edgeprune.quality.sweep.work import BLIND, ORACLE, RIGHT, WRONG, Graph, Place, Wanted
from edgeprune.quality.sweep.workers import Here, Pool, Task, Workers, run
from edgeprune.runtime.ledger.bench import machine

__all__ = ["sweep"]

BUNDLES = "bundles"
WHOLE = Variant("fastervlm")
"""whose scores are what [CLS] attends to; with all tokens kept it is what fidelity is measured from"""
LABELS = (SIDE // PATCH) ** 2
"""patches of a drawn scene that are known to be of an object or not"""

Show = Callable[[int, int, str], None]
Setting = tuple[str, int | None]
"""precision, layer"""


def sweep(request: Request, show: Show = lambda *_: None) -> Sweep:
    """Compute what is missing and put the rows together. What was computed stays when it is interrupted.

    show: called with tasks done, tasks in all, and what comes next

    Raises RequestError (and its kinds) for what cannot be, before anything is computed where that can be known;
    EdgepruneError when workers are lost again and again.
    """
    chosen = checked(request)
    place, digest, language = place_of(request)
    items = images_of(request, language)
    cache = Cache(request.output)
    cache.open()
    state = _State(request, place, digest, items, cache, show)
    try:
        _graphs(state, chosen)
        _cells(state)
        times = _times(state) if request.speed else {}
    finally:
        state.close()
    if not request.keep_bundles:
        shutil.rmtree(request.output / BUNDLES, ignore_errors=True)
    about = {
        "model": request.model or "edgeprune/tiny",
        "images": len(items),
        "questions": sum(len(item.queries) for item in items),
        "data": "drawn scenes, held out" if request.scenes else str(request.questions or request.images),
        "device": request.device,
        "machine": machine(),
        "versions": versions(),
        "computed": dict(state.computed),
        "lost": state.lost,
    }
    return Sweep(rows_of(state.cells, state.serving, state.records, times, items), about, tuple(cache.warnings))


@dataclass
class _State:
    request: Request
    place: Place
    digest: str
    items: tuple[Item, ...]
    cache: Cache
    show: Show
    records: dict[Graph, dict[str, Any]] = field(default_factory=dict)
    serving: dict[tuple[Variant, int, Setting], Graph] = field(default_factory=dict)
    """(method, tokens, precision and layer) -> the graph that gives them"""
    cells: dict[tuple[Variant, int, Setting, str], list[dict[str, Any]]] = field(default_factory=dict)
    """(method, tokens, precision and layer, seen) -> the result of each shard"""
    computed: dict[str, int] = field(default_factory=lambda: {"graphs": 0, "cells": 0, "times": 0})
    lost: int = 0
    whole: dict[int | None, Graph] = field(default_factory=dict)
    """layer -> the unpruned graph that fidelity is measured from"""
    _workers: Workers | None = None
    _done: int = 0

    @property
    def asks(self) -> bool:
        """Whether questions are asked; else fidelity is measured."""
        return bool(self.items[0].queries)

    @property
    def settings(self) -> Iterator[Setting]:
        return ((precision, layer) for layer in self.request.layers for precision in self.request.precisions)

    def about(self, graph: Graph) -> dict[str, Any]:
        """What the graph depends on."""
        given = graph.variant.request()
        if "adapted" in given:
            from edgeprune.adapted import file_of

            given["adapted"] = hashlib.sha256(file_of(given["adapted"]).read_bytes()).hexdigest()
        return {
            "model": self.digest,
            "grid": self.place.grid,
            **given,
            "keep": graph.keep,
            "precision": graph.precision,
            "layer": graph.layer,
        }

    def bundle(self, graph: Graph) -> Path:
        return self.request.output / BUNDLES / key_of(self.about(graph))[:16]

    def run(self, tasks: Sequence[Task], done: Callable[[Task, Any], None]) -> None:
        """By the workers, which are begun when there is something to do."""
        if not tasks:
            return
        if self._workers is None:
            self._workers = _workers(self.request)
        total = self._done + len(tasks)
        self.show(self._done, total, tasks[0].name)

        def ended(task: Task, result: Any) -> None:
            done(task, result)
            self._done += 1
            self.show(self._done, total, task.name)

        self.lost += run(self._workers, tasks, ended)

    def close(self) -> None:
        if self._workers is not None:
            self._workers.close()
            self._workers = None

    def export(self, graphs: Sequence[Graph]) -> None:
        """Records of these graphs: out of the cache, else exported."""
        missing = {}
        for graph in dict.fromkeys(graphs):
            if (record := self.cache.get("graphs", self.about(graph))) is None:
                missing[self._export(graph)] = graph
            else:
                self.records[graph] = record

        def done(task: Task, record: dict[str, Any]) -> None:
            self.cache.put("graphs", self.about(missing[task]), record)
            self.records[missing[task]] = record
            self.computed["graphs"] += 1

        self.run(list(missing), done)

    def restore(self, graphs: Sequence[Graph]) -> None:
        """Export again what is recorded, but whose bundle is gone, as it is needed after all."""
        tasks = [self._export(one) for one in dict.fromkeys(graphs) if not self.bundle(one).is_dir()]

        def done(task: Task, record: dict[str, Any]) -> None:
            if record["refused"]:
                raise RequestError(f"{task.name} was exported before, and now {record['refused']}")
            self.computed["graphs"] += 1

        self.run(tasks, done)

    def _export(self, graph: Graph) -> Task:
        into = self.bundle(graph)
        into.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(into, ignore_errors=True)  # of a sweep that was interrupted before it was recorded
        return Task(f"export {graph.name}", work.export, (self.place, graph), into)


def _workers(request: Request) -> Workers:
    count = request.count_of_workers
    if request.ray is not None:
        from edgeprune.quality.sweep.ray_workers import RayWorkers

        return RayWorkers(request.ray, request.workers, request.device)
    return Pool(count) if count > 1 else Here()


def _graphs(state: _State, chosen: Sequence[Variant]) -> None:
    """Every graph that is needed, and which one serves which budget."""
    unpruned = {setting: Graph(UNPRUNED, 0, *setting) for setting in state.settings}
    state.export(list(unpruned.values()))
    for graph in unpruned.values():
        if refused := state.records[graph]["refused"]:
            raise RequestError(refused)
    patches = state.records[next(iter(unpruned.values()))]["patches"]
    wanted = budgets(state.request, patches)
    nested = {entry.name for entry in catalog.methods() if entry.traits.nested}
    for setting, graph in unpruned.items():
        state.serving[UNPRUNED, 0, setting] = graph
        for variant in chosen:
            if variant != UNPRUNED:
                for keep in wanted:
                    most = wanted[0] if variant.method in nested and not variant.inside else keep
                    state.serving[variant, keep, setting] = Graph(variant, most, *setting)
    state.export([graph for graph in state.serving.values() if graph not in state.records])
    apart = {}  # a pool of tiles cannot be cut
    for (variant, keep, setting), graph in state.serving.items():
        if keep not in (0, graph.keep) and not state.records[graph]["refused"] and not state.records[graph]["cuts"]:
            apart[variant, keep, setting] = Graph(variant, keep, *setting)
    state.export(list(apart.values()))
    state.serving |= apart
    if not state.asks:
        for layer in state.request.layers:
            whole = Graph(WHOLE, patches, "float32", layer)
            state.export([whole])
            if state.records[whole]["refused"]:  # no [CLS]
                whole = Graph(UNPRUNED, 0, "float32", layer)
                state.export([whole])
            state.whole[layer] = whole


@dataclass(frozen=True)
class _Cells:
    """What one task computes: of one graph and shard, the cells that are missing."""

    graph: Graph
    shard: Shard
    wanted: tuple[Wanted, ...]


def _cells(state: _State) -> None:
    """Every cell, out of the cache or computed."""
    pieces = shards(state.items)
    digests = {shard.number: shard.digest() for shard in pieces}
    tasks: dict[Task, _Cells] = {}
    key = {}
    for (graph, variant, setting), own in _wanted(state).items():
        for shard in pieces:
            missing = []
            for keep, seen in own:
                about = _about(state, variant, keep, setting, seen, digests[shard.number])
                value = state.cache.get("cells", about)
                state.cells.setdefault((variant, keep, setting, seen), [{} for _ in pieces])[shard.number] = value
                key[graph, shard.number, keep, seen] = (variant, setting, about)
                missing += [] if value is not None else [(keep, seen)]
            if missing:
                cells = _Cells(graph, shard, tuple(missing))
                tasks[_task(state, cells)] = cells
    ordered = list(tasks)
    if not state.asks:  # what the unpruned graph gives for a shard is computed once for all methods behind each other
        ordered.sort(key=lambda task: tasks[task].shard.number)
    needed = [cells.graph for cells in tasks.values()]
    state.restore(needed if state.asks or not needed else [*needed, *state.whole.values()])

    def done(task: Task, results: list[dict[str, Any]]) -> None:
        cells = tasks[task]
        for (keep, seen), value in zip(cells.wanted, results, strict=True):
            variant, setting, about = key[cells.graph, cells.shard.number, keep, seen]
            state.cache.put("cells", about, value)
            state.cells[variant, keep, setting, seen][cells.shard.number] = value
            state.computed["cells"] += 1

    state.run(ordered, done)


def _wanted(state: _State) -> dict[tuple[Graph, Variant, Setting], list[Wanted]]:
    """What is taken from each graph that there is."""
    wanted: dict[tuple[Graph, Variant, Setting], list[Wanted]] = {}
    for (variant, keep, setting), graph in state.serving.items():
        if state.records[graph]["refused"]:
            continue
        own = wanted.setdefault((graph, variant, setting), [])
        own.append((keep, RIGHT))
        if variant == UNPRUNED and state.asks:
            own += [(0, WRONG), (0, BLIND)] if len(state.items) > 1 else [(0, BLIND)]
            if state.request.scenes and state.records[graph]["keep"] == LABELS:
                every = {keep for one, keep, _ in state.serving if one != UNPRUNED}
                own += [(keep, ORACLE) for keep in sorted(every, reverse=True)]
    return wanted


def _about(state: _State, variant: Variant, keep: int, setting: Setting, seen: str, shard: str) -> dict[str, Any]:
    """What a cell depends on: not on which graph it is cut from."""
    return {
        **state.about(Graph(variant, keep, *setting)),
        "seen": seen,
        "shard": shard,
        "judged": "answers" if state.asks else "fidelity",
        "longest": state.place.longest if state.asks else 0,
        "device": state.place.device,
    }


def _task(state: _State, cells: _Cells) -> Task:
    name = f"{cells.graph.name}, shard {cells.shard.number + 1}"
    arguments = (state.place, state.bundle(cells.graph), cells.shard, cells.wanted)
    if state.asks:
        return Task(name, work.answers, arguments)
    return Task(name, work.faithful, (*arguments, state.bundle(state.whole[cells.graph.layer])))


def _times(state: _State) -> Mapping[Graph, dict[str, Any]]:
    """Of every graph but the unpruned ones, by the ledger's rules, with nothing else running of this sweep."""
    times: dict[Graph, dict[str, Any]] = {}
    missing: dict[Graph, dict[str, Any]] = {}
    for graph in dict.fromkeys(state.serving.values()):
        if graph.variant == UNPRUNED or state.records[graph]["refused"]:
            continue
        run = {"machine": machine(), "device": state.place.device, "rounds": state.request.rounds}
        about = {**state.about(graph), **run}
        if (value := state.cache.get("times", about)) is None:
            missing[graph] = about
        else:
            times[graph] = value
    beside = {graph: Graph(UNPRUNED, 0, graph.precision, graph.layer) for graph in missing}
    state.restore([*missing, *beside.values()])
    state.close()
    for at, (graph, about) in enumerate(missing.items()):
        state.show(at, len(missing), f"time {graph.name}")
        paths = state.bundle(graph), state.bundle(beside[graph])
        times[graph] = time_graph(*paths, state.place.device, state.request.rounds)
        state.cache.put("times", about, times[graph])
        state.computed["times"] += 1
    return times
