"""The bundle that a release stores: `python -m tests.golden.release`, once, when its version is settled.

tests/golden/bundle-<major.minor> is what this export writes then, by the code as it is then. It is never written again:
every later release, in Python and in C, must open, verify and run it (tests/bundle/test_older.py, tests/cpp).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from edgeprune import __version__
from edgeprune.export import Request, export_bundle

FOLDER = Path(__file__).parent / f"bundle-{__version__.rpartition('.')[0]}"
VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
SIZES = {"image_size": 32, "patch_size": 4}
TEXT = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 64}
KEEP = 16


def model(folder: Path) -> Path:
    """A LLaVA of three layers, 8x8 patches, with seeded weights whose attention is peaked."""
    import torch
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    from tests.conftest import _spread, write_processor

    torch.manual_seed(0)
    vision = {"model_type": "clip_vision_model", **VISION, **SIZES}
    text = {"model_type": "llama", "num_key_value_heads": 2, **TEXT}
    llava = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text, image_token_index=3))
    _spread(llava)
    llava.save_pretrained(folder)
    write_processor(folder, SIZES["image_size"])
    return folder


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = model(Path(scratch) / "llava-of-three-layers")
        export_bundle(Request("fastervlm", "cpu", keep=KEEP, model=str(checkpoint), output=FOLDER, runtime=False))
    print(FOLDER)


if __name__ == "__main__":
    main()
