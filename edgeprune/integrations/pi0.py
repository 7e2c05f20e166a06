"""The kept tokens of a robot's cameras in front of an unmodified pi0 of transformers.

    seen    = prefix(model, encoder, images, input_ids)             once for each observation
    actions = actions(model, seen, state)                           [1, chunk, max_action_dim]

    prompt     <image> x N cameras <bos> text          one run for all cameras, as the processor writes it, or one each
    becomes    <image> x K cameras <bos> text          which the language model attends to both ways, once; the action
                                                       expert reads its cache at every step

The steps are those of `sample_actions`: Euler, from noise at time 1 to actions at time 0.

Paper   https://arxiv.org/abs/2410.24164
Source  transformers PI0ForConditionalGeneration.sample_actions, PI0Model.embed_prefix
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from edgeprune.errors import RequestError
from edgeprune.integrations.transformers import split
from edgeprune.runtime import TokenEncoder
from edgeprune.runtime.images.preprocess import ImageLike

__all__ = ["actions", "prefix"]


@torch.no_grad()
def prefix(
    model: Any, encoder: TokenEncoder | Sequence[TokenEncoder], images: Sequence[ImageLike], input_ids: Tensor
) -> dict[str, Any]:
    """What every step of the action expert is given of the cameras and the prompt.

    model: a PI0ForConditionalGeneration, whose encoder the bundle's was taken from
    encoder: of all cameras, or one for each
    images: one of each camera
    input_ids: [1, L] int64, the prompt without padding

    Returns cache, of the language model, and attention_mask [1, L'].

    Raises RequestError when the prompt has not one run of placeholders, or one for each camera.
    """
    image, device = model.config.vlm_config.image_token_id, model.device
    text = split(input_ids, image)
    if len(text) - 1 not in (1, len(images)):
        raise RequestError(
            f"the prompt must have one run of placeholders for all {len(images)} cameras, or one for each, got "
            f"{len(text) - 1} (token {image})"
        )
    seen = torch.from_numpy(_tokens(encoder, images)).to(device, model.dtype)
    runs = [seen.flatten(0, 1)] if len(text) == 2 else list(seen)
    embed = model.get_input_embeddings()
    parts = [embed(torch.tensor(text[0], dtype=torch.int64, device=device))]
    for run, behind in zip(runs, text[1:], strict=True):
        parts += [run, embed(torch.tensor(behind, dtype=torch.int64, device=device))]
    embedded = torch.cat(parts)[None]
    mask = torch.ones(embedded.shape[:2], dtype=torch.int64, device=device)
    out = model.model.vlm(
        inputs_embeds=embedded,
        attention_mask=mask,
        position_ids=mask.cumsum(-1) - 1,
        token_type_ids=torch.zeros_like(mask),
        use_cache=True,
    )
    return {"cache": out.cache, "attention_mask": mask}


@torch.no_grad()
def actions(
    model: Any, seen: dict[str, Any], state: Tensor, noise: Tensor | None = None, steps: int | None = None
) -> Tensor:
    """[1, chunk, max_action_dim], from what `prefix` gave.

    state: [1, max_state_dim]; noise: [1, chunk, max_action_dim], drawn where it is not given
    steps: of the flow, those of the model's config where it is not said
    """
    config, length = model.config, seen["cache"].get_seq_length()
    if noise is None:
        noise = torch.randn(1, config.chunk_size, config.max_action_dim, dtype=model.dtype, device=model.device)
    count = steps or config.num_inference_steps
    for step in range(count):
        time = torch.full((1,), 1.0 - step / count, device=model.device)
        velocity = model(state=state, noise=noise, timestep=time, **seen).logits
        seen["cache"].crop(length - seen["cache"].get_seq_length())  # a step does not see the step before it
        noise = noise - velocity / count
    return noise


def _tokens(encoder: TokenEncoder | Sequence[TokenEncoder], images: Sequence[ImageLike]) -> Any:
    """[cameras, K, D]"""
    if isinstance(encoder, TokenEncoder):
        return encoder.outputs(list(images))["tokens"]
    import numpy as np

    tokens = [one.outputs([image])["tokens"] for one, image in zip(encoder, images, strict=True)]
    return np.concatenate(tokens)
