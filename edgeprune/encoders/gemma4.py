"""Gemma 4: no [CLS], positions of rows and of columns, both added and rotated, the mean of 3x3 patches is one token; at
one grid (Gemma4ForConditionalGeneration).

    x = conv(2 (pixel_values - 1/2)) + table_x[column] + table_y[row]           the model normalises, not the processor
    token[r, c] = W norm(sqrt(C) mean of the patches [3r .. 3r + 2, 3c .. 3c + 2], standardised where the config says)

The tower runs over the 3x3 patches of a token one after the other. Queries, keys and values have norms, and products
are not scaled; halves of a head are turned by the column and by the row. The mean stands in front of the norm, so that
it belongs to the projector, which works in float32 up to the norm: sqrt(C) goes beyond float16.
In the language models of 26 and 31 billion weights the tokens of an image see each other both ways in some layers; the
kept ones are one run of placeholders, as the whole image's are. Gemma 4 12B has no tower.

Source  google/gemma-4, transformers Gemma4VisionModel, Gemma4VisionPooler, Gemma4Model.get_image_features
"""

from __future__ import annotations

from dataclasses import replace
from math import inf
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn

from edgeprune.checkpoint import Checkpoint
from edgeprune.encoders import Encoder, Tower
from edgeprune.encoders._grid import Mean, checked, convolution, squares
from edgeprune.encoders._load import pretrained, settings, tower_around, without, without_projector
from edgeprune.encoders._processor import SIGLIP, Processor
from edgeprune.errors import ModelError, RequestError

MODEL_TYPES = ("gemma4",)
OPTIONS = ("grid",)
HAS = {"": ()}
PROCESSORS = {
    "Gemma4": Processor(
        SIGLIP | {"do_normalize": False, "image_mean": (0.0, 0.0, 0.0), "image_std": (1.0, 1.0, 1.0)},
        models=("gemma4",),
        any_size=True,
        reads=("patch_size", "max_soft_tokens", "pooling_kernel_size"),
        ignores=("do_center_crop", "do_pad"),
    )
}
REFUSED = {
    "without a vision tower, its patches are the language model's own input, so that there is no encoder to prune; "
    "take another Gemma 4, or fewer tokens in its own image processor (max_soft_tokens)": ("gemma4_unified",),
}
"""why not -> the model_types of such"""
BOUNDS = ("input_min", "input_max", "output_min", "output_max")
"""tensors of one value, between which a product and its input are clamped"""


def load(checkpoint: Checkpoint, layer: int | None, grid: tuple[int, int] | None = None) -> Encoder:
    """Raises RequestError when the grid is missing, no multiple of 3x3, or larger than the tables of positions, and
    ModelError for heads that share keys."""
    from transformers.models.gemma4.configuration_gemma4 import Gemma4VisionConfig
    from transformers.models.gemma4.modeling_gemma4 import Gemma4VisionModel

    if (given := checkpoint.config.get("vision_config")) is None:
        raise ModelError(f"{checkpoint.id} must have a vision tower: config.json has no vision_config")
    config = cast(Any, settings(Gemma4VisionConfig, given))
    if config.num_key_value_heads != config.num_attention_heads:
        raise ModelError(
            f"{checkpoint.id}: num_key_value_heads of the vision_config must be num_attention_heads "
            f"{config.num_attention_heads}, got {config.num_key_value_heads}; is the file damaged?"
        )
    merge = config.pooling_kernel_size
    grid = checked(checkpoint.id, grid, config.patch_size, merge)
    if max(grid) > config.position_embedding_size:
        raise RequestError(
            f"--grid must have at most {config.position_embedding_size} rows and columns, for which {checkpoint.id} "
            f"has positions, got {grid[0]}x{grid[1]}"
        )
    read = without(checkpoint, *BOUNDS)  # which may be infinite
    tensors = {**read.tensors("model.vision_tower.", "vision_tower."), **_bounds(checkpoint)}
    own = cast(Any, pretrained(Gemma4VisionModel, config, tensors, checkpoint.id))
    embed = checkpoint.tensors("model.embed_vision.", "embed_vision.")
    return replace(
        without_projector("gemma4", _tower(own, grid), layer),
        projector=Mean(_Norm(own), _linear(embed, checkpoint.id), merge * merge),
        groups=torch.arange(grid[0] * grid[1]).reshape(-1, merge * merge),
    )


def _bounds(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Those of the tower. Raises ModelError where one is no number."""
    below = "vision_tower."
    names = [name for name in checkpoint.shards if below in name and name.rpartition(".")[2] in BOUNDS]
    bounds = checkpoint.values(names)
    for name, value in bounds.items():
        if value.numel() != 1 or value.isnan().any():
            raise ModelError(f"{checkpoint.id}: tensor {name} must be a number; is the file damaged?")
    return {name.partition(below)[2]: value for name, value in bounds.items()}


def _linear(tensors: dict[str, Tensor], id: str) -> nn.Linear:
    """The product of Gemma4MultimodalEmbedder, whose norm has no weight."""
    if (weight := tensors.get("embedding_projection.weight")) is None or len(tensors) > 1:
        raise ModelError(f"{id} must have embed_vision.embedding_projection.weight alone; it has {', '.join(tensors)}")
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight.float(), requires_grad=False)
    return linear


def _tower(own: Any, grid: tuple[int, int]) -> Tower:
    tower = _Tower(own, grid)
    attention = [block.self_attn for block in tower.layers]
    size = grid[0] * own.config.patch_size, grid[1] * own.config.patch_size
    mlp = tower.layers[0].mlp
    around = tower_around(
        tower, attention, mlp, tower.patch_embedding, size, prefix=0, has_cls=False, blocks=tower.layers
    )
    return replace(around, rotary=True)


class _Tower(nn.Module):
    """pixel_values [B, 3, H, W] in 0..1 -> .hidden_states, .last_hidden_state, [B, P, C], 3x3 patches by 3x3"""

    def __init__(self, own: Any, grid: tuple[int, int]) -> None:
        super().__init__()
        self.config = own.config
        order = squares(grid, own.config.pooling_kernel_size)
        rows, columns = order // grid[1], order % grid[1]
        self.patch_embedding = convolution(own.patch_embedder.input_proj, own.config.patch_size)
        table = own.patch_embedder.position_embedding_table
        self.position_embedding = nn.Parameter((table[0, columns] + table[1, rows])[None], requires_grad=False)
        self.register_buffer("order", order, persistent=False)
        rotation = own.encoder.rotary_emb(table.float(), torch.stack((columns, rows), dim=-1)[None])
        self._rotation = rotation[0][0], rotation[1][0]  # no buffer: .half() would round the angles
        self.layers = own.encoder.layers
        for layer in self.layers:
            layer.self_attn = _Attention(layer.self_attn)
            for name in ("gate_proj", "up_proj", "down_proj"):
                setattr(layer.mlp, name, _clipped(getattr(layer.mlp, name)))

    def forward(self, pixel_values: Tensor, output_hidden_states: bool = True) -> SimpleNamespace:
        patches = self.patch_embedding(2 * (pixel_values - 0.5)).flatten(2).transpose(1, 2)
        hidden = [patches.index_select(1, cast(Tensor, self.order)) + self.position_embedding]
        for layer in self.layers:
            hidden.append(layer(hidden[-1], position_embeddings=self._rotation))
        return SimpleNamespace(hidden_states=tuple(hidden), last_hidden_state=hidden[-1])


class _Attention(nn.Module):
    """[B, S, C] -> [B, S, C] and no map, called as a layer calls its own; position_embeddings: cos and sin [S, d], or
    [B, 1, S, d]"""

    def __init__(self, own: Any) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            _clipped(part) for part in (own.q_proj, own.k_proj, own.v_proj, own.o_proj)
        )
        self.q_norm, self.k_norm, self.v_norm = own.q_norm, own.k_norm, own.v_norm
        self.config, self._head, self._scaling = own.config, own.head_dim, own.scaling

    def forward(self, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], **_: Any) -> Any:
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        query, key, value = (
            norm(product(hidden_states).unflatten(-1, (-1, self._head))).transpose(1, 2)
            for norm, product in (
                (self.q_norm, self.q_proj),
                (self.k_norm, self.k_proj),
                (self.v_norm, self.v_proj),
            )
        )
        query, key = (_turned(one, *position_embeddings) for one in (query, key))
        attend: Any = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
        attended, _maps = attend(self, query, key, value, attention_mask=None, scaling=self._scaling)
        return self.o_proj(attended.flatten(2)), None


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The first half of each head by the column, the second by the row: [B, H, S, d]."""
    from transformers.models.gemma4.modeling_gemma4 import rotate_half

    across = torch.cat([rotate_half(half) for half in x.float().chunk(2, dim=-1)], dim=-1)  # type: ignore[no-untyped-call]
    return (x.float() * cos + across * sin).to(x.dtype)


def _clipped(own: Any) -> nn.Module:
    """A Gemma4ClippableLinear, its bounds as constants; those that are infinite are left out."""
    if not own.use_clipped_linears:
        linear: nn.Module = own.linear
        return linear
    bounds = [(float(low), float(high)) for low, high in _pairs(own)]
    widths = own.linear.in_features, own.linear.out_features
    front, behind = (
        nn.Identity() if pair == (-inf, inf) else _Clamp(*pair, width)
        for pair, width in zip(bounds, widths, strict=True)
    )
    return nn.Sequential(front, own.linear, behind)


def _pairs(own: Any) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    return (own.input_min, own.input_max), (own.output_min, own.output_max)


class _Clamp(nn.Module):
    """Between two values, of which one may be infinite, and is left out.

    width: of what is clamped, as are the bounds: of two numbers onnxscript's rewriter makes a Clip, and loses the
    bounds of all but one where several read the same input, as queries, keys and values do
    """

    def __init__(self, low: float, high: float, width: int) -> None:
        super().__init__()
        for name, bound in (("low", low), ("high", high)):
            value = None if abs(bound) == inf else torch.full((width,), bound)
            self.register_buffer(name, value, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.low is not None:
            x = torch.maximum(x, cast(Tensor, self.low))
        return x if self.high is None else torch.minimum(x, cast(Tensor, self.high))


class _Norm(nn.Module):
    """[B, N, C] -> [B, N, C] float32: what the pooler does behind its mean, then a norm without weight."""

    def __init__(self, own: Any) -> None:
        super().__init__()
        self._root, self._eps = own.config.hidden_size**0.5, own.config.rms_norm_eps
        # No buffers: .half() would round them, and take what is beyond float16 for infinite.
        self._standard = (own.std_bias.float(), own.std_scale.float()) if own.config.standardize else None

    def forward(self, x: Tensor) -> Tensor:
        scaled = x.float() * self._root
        if self._standard is not None:
            bias, scale = self._standard
            scaled = (scaled - bias) * scale
        normed: Tensor = scaled * torch.rsqrt(scaled.pow(2).mean(dim=-1, keepdim=True) + self._eps)
        return normed
