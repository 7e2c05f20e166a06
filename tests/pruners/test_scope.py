"""SCOPE on the embedded model: what its authors' code keeps of a drawn scene."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from torch import nn

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.export.processor import read_processor
from edgeprune.probes import scenes
from edgeprune.pruners.scope import Method
from edgeprune.reference import OfficialEncoder
from edgeprune.trace import PrunedEncoder

SCENE_00 = [14, 15, 16, 20, 24, 26, 27, 38, 50, 52, 53, 94, 101, 110, 121, 123]
"""by the authors' tower, K = 16"""


@pytest.mark.parametrize("path", [PrunedEncoder, OfficialEncoder])
def test_it_keeps_of_the_first_scene_what_the_authors_code_keeps(path: type[nn.Module]) -> None:
    checkpoint = open_checkpoint()
    encoder = encoders.load(checkpoint)
    preprocessing = read_processor(checkpoint.processor, encoder.tower.image_size)
    pixels = torch.from_numpy(preprocessing(Image.open(scenes()[0]))).unsqueeze(0)
    with torch.inference_mode():
        _, indices, *_ = path(encoder, Method(16)).eval()(pixels)
    assert indices[0].tolist() == SCENE_00


def test_it_does_not_project_what_it_drops() -> None:
    assert not Method.traits.projects_all
