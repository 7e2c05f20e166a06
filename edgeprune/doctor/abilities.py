"""Which targets can be exported for, built for and run here; what stands in the way, and the nearest remedy.

Nothing is looked up: what the machine and the packages are is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeprune.doctor.machine import Machine, Module
from edgeprune.doctor.packages import BASE, Package
from edgeprune.targets import Engine, Target, accepts

__all__ = ["Ability", "Obstacle", "TargetReport", "judge"]

BUILDERS = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""kind of engine -> its module"""
NO_GPU = "copy the bundle to a machine that has one"


@dataclass(frozen=True)
class Obstacle:
    what: str
    """what must be there, and what is"""
    remedy: str


@dataclass(frozen=True)
class Ability:
    """What stands in the way; nothing: it can be done."""

    obstacle: Obstacle | None = None

    @property
    def can(self) -> bool:
        return self.obstacle is None


@dataclass(frozen=True)
class TargetReport:
    name: str
    export: Ability
    build: Ability | None
    """None where there is nothing to build"""
    run: Ability

    @property
    def can(self) -> bool:
        return any(one.can for one in (self.export, self.build, self.run) if one is not None)


def judge(target: Target, machine: Machine, packages: Sequence[Package]) -> TargetReport:
    """What can be done for a target; of several obstacles, the first."""
    base = _packages(packages, BASE)
    build = None if target.engine.kind == "onnxruntime" else Ability(base or _build(target, machine))
    return TargetReport(
        target.name, Ability(base or _packages(packages, "export")), build, Ability(base or _run(target, machine))
    )


def _packages(packages: Sequence[Package], extra: str) -> Obstacle | None:
    """What an extra lacks."""
    wanted = [one for one in packages if extra in one.wanted]
    problems = [one.problem(extra) for one in wanted if not one.fits(extra)]
    if not wanted and extra != BASE:
        problems = [f"what edgeprune[{extra}] needs is written nowhere here"]
    if not problems:
        return None
    return Obstacle(
        "; ".join(problems), f"pip install 'edgeprune[{extra}]'" if extra != BASE else "pip install edgeprune"
    )


def _build(target: Target, machine: Machine) -> Obstacle | None:
    engine = target.engine
    module = machine.modules.get(BUILDERS[engine.kind])
    if engine.kind == "tensorrt-rtx":
        return _release(module, engine, "pip install 'edgeprune[rtx]'")
    if gpu := _gpu(target, machine):
        return Obstacle(gpu.what, f"{gpu.remedy}, and run `bash build.sh` there")
    if engine.accepts(machine.trtexec.get("version", "")):  # build.sh does without the package
        return None
    return _release(module, engine, _install(target))


def _run(target: Target, machine: Machine) -> Obstacle | None:
    engine = target.engine
    if engine.kind == "onnxruntime":
        extra = "cuda" if target.gpu else "cpu"
        install = f"pip install 'edgeprune[{extra}]'"
        module = machine.modules.get("onnxruntime")
        if missing := _gpu(target, machine) or _release(module, engine, install):
            return missing
        if module and target.provider not in module.providers:
            have = ", ".join(module.providers)
            swap = f"pip uninstall onnxruntime && {install}" if target.gpu else install
            return Obstacle(f"ONNX Runtime must have {target.provider}, it has {have}", swap)
        return None
    module = machine.modules.get(BUILDERS[engine.kind])
    install = "pip install 'edgeprune[rtx]'" if engine.kind == "tensorrt-rtx" else _install(target)
    if missing := _gpu(target, machine) or _release(module, engine, install):
        return missing
    return Obstacle(*_split(machine.no_cuda, install)) if machine.no_cuda else None


def _gpu(target: Target, machine: Machine) -> Obstacle | None:
    """Whether the GPU is one of the target's."""
    if target.gpu is None:
        return None
    wanted = ", ".join(map(str, target.gpu.sm))
    if machine.sm is None:
        return Obstacle(f"there must be an NVIDIA GPU: {machine.gpu}", NO_GPU)
    if machine.sm not in target.gpu.sm:
        return Obstacle(f"the GPU must have SM {wanted}, {machine.gpu} has {machine.sm}", NO_GPU)
    if target.jetson and machine.board is None:
        return Obstacle(f"there must be a Jetson with JetPack {target.jetson.jetpack}", NO_GPU)
    return None


def _release(module: Module | None, engine: Engine, install: str) -> Obstacle | None:
    """Whether a module is there, can be imported, and is of the release that is wanted."""
    name = {"onnxruntime": "ONNX Runtime", "tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}[engine.kind]
    if module is None:
        return Obstacle(f"{name} {engine.version} must be installed", install)
    if module.error:
        return Obstacle(f"{name} cannot be imported: {module.error}", f"pip install --force-reinstall, or {install}")
    if not accepts(engine.version, module.version):
        return Obstacle(
            f"{name} must be {engine.version}, here is {module.version}", f"install one of these: {install}"
        )
    return None


def _install(target: Target) -> str:
    if target.jetson:
        board = target.jetson
        then = " && ".join(board.installing()) or "bash build.sh"  # its Python is too old for more
        return f"install JetPack {board.jetpack}, then `{then}`"
    return "pip install 'edgeprune[tensorrt]'"


def _split(message: str, otherwise: str) -> tuple[str, str]:
    """An error of edgeprune's: what must be, and behind the last semicolon the remedy."""
    what, _, remedy = message.rpartition("; ")
    return (what, remedy) if what else (message, otherwise)
