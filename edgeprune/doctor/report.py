"""The whole of it: facts, packages, targets, and a line with the remedy for each thing that is missing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeprune import __version__, targets
from edgeprune.doctor.abilities import Obstacle, TargetReport, judge
from edgeprune.doctor.machine import Machine, look
from edgeprune.doctor.packages import BASE, INSTEAD, Package, declared, survey

__all__ = ["Report", "examine", "report_of"]

KINDS = ("export", "build", "run")


@dataclass(frozen=True)
class Report:
    facts: Mapping[str, str]
    packages: tuple[Package, ...]
    targets: tuple[TargetReport, ...]
    missing: Mapping[Obstacle, tuple[str, ...]]
    """what stands in the way -> of what, as `run: cpu, ort-cuda`, `export: every target`; empty: of no one thing"""

    @property
    def can(self) -> bool:
        """Whether anything can be done here."""
        return any(target.can for target in self.targets)

    def able(self, kind: str) -> list[str]:
        """Names of the targets that can be exported for, built for or run; kind: of KINDS."""
        return [one.name for one in self.targets if (ability := getattr(one, kind)) is not None and ability.can]

    def to_json(self) -> dict[str, Any]:
        return {
            "can": self.can,
            "facts": dict(self.facts),
            "packages": [{**dataclasses.asdict(one), "problem": one.problem()} for one in self.packages],
            "targets": {
                one.name: {kind: None if (able := getattr(one, kind)) is None else able.can for kind in KINDS}
                for one in self.targets
            },
            "missing": [{**dataclasses.asdict(one), "for": list(what)} for one, what in self.missing.items()],
        }


def examine() -> Report:
    """This machine, this environment, every target that comes along. Fails on nothing that is broken here."""
    return report_of(look(), survey(declared()), [targets.load(name) for name in targets.names()])


def report_of(machine: Machine, packages: Sequence[Package], every: Sequence[targets.Target]) -> Report:
    """Of what was found."""
    judged = tuple(judge(target, machine, packages) for target in every)
    missing: dict[Obstacle, tuple[str, ...]] = {one: () for one in _general(machine, packages)}
    for kind in KINDS:
        blocked: dict[Obstacle, list[str]] = {}
        for one in judged:
            ability = getattr(one, kind)
            if ability is not None and ability.obstacle:
                blocked.setdefault(ability.obstacle, []).append(one.name)
        for obstacle, names in blocked.items():
            whom = "every target" if len(names) == len(judged) else ", ".join(names)
            missing[obstacle] = (*missing.get(obstacle, ()), f"{kind}: {whom}")
    return Report(_facts(machine), tuple(packages), judged, missing)


def _general(machine: Machine, packages: Sequence[Package]) -> list[Obstacle]:
    """What is wrong whatever it is for."""
    obstacles = []
    if machine.broken:
        obstacles.append(
            Obstacle(f"the runtime cannot be imported: {machine.broken}", "pip install --force-reinstall edgeprune")
        )
    if "error" in machine.trtexec:
        obstacles.append(Obstacle(*machine.trtexec["error"].rpartition("; ")[::2]))
    obstacles += [
        Obstacle(one.problem(), f"pip install '{one.name}{max(one.wanted.values())}'")
        for one in packages
        if one.installed is not None and not one.fits() and not {BASE, "export"} & one.wanted.keys()
    ]
    installed = {one.name for one in packages if one.installed is not None}
    obstacles += [
        Obstacle(
            f"{one} and {other} are both installed, and are the same module",
            f"pip uninstall {one} {other}, then install one",
        )
        for one, other in INSTEAD.items()
        if {one, other} <= installed
    ]
    return obstacles


def _facts(machine: Machine) -> dict[str, str]:
    ort = machine.modules.get("onnxruntime")
    memory = machine.memory_gib
    board = machine.board
    tool = machine.trtexec
    return {
        "edgeprune": __version__,
        "Python": machine.python,
        "system": ", ".join(filter(None, (machine.system, machine.processor))),
        "memory": f"{memory[0]:.1f} of {memory[1]:.1f} GiB free" if memory else "unknown",
        "disk": f"{machine.disk_gib:.1f} GiB free here",
        "Jetson": f"{board[0]}, L4T {board[1] or 'unknown'}, JetPack {board[2] or 'unknown'}" if board else "",
        "GPU": f"{machine.gpu}, SM {machine.sm}" if machine.sm is not None else f"none: {machine.gpu}",
        "CUDA driver": f"takes CUDA {machine.cuda}" if machine.cuda else "",
        "ONNX Runtime": ", ".join((ort.version or "broken", *ort.providers)) if ort else "not installed",
        **{
            name: (own.version or "broken") if (own := machine.modules.get(module)) else "not installed"
            for name, module in (("TensorRT", "tensorrt"), ("TensorRT-RTX", "tensorrt_rtx"))
        },
        "trtexec": f"{tool['version']}, {tool['path']}" if "path" in tool else "not found",
    }
