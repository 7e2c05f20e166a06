"""Vision towers for images of any size, at one grid of patches: what depends on the size becomes a constant.

    x = conv(pixel_values), patch by patch in the tower's order, + positions
    x = x + attention(norm1(x), cos, sin), x = x + mlp(norm2(x))            for every block
    token[n] = merger(the g patches of groups[n], side by side)             behind the tower

Qwen's towers run over the g = m x m patches that are merged to one token one after the other, and, where they attend in
windows, window after window; `order` says which patch of the raster stands where. A convolution over time that sees the
same frame at every step equals one whose kernel is summed over time.
Attention is written here: transformers' own takes no batch, computes queries, keys and values in one product, of which
no rows can be left out, and cuts windows at run time. Its rotation, norms, MLPs and mergers are used as they are.

Source  transformers Qwen2VisionTransformerPretrainedModel, Qwen2_5_VisionTransformerPretrainedModel, Qwen3VLVisionModel
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn

from edgeprune.checkpoint import Checkpoint
from edgeprune.encoders import Encoder, Tower, feature_depth
from edgeprune.encoders._attention import WINDOWS
from edgeprune.encoders._load import pretrained, tower_around
from edgeprune.errors import ModelError, RequestError

__all__ = [
    "GridTower",
    "Mean",
    "Merger",
    "Windows",
    "checked",
    "convolution",
    "in_squares",
    "learned",
    "merged",
    "merger_of",
    "squares",
    "token_places",
    "visual",
]

Rotate = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
Windows = Mapping[int, list[int]]
"""block, from 0 -> how many patches each of its windows has, in order; a block that is not there attends to all"""


def checked(id: str, grid: tuple[int, int] | None, patch_size: int, merge: int = 1) -> tuple[int, int]:
    """The grid that was asked for. Raises RequestError when there is none, or it does not divide into merge x merge."""
    if grid is None:
        side = 32 // merge * merge
        pixels = side * patch_size
        raise RequestError(
            f"{id} takes images of any size: --grid must say how many rows x columns of patches, such as {side}x{side} "
            f"for {pixels}x{pixels} pixels; it is missing"
        )
    rows, columns = grid
    if rows % merge or columns % merge:
        less = [(size // merge * merge) or merge for size in grid]
        more = [-(-size // merge) * merge for size in grid]
        near = " or ".join(dict.fromkeys(f"{one[0]}x{one[1]}" for one in (less, more)))
        raise RequestError(
            f"grid must be a multiple of {merge}x{merge} patches, which are merged to one token, got {rows}x{columns}; "
            f"{near} would be"
        )
    return grid


def visual(checkpoint: Checkpoint, cls: Any, config: Any, flat: Collection[str] = ()) -> Any:
    """The vision model of a Qwen checkpoint: below `model.visual.` as transformers 5 writes it, or below `visual.`.

    flat: its parts, of a family that has files with nothing in front of their names
    """
    bare = {name: file for name, file in checkpoint.shards.items() if name.partition(".")[0] in flat}
    read, names = (replace(checkpoint, shards=bare), ("",)) if bare else (checkpoint, ("model.visual.", "visual."))
    return cast(Any, pretrained(cls, config, read.tensors(*names), checkpoint.id))


def learned(own: Any, grid: tuple[int, int]) -> Tensor:
    """[P, C], the learned positions of a vision model of Qwen3-VL's kind at one grid, square by square, by
    transformers' own interpolation."""
    from transformers.vision_utils import get_vision_interpolation_indices_and_weights

    near, weights = get_vision_interpolation_indices_and_weights(
        torch.tensor([[1, *grid]]),
        own.num_grid_per_side,
        mode=own.interpolation_mode,
        align_corners=own.interpolation_align_corners,
        spatial_merge_size=own.config.spatial_merge_size,
    )
    positions: Tensor = (own.pos_embed(near) * weights[:, :, None]).sum(dim=1)
    return positions


class GridTower(nn.Module):
    """pixel_values [B, 3, H, W] -> .hidden_states, depth + 1 times [B, P, C] in the tower's order; .last_hidden_state

    own: the vision model of transformers; its blocks get the attention below, in place
    order: [P] int64, the place in the raster of each patch
    cos, sin: [P, d]; positions: [P, C], added to the embedded patches; all in the tower's order
    norm: of the embedded patches, in front of the positions
    """

    def __init__(
        self,
        own: Any,
        rotate: Rotate,
        order: Tensor,
        rotation: tuple[Tensor, Tensor],
        positions: Tensor | None = None,
        windows: Windows | None = None,
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.config = own.config
        self.patch_embedding, self.norm = _without_time(own.patch_embed.proj), norm
        self.blocks = own.blocks
        for at, block in enumerate(self.blocks):
            block.attn = _Attention(block.attn, rotate)
            if at in (windows or {}):
                setattr(block.attn, WINDOWS, (windows or {})[at])
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("positions", positions, persistent=False)
        self._rotation = rotation  # no buffer: .half() would round the angles, which are float32 in every precision

    def forward(self, pixel_values: Tensor, output_hidden_states: bool = True) -> SimpleNamespace:
        patches = self.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
        hidden = [patches.index_select(1, cast(Tensor, self.order))]
        if self.norm is not None:
            hidden = [self.norm(hidden[0])]
        if self.positions is not None:
            hidden = [hidden[0] + self.positions]
        for block in self.blocks:
            hidden.append(block(hidden[-1], cu_seqlens=None, position_embeddings=self._rotation))
        return SimpleNamespace(hidden_states=tuple(hidden), last_hidden_state=hidden[-1])


class _Attention(nn.Module):
    """[B, S, C] -> [B, S, C], called as a block of Qwen's calls its own; `_attention` cuts windows."""

    def __init__(self, own: Any, rotate: Rotate) -> None:
        super().__init__()
        self.q, self.k, self.v = _thirds(own.qkv)
        self.q_norm, self.k_norm = (getattr(own, name, nn.Identity()) for name in ("q_norm", "k_norm"))
        self.proj = own.proj
        self.config, self._heads, self._scaling, self._rotate = own.config, own.num_heads, own.scaling, rotate

    def forward(self, x: Tensor, position_embeddings: tuple[Tensor, Tensor], **_: Any) -> Tensor:
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        query, key, value = (part(x).unflatten(-1, (self._heads, -1)) for part in (self.q, self.k, self.v))
        query, key = self._rotate(self.q_norm(query), self.k_norm(key), *position_embeddings)
        heads = (part.transpose(1, 2) for part in (query, key, value))
        attend: Any = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
        attended, _maps = attend(self, *heads, attention_mask=None, scaling=self._scaling)
        projected: Tensor = self.proj(attended.flatten(2))
        return projected


class Merger(nn.Module):
    """[B, N, g * C] -> [B, N, D]: a norm, over each patch or over the g of a token together, and a two-layer MLP."""

    def __init__(self, norm: nn.Module, mlp: nn.Module, patches: int = 1) -> None:
        """patches: how many the norm sees apart, side by side in a row"""
        super().__init__()
        self.norm, self.mlp, self._patches = norm, mlp, patches

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x.reshape(*x.shape[:2], self._patches, -1)).flatten(2)
        projected: Tensor = self.mlp(normed)
        return projected


class Mean(nn.Module):
    """[B, N, g * C] -> [B, N, D]: the mean of the patches of a token, a norm, and one product."""

    def __init__(self, norm: nn.Module, projection: nn.Linear, patches: int) -> None:
        super().__init__()
        self.norm, self.projection, self._patches = norm, projection, patches

    def forward(self, x: Tensor) -> Tensor:
        mean = x.reshape(*x.shape[:2], self._patches, -1).float().mean(dim=2)
        projected: Tensor = self.projection(self.norm(mean).to(x.dtype))
        return projected


def merger_of(own: Any, patches: int) -> Merger:
    """The merger of a vision model of Qwen3-VL's kind; patches: of a token."""
    mlp = nn.Sequential(own.linear_fc1, own.act_fn, own.linear_fc2)
    return Merger(own.norm, mlp, 1 if own.use_postshuffle_norm else patches)


def merged(
    family: str,
    modeling: ModuleType,
    own: Any,
    grid: tuple[int, int],
    layer: int | None,
    merger: Merger,
    *,
    positions: Tensor | None = None,
    token_order: Tensor | None = None,
    windows: Windows | None = None,
    norm: nn.Module | None = None,
    extras: Mapping[str, tuple[int, nn.Module]] | None = None,
) -> Encoder:
    """The encoder around a vision model of Qwen at one grid.

    modeling: the module of transformers it is from
    positions: [P, C], learned ones, square by square
    token_order: [N] int64, which token of the raster stands where in the tower's order, where that is another

    Raises ModelError when there is no such layer.
    """
    from transformers.vision_utils import get_vision_position_ids

    rows, columns = grid
    merge, patch = own.config.spatial_merge_size, own.config.patch_size
    each = merge * merge
    tokens = torch.arange(rows * columns // each) if token_order is None else token_order
    reorder = (tokens[:, None] * each + torch.arange(each)).flatten()
    places = get_vision_position_ids(torch.tensor([[1, rows, columns]]), merge)[reorder]
    rotation, width = own.rotary_pos_emb(places, places), own.blocks[0].attn.qkv.in_features
    if rotation[0].shape[-1] * own.blocks[0].attn.num_heads != width:
        raise ModelError(
            f"{family}: num_heads of config.json must split a width of {width} into halves of even width, for rows and "
            f"columns, got {own.blocks[0].attn.num_heads}"
        )
    tower = GridTower(
        own,
        modeling.apply_rotary_pos_emb_vision,
        places[:, 0] * columns + places[:, 1],
        rotation,
        None if positions is None else positions[reorder],
        windows,
        norm,
    )
    return Encoder(
        family,
        _described(tower, own.blocks[0].mlp, (rows * patch, columns * patch)),
        feature_depth(-1 if layer is None else layer, len(tower.blocks)),
        merger,
        groups=tokens.argsort()[:, None] * each + torch.arange(each),
        positions=token_places(grid, merge),
        extras=extras or {},
    )


def squares(grid: tuple[int, int], merge: int) -> Tensor:
    """[P] int64, the place in the raster of each patch, merge x merge of them by merge x merge.

    >>> squares((2, 4), 2).tolist()
    [0, 1, 4, 5, 2, 3, 6, 7]
    """
    rows, columns = grid
    raster = torch.arange(rows * columns).reshape(rows // merge, merge, columns // merge, merge)
    return raster.transpose(1, 2).flatten()


def in_squares(embeddings: Any, grid: tuple[int, int], merge: int) -> None:
    """Bring what the embeddings of a transformers model give, in raster order, into that of `squares`, in place: so
    that layers that take any number of patches take any number of whole squares."""
    kind, order = type(embeddings), squares(grid, merge)

    def forward(self: Any, *given: Any, **named: Any) -> Tensor:
        patches: Tensor = kind.forward(self, *given, **named)
        return patches.index_select(1, order)

    embeddings.__class__ = type(kind.__name__, (kind,), {"forward": forward})  # of the object, as a copy has it, too


def token_places(grid: tuple[int, int], merge: int) -> Tensor:
    """[3, N] int32, the time, row and column of each token of merge x merge patches."""
    place = torch.cartesian_prod(*(torch.arange(size // merge) for size in grid)).T
    return torch.cat((torch.zeros_like(place[:1]), place)).to(torch.int32)


def _described(tower: GridTower, mlp: nn.Module, image_size: Sequence[int]) -> Tower:
    attention = [block.attn for block in tower.blocks]
    described = tower_around(
        tower, attention, mlp, tower.patch_embedding, image_size, prefix=0, has_cls=False, blocks=tower.blocks
    )
    return replace(described, batched=False, rotary=True)  # positions are of one image


def _without_time(own: nn.Conv3d) -> nn.Conv2d:
    """The convolution over [C, T, H, W] for T equal frames."""
    size = own.kernel_size[1], own.kernel_size[2]
    flat = nn.Conv2d(own.in_channels, own.out_channels, size, size, bias=own.bias is not None, device="meta")
    flat.weight = nn.Parameter(own.weight.sum(dim=2), requires_grad=False)
    if own.bias is not None:
        flat.bias = own.bias
    return flat


def convolution(own: nn.Linear, size: int) -> nn.Conv2d:
    """The Linear over flattened patches, (row, column, channel), as a convolution over the image."""
    flat = nn.Conv2d(own.in_features // size**2, own.out_features, size, size, bias=own.bias is not None, device="meta")
    weight = own.weight.reshape(-1, size, size, flat.in_channels).permute(0, 3, 1, 2).contiguous()
    flat.weight, flat.bias = nn.Parameter(weight, requires_grad=False), own.bias
    return flat


def _thirds(fused: nn.Linear) -> list[nn.Linear]:
    """The three products that one Linear computes side by side; their weights are views of its own."""
    parts = []
    biases: Sequence[Any] = (None,) * 3 if fused.bias is None else fused.bias.chunk(3)
    for weight, bias in zip(fused.weight.chunk(3), biases, strict=True):
        part = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
        part.weight = nn.Parameter(weight, requires_grad=False)
        if bias is not None:
            part.bias = nn.Parameter(bias, requires_grad=False)
        parts.append(part)
    return parts
