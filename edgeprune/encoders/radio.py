"""C-RADIO: class tokens of several teachers and registers first, learned positions, a bare ViT that normalises its
pixels itself (RadioModel).

    x = conv((pixel_values - mean) / std) + positions                  of pixels in 0..1
    x = [class tokens, registers, x] -> layers -> patches              no final norm

Any image size goes; that of the image processor is taken, or the one that is asked for, and the positions are resampled
once, with the family's own code. Of the class tokens, one for each teacher, [CLS] is that of the first of summary_idxs;
no other one is attended from. The summaries are neither read nor exported, nor is what takes videos.

Source  NVlabs/RADIO radio/vit_patch_generator.py, radio/input_conditioner.py, transformers RadioModel
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from edgeprune.checkpoint import Checkpoint
from edgeprune.encoders import Encoder
from edgeprune.encoders._load import pretrained, settings, tower_around, without, without_projector
from edgeprune.encoders._positions import whole_patches
from edgeprune.encoders._settings import input_size, settings_of
from edgeprune.errors import ModelError

MODEL_TYPES = ("radio",)
OPTIONS = ("size",)
HAS = {"": ("[CLS]", "variable sequence length")}
VIDEO = ("video_patch_projection", "video_embedder")
"""parts of names that only videos go through: transformers' own, and that of nvidia's files"""


def load(checkpoint: Checkpoint, layer: int | None, size: tuple[int, int] | None = None) -> Encoder:
    """Raises ModelError where the image processor normalises too."""
    from transformers import RadioConfig, RadioModel

    config = cast(Any, settings(RadioConfig, checkpoint.config, video_temporal_patch_size=None))
    _check_processor(checkpoint)
    read = without(checkpoint, "summary_idxs", *VIDEO)  # of the summaries; integers, which are no weights
    tensors = {**read.tensors(""), "summary_idxs": torch.tensor(config.summary_idxs)}
    module = cast(Any, pretrained(RadioModel, config, tensors, checkpoint.id))
    height, width = size or input_size(checkpoint, config.image_size)
    if size:
        whole_patches(size, config.patch_size)
    convolution = _at(module.embeddings, (height // config.patch_size, width // config.patch_size), config)
    layers = module.encoder.layer
    tower = tower_around(
        module,
        [one.attention for one in layers],
        layers[0].mlp,
        convolution,
        (height, width),
        prefix=config.num_summary_tokens,
        embeddings=module.embeddings,
        blocks=layers,
    )
    return without_projector("radio", tower, layer)


def _check_processor(checkpoint: Checkpoint) -> None:
    try:
        normalises = settings_of(checkpoint.processor, "radio").on("do_normalize")
    except (ValueError, TypeError):  # what is wrong with it is said where its steps are read
        return
    if normalises:
        raise ModelError(
            f"{checkpoint.id}: its image processor must not normalise, which the model does itself; set do_normalize "
            "to false"
        )


def _at(embeddings: Any, grid: tuple[int, int], config: Any) -> nn.Conv2d:
    """Bring the embeddings to one grid, in place -> the convolution that their Linear over patches, (channel, row,
    column), equals."""
    kind, linear, side = type(embeddings), embeddings.patch_projection, config.patch_size
    positions = embeddings._interpolate_position_embedding(grid, torch.float32)
    first = config.summary_idxs[0]
    order = [first, *(at for at in range(config.num_summary_tokens) if at != first)]
    convolution = nn.Conv2d(config.num_channels, config.hidden_size, side, side, bias=False, device="meta")
    weight = linear.weight.reshape(config.hidden_size, config.num_channels, side, side)
    convolution.weight = nn.Parameter(weight, requires_grad=False)
    embeddings.convolution, embeddings.patch_projection = convolution, None
    embeddings.position_embedding = nn.Parameter(positions, requires_grad=False)
    embeddings.cls_register_token = nn.Parameter(embeddings.cls_register_token[order], requires_grad=False)

    def forward(self: Any, pixel_values: Tensor, image_grid_hw: None = None) -> Tensor:
        patches = self.convolution(pixel_values).flatten(2).transpose(1, 2) + self.position_embedding
        special = self.cls_register_token.unsqueeze(0).expand(patches.shape[0], -1, -1)
        return torch.cat((special, patches), dim=1)

    embeddings.__class__ = type(kind.__name__, (kind,), {"forward": forward})  # of the object, as a copy has it, too
    return convolution
