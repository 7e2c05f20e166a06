"""A tiny detector with random tensors everywhere, and seeded scorers on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn

from edgeprune.pruners._scorer import Scorer, ScorerConfig


@pytest.fixture(scope="session")
def yolos_folder(model_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 layers with positions between them, 6x8 patches of 8 pixels, 5 detection tokens."""
    from transformers import YolosForObjectDetection

    processor = {"image_processor_type": "YolosImageProcessor", "size": {"height": 48, "width": 64}}
    shape: dict[str, Any] = {"image_size": [48, 64], "num_detection_tokens": 5, "num_labels": 3}
    folder = model_folder(tmp_path_factory.mktemp("yolos"), "YolosForObjectDetection", processor, **shape)
    model = cast(Any, YolosForObjectDetection).from_pretrained(folder)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make_scorer(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """(kind="front", **changes of the config) -> the file of a scorer whose tensors are all random."""

    def make(kind: str = "front", **changes: Any) -> Path:
        torch.manual_seed(2)
        sizes: dict[str, Any] = {"layers": 2, "width": 16, "heads": 2, "mlp_width": 24}
        own: dict[str, Any] = {
            "front": {"patch_size": 8, "grid": (6, 8)},
            "coarse": {"patch_size": 16, "grid": (3, 4)},
            "trunk": {"patch_size": 8, "grid": (6, 8), "width": 32},
        }[kind]
        pixels = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
        scorer = Scorer(ScorerConfig(**{"kind": kind, **sizes, **own, **pixels, **changes}))
        for parameter in scorer.parameters():
            nn.init.normal_(parameter, std=0.4)
        path = tmp_path_factory.mktemp("scorer") / f"{kind}.safetensors"
        scorer.save(path)
        return path

    return make
