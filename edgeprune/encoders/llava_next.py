"""LLaVA-NeXT (LLaVA-1.6): the tower and the projector of LLaVA-1.5, on the tiles of one image
(LlavaNextForConditionalGeneration).

    tiles  = [the whole image, tile (0, 0), tile (0, 1), ...]          runtime/images/tiles.py cuts them
    tokens = projector(hidden_states[vision_feature_layer])            of each tile, without [CLS] if it has one

The tokens are those of get_image_features in front of its packing. How a language model is given them is the layout of
the official pruning codes ('spatial'): rows of padding stay in, and there is no image_newline.

Source  haotian-liu/LLaVA llava/model/llava_arch.py (anyres), transformers LlavaNextModel.get_image_features
"""

from __future__ import annotations

from dataclasses import replace

from edgeprune.checkpoint import Checkpoint
from edgeprune.encoders import Encoder
from edgeprune.encoders._load import with_projector
from edgeprune.encoders._processor import CLIP, Processor

MODEL_TYPES = ("llava_next",)
HAS = {
    "a CLIP tower": ("[CLS]", "two-layer projector", "variable sequence length"),
    "a SigLIP tower": ("two-layer projector", "variable sequence length"),
}
PROCESSORS = {
    "LlavaNext": Processor(
        CLIP | {"image_grid_pinpoints": [(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)]},
        models=("llava_next",),
        reads=("image_grid_pinpoints",),
        ignores=("do_pad",),  # pads the list of tiles
    )
}
LAYOUT = "tiles: the whole image first, then its tiles row by row; no image_newline, padding is not cut off"


def load(checkpoint: Checkpoint, layer: int | None) -> Encoder:
    from transformers import LlavaNextConfig
    from transformers.models.llava_next.modeling_llava_next import LlavaNextMultiModalProjector

    config = LlavaNextConfig(**checkpoint.config)
    encoder = with_projector("llava_next", checkpoint, config, LlavaNextMultiModalProjector, layer)
    return replace(encoder, tiled=True, layout=LAYOUT)
