"""DeiT: two special tokens stand in front of its patches, with and without a teacher."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from edgeprune.encoders import Encoder
from edgeprune.pruners import none
from edgeprune.trace import PrunedEncoder
from tests.encoders.kinds import Kind, processor

PROCESSOR = processor("DeiT", size=56, crop_size=48)
KINDS = {
    "deit": Kind("DeiTModel", PROCESSOR, prefix=2, family="deit", exported="holov agilepruner learnpruner"),
    "deit with teacher": Kind("DeiTForImageClassificationWithTeacher", PROCESSOR, "deit", 2),
}


@pytest.mark.parametrize("name", KINDS)
def test_the_distillation_token_is_no_patch(made: Callable[[str], tuple[Path, Encoder]], name: str) -> None:
    folder, encoder = made(name)
    pixels = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        tokens = PrunedEncoder(encoder, none.Method(36))(pixels)[0]
        both, patches = KINDS[name].own(folder)(pixels).last_hidden_state.split((2, 36), dim=1)
    torch.testing.assert_close(tokens, patches, rtol=1e-4, atol=1e-4)
    assert not torch.isclose(both[:, 1:], tokens, atol=1e-2).all(dim=-1).any()
