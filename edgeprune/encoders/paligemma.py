"""PaliGemma 1 and 2, and the robot policy pi0 on it: SigLIP's tower, and a projector of one linear layer
(PaliGemmaForConditionalGeneration, PI0ForConditionalGeneration).

    tokens = projector(last_hidden_state)

The language model attends to the whole prefix, image and prompt, both ways; kept tokens are one run in it, at compact
positions. transformers 5 scales the embeddings of text alone, tokens go in as they are.
A pi0 sees through several cameras: the images of a batch (`--tiles` says how many), or a bundle for each. Its tensors
may have the names of LeRobot's files; config.json must be transformers' own, with model_type pi0.

Source  google-research/big_vision models/proj/paligemma, Physical-Intelligence/openpi, huggingface/lerobot
        policies/pi0, transformers PaliGemmaModel.get_image_features, PI0Model.embed_prefix
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from edgeprune.checkpoint import Checkpoint
from edgeprune.encoders import Encoder, siglip
from edgeprune.encoders._load import PROJECTOR, behind_norm, part_of, spelled
from edgeprune.encoders._processor import SIGLIP, Processor

MODEL_TYPES = ("paligemma", "pi0")
OPTIONS = ("size",)
HAS = {"": ("variable sequence length",)}
PROCESSORS = {
    "PI0": Processor(
        SIGLIP
        | {"size": {"max_height": 224, "max_width": 224}, "default_to_square": False, "do_pad": True}
        | {"pad_size": {"height": 224, "width": 224}},
        models=("pi0",),
        torchvision=True,
    )
}
LEROBOT = ("model.paligemma_with_expert.paligemma.model.", "paligemma_with_expert.paligemma.model.")
ROOTS = {"paligemma": ("model.", ""), "pi0": ("model.vlm.", "vlm.", *LEROBOT)}
"""model_type -> what may stand in front of the names of tower and projector"""
CAMERAS = "cameras: one after the other"


def load(checkpoint: Checkpoint, layer: int | None, size: tuple[int, int] | None = None) -> Encoder:
    from transformers import PaliGemmaConfig, PI0Config
    from transformers.models.paligemma.modeling_paligemma import PaliGemmaMultiModalProjector

    given, kind = checkpoint.config, checkpoint.config["model_type"]
    config: Any = PI0Config(**given).vlm_config if kind == "pi0" else PaliGemmaConfig(**given)
    tower = siglip.tower(checkpoint, config.vision_config.to_dict(), *spelled("vision_tower", ROOTS[kind]), size=size)
    stored = checkpoint.tensors(*(f"{root}{PROJECTOR[-1]}" for root in ROOTS[kind]))
    projector = part_of(PaliGemmaMultiModalProjector, config, stored, checkpoint.id)
    encoder = behind_norm("paligemma", tower, projector, layer)
    return replace(encoder, layout=CAMERAS) if kind == "pi0" else encoder
