"""One tiny checkpoint per kind of encoder, each with the image processor of its family, made once."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders import Encoder
from edgeprune.pruners._scorer import Scorer, ScorerConfig
from tests.covering import always
from tests.encoders.kinds import COVERING, Kind, declared

ALL = declared()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `bare` runs on every encoder without projector whose tower is transformers' own, `own` on
    every such tower, `every` on all that have tokens; always on those of COVERING."""
    asked: dict[str, Callable[[Kind], bool]] = {
        "bare": lambda one: one.bare,
        "own": lambda one: one.own_tower,
        "every": lambda one: not one.detects,
    }
    for name, wanted in asked.items():
        if name in metafunc.fixturenames:
            kinds = [kind for kind, one in ALL.items() if wanted(one)]
            metafunc.parametrize(name, always(kinds, *(kind for kind in COVERING if kind in kinds)))


@pytest.fixture
def of_torchvision(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """(model) -> the module of its image processor, which has no backend but torchvision.

    That need not be installed: the class is transformers' own, on what torchvision's functions do with 8 bits on a CPU.
    """
    from transformers import image_processing_backends

    def resize(image: Tensor, size: tuple[int, int], interpolation: str, antialias: bool) -> Tensor:
        assert image.dtype == torch.uint8
        return functional.interpolate(image, size, mode=interpolation, align_corners=False, antialias=antialias)

    def normalize(image: Tensor, mean: Tensor, std: Tensor, inplace: bool) -> Tensor:
        return image.sub(mean.view(-1, 1, 1)).div(std.view(-1, 1, 1))

    def imported(model: str) -> Any:
        name = f"transformers.models.{model}.image_processing_{model}"
        monkeypatch.delitem(sys.modules, name, raising=False)
        found = importlib.import_module(name)
        monkeypatch.delitem(sys.modules, name)
        return found

    stand_in = SimpleNamespace(resize=resize, normalize=normalize, InterpolationMode=SimpleNamespace(LANCZOS="lanczos"))
    for module in ("torchvision", "torchvision.transforms", "torchvision.transforms.v2"):
        monkeypatch.setitem(sys.modules, module, SimpleNamespace(functional=stand_in))
    monkeypatch.setattr(image_processing_backends, "tvF", stand_in, raising=False)
    monkeypatch.setattr(image_processing_backends, "pil_torch_interpolation_mapping", {2: "bilinear", 3: "bicubic"})
    return imported


@pytest.fixture(scope="session")
def kind() -> Callable[[str], Kind]:
    return lambda name: ALL[name]


@pytest.fixture(scope="session")
def made(
    model_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, Encoder]]:
    """(name) -> the checkpoint's folder and the encoder in it; not to be changed."""
    kept: dict[str, tuple[Path, Encoder]] = {}

    def make(name: str) -> tuple[Path, Encoder]:
        if name not in kept:
            one = ALL[name]
            config = one.config if "vision_config" in one.config else {"num_hidden_layers": 2, **one.config}
            folder = model_folder(tmp_path_factory.mktemp("kind"), one.architecture, one.processor, **config)
            if one.detects:
                _noisy(one, folder)
            kept[name] = folder, encoders.load(open_checkpoint(str(folder)), grid=one.grid)
        return kept[name]

    return make


def _noisy(kind: Kind, folder: Path) -> None:
    """The checkpoint with noise in every tensor, so that boxes hang on every patch and every position."""
    model: Any = kind.own(folder)
    torch.manual_seed(1)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    model.save_pretrained(folder)


@pytest.fixture(scope="session")
def cell(made: Callable[[str], tuple[Path, Encoder]], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """(name, method, keep, **fields of a Request) -> that export of the checkpoint, for the CPU; not to be changed."""
    kept: dict[str, Any] = {}

    def export(name: str, method: str, keep: int | None, **fields: Any) -> Any:
        from edgeprune.export import Request, export_bundle

        if (key := f"{name} {method} {keep} {fields}") not in kept:
            folder, _ = made(name)
            grid = ALL[name].grid
            request = Request(
                method,
                "cpu",
                keep=keep,
                model=str(folder),
                output=tmp_path_factory.mktemp("cell") / "bundle",
                baselines=False,
                grid=grid and f"{grid[0]}x{grid[1]}",
                **fields,
            )
            kept[key] = export_bundle(request)  # raises when the graph and the reference disagree
        return kept[key]

    return export


@pytest.fixture(scope="session")
def scorer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seeded scorer in front of encoders of 6x6 patches of 8 pixels, trained for other pixels than theirs."""
    torch.manual_seed(3)
    scorer = Scorer(ScorerConfig("front", 1, 16, 2, 32, 8, (5, 7), (0.4, 0.5, 0.6), (0.3, 0.2, 0.25)))
    for parameter in scorer.parameters():
        nn.init.normal_(parameter, std=0.3)
    path = tmp_path_factory.mktemp("scorer") / "scorer.safetensors"
    scorer.save(path)
    return path
