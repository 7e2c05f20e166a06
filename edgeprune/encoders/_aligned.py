"""Patches in the space of texts, by the weights of the CLIP that a tower was taken from.

    h [B, N, C] --post_layernorm, visual_projection--> [B, N, P]

CLIP itself norms and projects [CLS] alone, which texts were trained against; question-aware methods do so with every
patch. Both weights are of the whole CLIP: a LLaVA has neither, though its tower is openai/clip-vit-large-patch14-336's.

Source  huggingface/transformers@v5.24 models/clip/modeling_clip.py: CLIPVisionModelWithProjection
        Theia-4869/CDPruner@9541616 llava/model/multimodal_encoder/clip_encoder.py: image_embeds
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor, nn

from edgeprune.checkpoint import Checkpoint
from edgeprune.encoders._building import building
from edgeprune.encoders._load import part_of, settings
from edgeprune.errors import ModelError

__all__ = ["Aligned", "aligned", "joint_width", "part_of_clip"]

NORM, PROJECTION = "post_layernorm.", "visual_projection."


class Aligned(nn.Module):
    """[B, N, C] -> [B, N, P], in the dtype of its weights."""

    def __init__(self, config: Any) -> None:
        """config: CLIPVisionConfig, whose projection_dim is P"""
        super().__init__()
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.visual_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)

    @property
    def width(self) -> int:
        """P"""
        return self.visual_projection.out_features

    def forward(self, hidden: Tensor) -> Tensor:
        projected: Tensor = self.visual_projection(self.post_layernorm(hidden))
        return projected


def aligned(checkpoint: Checkpoint, width: int) -> Aligned:
    """The module for the hidden states of a tower, [CLS] or patches of them, in float32.

    checkpoint: of a whole CLIP, of which only these weights are read
    width: C of the tower's hidden states

    Raises ModelError when it is no CLIP, lacks one of the weights, or its own tower has another width.
    """
    from transformers import CLIPVisionConfig

    own = part_of_clip(checkpoint, "vision_config")
    tensors = {NORM + name: value for name, value in checkpoint.tensors(f"vision_model.{NORM}").items()}
    tensors |= {PROJECTION + name: value for name, value in checkpoint.tensors(PROJECTION).items()}
    with building(checkpoint.id):
        config = settings(CLIPVisionConfig, own, **joint_width(tensors, f"{PROJECTION}weight"))
        module = cast(Aligned, part_of(Aligned, config, tensors, checkpoint.id))
    if config.hidden_size != width:
        raise ModelError(
            f"the CLIP of the questions must be the one that the encoder's tower was taken from, of width {width}; "
            f"{checkpoint.id} has a tower of width {config.hidden_size}; name the other one"
        )
    return module


def part_of_clip(checkpoint: Checkpoint, name: str) -> Mapping[str, Any]:
    """vision_config or text_config. Raises ModelError when the checkpoint is not of a whole CLIP."""
    kind, own = checkpoint.config.get("model_type"), checkpoint.config.get(name)
    if kind != "clip" or not isinstance(own, dict):
        what = f"is a {kind}" if kind != "clip" else f"has no {name}"
        raise ModelError(
            f"questions need a CLIP with both of its towers (model_type clip), {checkpoint.id} {what}; the one of "
            "LLaVA-1.5 is openai/clip-vit-large-patch14-336"
        )
    return own


def joint_width(tensors: Mapping[str, Tensor], projection: str) -> dict[str, int]:
    """P as the projection has it: each of a CLIP's three configs says one, and CLIPModel reads only the outermost."""
    weight = tensors.get(projection)
    return {} if weight is None or weight.dim() != 2 else {"projection_dim": len(weight)}
