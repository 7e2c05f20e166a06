"""Projected features as the first layer of a language model has them for keys, in front of rotary positions.

    x [B, N, D] --input_layernorm, k_proj--> [B, N, G d]        G: heads that have keys of their own, of H; d: of a head

Of the language model nothing else is read, so that other shards of it need not be there.

Source  huggingface/transformers@v5.24 models/llama/modeling_llama.py, models/qwen2/modeling_qwen2.py: of the attention
        peppery77/HAWK@3af2071 src/hawk/pruning.py
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edgeprune.checkpoint import Checkpoint
from edgeprune.encoders._building import building
from edgeprune.errors import ModelError

__all__ = ["Keys", "keys_of"]

NORM = "layers.0.input_layernorm.weight"
KINDS = ("llama", "mistral", "qwen2", "qwen2_vl", "qwen2_vl_text", "qwen2_5_vl", "qwen2_5_vl_text")
"""model types of language models whose first layer begins so: a plain RMS norm, no norm of keys, no scaled embedding"""


class Keys(nn.Module):
    """[B, N, D] -> [B, N, G * d], in the dtype of its weights.

    heads, head: H and d
    """

    def __init__(self, width: int, heads: int, groups: int, head: int, eps: float, bias: bool) -> None:
        super().__init__()
        self.norm = nn.Parameter(torch.ones(width))
        self.k_proj = nn.Linear(width, groups * head, bias=bias)
        self.heads, self.head, self._eps = heads, head, eps

    def forward(self, x: Tensor) -> Tensor:
        long = x.float()
        normed = long * (long.square().mean(dim=-1, keepdim=True) + self._eps).rsqrt()
        keys: Tensor = self.k_proj(self.norm * normed.to(self.norm.dtype))
        return keys

    def to_every_head(self, keys: Tensor) -> Tensor:
        """Of each head the keys that it compares with: [..., G * d] -> [..., H * d]"""
        groups = keys.reshape(*keys.shape[:-1], -1, self.head)
        every: Tensor = groups.repeat_interleave(self.heads // groups.shape[-2], dim=-2).flatten(-2)
        return every


def keys_of(checkpoint: Checkpoint) -> Keys:
    """The module of a vision-language model, in float32.

    Raises ModelError when the checkpoint has no language model, or one whose first layer begins otherwise, or whose
    weights are not of the sizes that config.json says.
    """
    norms = [name for name in checkpoint.shards if name.endswith(NORM)]
    if len(norms) != 1:
        raise ModelError(
            f"keys of a language model are asked for, and {checkpoint.id} has {'none' if not norms else 'several'}; "
            "give the checkpoint of a vision-language model, or another --method"
        )
    with building(checkpoint.id):
        from transformers import AutoConfig

        given = {name: value for name, value in checkpoint.config.items() if name != "model_type"}
        text: Any = AutoConfig.for_model(checkpoint.config["model_type"], **given).get_text_config()
    if text.model_type not in KINDS:
        raise ModelError(
            f"the keys of a language model are read of {', '.join(KINDS)}; {checkpoint.id} has a {text.model_type}: "
            "choose another --method"
        )
    layer = norms[0].removesuffix("input_layernorm.weight")
    norm = checkpoint.tensors(f"{layer}input_layernorm.")
    key = checkpoint.tensors(f"{layer}self_attn.k_proj.")
    heads = int(text.num_attention_heads)
    head = int(getattr(text, "head_dim", None) or text.hidden_size // heads)
    module = Keys(text.hidden_size, heads, int(text.num_key_value_heads), head, text.rms_norm_eps, "bias" in key)
    tensors = {"norm": norm.get("weight"), **{f"k_proj.{name}": value for name, value in key.items()}}
    try:
        module.load_state_dict({name: value.float() for name, value in tensors.items() if value is not None})
    except RuntimeError as error:
        said = " ".join(str(error).split())[:160]
        raise ModelError(
            f"{checkpoint.id}: the first layer of its language model is not as config.json says: {said}"
        ) from None
    return module.eval().requires_grad_(False)
