"""The package tensorrt of a board, played: a plan names its graph, and ONNX Runtime runs that one.

Importing it puts a GPU into the machine, of the compute capability in $FAKE_SM.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cuda.bindings import runtime as cuda

from edgeprune.runtime.backends import plan as plans
from edgeprune.runtime.backends.ort import open_session
from tests.fake_gpu import NUMBERS, FakePlan

__version__ = "10.3.0"
BEGIN = b"a plan of "

plans.find_gpu = lambda: plans.Gpu(int(os.environ["FAKE_SM"]), "Orin", 12)


def names(*members: str) -> SimpleNamespace:
    return SimpleNamespace(**{name: at for at, name in enumerate(members, 1)})


TensorIOMode = names("INPUT", "OUTPUT")
NetworkDefinitionCreationFlag = names("EXPLICIT_BATCH", "STRONGLY_TYPED")
BuilderFlag = names("FP16", "TF32")
MemoryPoolType, ProfilingVerbosity = names("WORKSPACE"), names("DETAILED")


class ILogger:
    pass


class Runtime:
    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, content: bytes) -> FakePlan | None:
        if not content.startswith(BEGIN):
            self.logger.log(1, "magicTagRead does not match")
            return None
        session = open_session(Path(content.removeprefix(BEGIN).decode()))

        def run(pixels: Any) -> SimpleNamespace:
            return SimpleNamespace(**session.run({"pixel_values": pixels}))

        specs = {**session.inputs, **session.outputs}
        return FakePlan(
            cuda, {name: (tuple(map(int, spec.shape)), NUMBERS[spec.dtype]) for name, spec in specs.items()}, run
        )


class Config:
    """Takes whatever a build asks for."""

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **options: None


class OnnxParser:
    def __init__(self, network: list[str], logger: Any) -> None:
        self.network = network

    def parse_from_file(self, path: str) -> bool:
        self.network.append(os.path.abspath(path))
        return True


class Builder:
    def __init__(self, logger: Any) -> None:
        pass

    def create_network(self, flags: int) -> list[str]:
        return []

    def create_builder_config(self) -> Config:
        return Config()

    def build_serialized_network(self, network: list[str], config: Config) -> bytes:
        return BEGIN + network[0].encode()
