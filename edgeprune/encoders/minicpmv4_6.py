"""MiniCPM-V 4.6: a SigLIP tower that merges 2x2 patches behind its first layers and 2x2 of those to one token; at one
grid (MiniCPMV4_6ForConditionalGeneration).

    x = layer_0 .. layer_i of all patches                                          i: insert_layer_id, 6
    x = mlp(norm(2x2 of x + attention(norm(x)) in these windows, side by side)) + their mean
    token[r, c] = mlp(norm(2x2 of x behind the last layer and the last norm, side by side))

What stands in front of that merger is the embedding of a tower with a quarter of the patches, so that methods see, and
`--layer` counts, the layers behind it. With `downsample_mode` "4x" the model has no such merger, and a token is 2x2
patches. The grid counts the patches of the image: 32x32 is a slice of 448x448 pixels and 64 tokens. A larger image is
an overview and slices of another shape, which is a grid and a graph of its own; slices of one size are the images of a
batch. The layers have the names of SigLIP's, and compute the same.

Source  openbmb/MiniCPM-V-4.6, transformers MiniCPMV4_6VisionModel, MiniCPMV4_6ViTWindowAttentionMerger,
        MiniCPMV4_6Model.get_image_features
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn

from edgeprune.checkpoint import Checkpoint
from edgeprune.encoders import Encoder, Tower
from edgeprune.encoders._attention import WINDOWS
from edgeprune.encoders._grid import Merger, checked, squares
from edgeprune.encoders._load import behind_norm, part_of, pretrained, settings, spelled, tower_around
from edgeprune.encoders._processor import SIGLIP, Processor
from edgeprune.errors import ModelError

MODEL_TYPES = ("minicpmv4_6",)
OPTIONS = ("grid",)
HAS = {"": ()}
PROCESSORS = {
    "MiniCPMV4_6": Processor(
        SIGLIP,
        models=("minicpmv4_6",),
        any_size=True,
        reads=(*("max_slice_nums", "scale_resolution", "patch_size", "slice_mode", "downsample_mode", "use_image_id"),),
        ignores=("do_center_crop", "do_pad"),
    )
}
WINDOW = 4
"""patches of a window of the merger inside, and of a token behind the tower"""
MERGER = "vit_merger."


def load(checkpoint: Checkpoint, layer: int | None, grid: tuple[int, int] | None = None) -> Encoder:
    """Raises RequestError when the grid is missing or no multiple of 4x4, ModelError for mergers of other sizes."""
    from transformers import MiniCPMV4_6Config
    from transformers.models.minicpmv4_6.modeling_minicpmv4_6 import MiniCPMV4_6Merger

    config = cast(Any, MiniCPMV4_6Config(**checkpoint.config))
    sizes = tuple(config.vision_config.window_kernel_size), tuple(config.merge_kernel_size), config.merger_times
    inserted, depth = config.vision_config.insert_layer_id, config.vision_config.num_hidden_layers
    halved = config.downsample_mode != "4x"
    if sizes != ((2, 2), (2, 2), 1) or (halved and not 0 <= inserted < depth - 1):
        raise ModelError(
            f"{checkpoint.id}: its mergers must be of 2x2, one inside the tower behind a layer in 0..{depth - 2} and "
            f"one behind it; config.json has {sizes[0]} behind layer {inserted}, and {sizes[2]} of {sizes[1]}"
        )
    grid = checked(checkpoint.id, grid, config.vision_config.patch_size, 4 if halved else 2)
    tower = _tower(checkpoint, config.vision_config, grid, inserted + 1 if halved else 0)
    stored = checkpoint.tensors("model.merger.", "merger.")
    (own,) = cast(Any, part_of(MiniCPMV4_6Merger, config, stored, checkpoint.id)).mlp
    mlp = nn.Sequential(own.linear_1, own.act, own.linear_2)
    rows, columns = tower.grid
    groups = torch.arange(rows * columns).reshape(-1, WINDOW)
    return behind_norm("minicpmv4_6", tower, Merger(own.pre_norm, mlp), layer, groups)


def _tower(checkpoint: Checkpoint, vision: Any, grid: tuple[int, int], front: int) -> Tower:
    """front: layers in front of the merger inside; 0: there is none"""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    config = settings(SiglipVisionConfig, vision.to_dict(), vision_use_head=False)
    stored = checkpoint.tensors(*spelled("vision_tower"))
    inside = {name.removeprefix(MERGER): value for name, value in stored.items() if name.startswith(MERGER)}
    rest = {name: value for name, value in stored.items() if not name.startswith(MERGER)}
    own = cast(Any, pretrained(SiglipVisionModel, config, rest, checkpoint.id))
    merger = cast(_Halving, part_of(_Halving, own.config, inside, checkpoint.id)) if front else None
    module = _Tower(own, grid, merger, front)
    size = grid[0] * config.patch_size, grid[1] * config.patch_size
    attention = [block.self_attn for block in module.layers]
    mlp = own.encoder.layers[0].mlp
    tower = tower_around(
        module, attention, mlp, module.patch_embedding, size, prefix=0, has_cls=False, blocks=module.layers
    )
    if merger is None:
        return tower
    before = [*(block.self_attn for block in module.front), merger.self_attn]
    (rows, columns), patches, width = grid, grid[0] * grid[1], tower.width
    own_mlp = merger.linear_1.weight.numel() + merger.linear_2.weight.numel()
    layers = front * (patches * (4 + 2 * tower.mlp_width / width) * width**2 + 2 * patches**2 * width)
    window = patches * (4 * width**2 + 2 * WINDOW * width) + patches // WINDOW * own_mlp
    cost = round(layers + window)
    return replace(tower, grid=(rows // 2, columns // 2), before=before, before_cost=cost)


class _Tower(nn.Module):
    """pixel_values [B, 3, H, W] -> .hidden_states, .last_hidden_state, [B, P / 4, C] of 2x2 by 2x2, the first of them
    behind the merger inside; [B, P, C] where there is none"""

    def __init__(self, own: Any, grid: tuple[int, int], merger: _Halving | None, front: int) -> None:
        super().__init__()
        self.config, self.patch_embedding = own.config, own.embeddings.patch_embedding
        order = squares(grid, 2)
        if merger is not None:
            order = order.reshape(-1, WINDOW)[squares((grid[0] // 2, grid[1] // 2), 2)].flatten()
            setattr(merger.self_attn, WINDOWS, [WINDOW] * (len(order) // WINDOW))
        self.register_buffer("order", order, persistent=False)
        table: Tensor = own.embeddings.position_embedding.weight
        self.position_embedding = nn.Parameter(table[_places(table, grid)[order]], requires_grad=False)
        self.front, self.merger, self.layers = own.encoder.layers[:front], merger, own.encoder.layers[front:]
        self.post_layernorm = own.post_layernorm

    def forward(self, pixel_values: Tensor, output_hidden_states: bool = True) -> SimpleNamespace:
        patches = self.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
        x = patches.index_select(1, cast(Tensor, self.order)) + self.position_embedding
        for layer in self.front:
            x = layer(x, None)
        hidden = [x if self.merger is None else self.merger(x)]
        for layer in self.layers:
            hidden.append(layer(hidden[-1], None))
        return SimpleNamespace(hidden_states=tuple(hidden), last_hidden_state=self.post_layernorm(hidden[-1]))


class _Halving(nn.Module):
    """[B, P, C] -> [B, P / 4, C]: attention in windows of four patches, which stand side by side, and their merger."""

    def __init__(self, config: Any) -> None:
        from transformers.activations import ACT2FN
        from transformers.models.siglip.modeling_siglip import SiglipAttention

        super().__init__()
        width, wide = config.hidden_size, WINDOW * config.hidden_size
        self.layer_norm1 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.self_attn = cast(Any, SiglipAttention)(config)
        self.pre_norm = nn.LayerNorm(wide, eps=config.layer_norm_eps)
        self.linear_1 = nn.Linear(wide, WINDOW * config.intermediate_size)
        self.act = ACT2FN["gelu_pytorch_tanh"]
        self.linear_2 = nn.Linear(WINDOW * config.intermediate_size, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))[0]
        window = x.reshape(x.shape[0], -1, WINDOW, x.shape[2])
        merged: Tensor = self.linear_2(self.act(self.linear_1(self.pre_norm(window.flatten(2)))))
        return merged + window.mean(dim=2)


def _places(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """[P] int64 in raster order: which of the learned positions each patch gets, by transformers' own arithmetic."""
    from transformers.vision_utils import get_vision_nearest_position_ids

    return get_vision_nearest_position_ids(torch.tensor([grid]), round(len(table) ** 0.5))
