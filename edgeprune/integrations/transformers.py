"""The kept tokens of a bundle as inputs of an unmodified transformers model.

    model.generate(**generation_inputs(model, encoder, image, input_ids), max_new_tokens=20)

    prompt     text <image> text            one placeholder for each image, or as many as the processor writes
    becomes    text <image> x K text        and the tokens travel as mm_encoder_outputs, in place of pixel_values
    prompt     text tag <image> tag <image> text        where the processor writes tags between the tiles of an image
    becomes    text tag <image> x K tag <image> x K text     of one bundle, or of LFM2-VL's tiles and thumbnail of two
    prompt     text <image> x columns <break> ... text      where it ends each row of tokens (BREAKS)
    becomes    text <image> x kept in the row <break> ...   all breaks stay, so that the length is fixed

Positions: LLaVA's are compact, 0, 1, 2, ... over what is there, as in the official codes. A model with rotary positions
of three axes (Qwen-VL) keeps the place that each token has in the whole image, and the text behind it goes on where it
would without pruning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from edgeprune.errors import RequestError
from edgeprune.runtime import TokenEncoder
from edgeprune.runtime.images.preprocess import ImageLike
from edgeprune.runtime.images.tiles import packed

__all__ = ["BREAKS", "PREFIX", "generation_inputs", "split"]

TOGETHER = ("internvl", "video_llava", "gemma3", "paligemma", "vipllava", "aya_vision")
"""models that take the tokens of all images as one tensor, not as a list"""
MARKED = {"gemma3": "token_type_ids", "gemma4": "mm_token_type_ids"}
"""models in which the tokens of an image see each other both ways -> the input that says which they are, 1 for each"""
PREFIX = {"paligemma": "token_type_ids"}
"""models that attend to the whole prompt both ways -> the input that says so, 0 for all of it"""
BREAKS = ("mistral3", "pixtral")
"""models whose prompts have a token behind each row of an image's tokens"""
THREE_AXES = ("cosmos3_edge",)
"""models of rotary positions whose generation takes no place in the sequence in front of the three axes"""


def generation_inputs(
    model: Any,
    encoder: TokenEncoder | Sequence[TokenEncoder],
    images: ImageLike | list[ImageLike],
    input_ids: Tensor,
) -> dict[str, Any]:
    """What `model.generate` is given instead of pixel_values.

    model: the transformers model that the bundle's encoder was taken from, a ...ForConditionalGeneration
    encoder: the open bundle, or those whose tokens of an image follow each other: LFM2-VL's tiles, then its thumbnail
    images: one image, or as many as the prompt has placeholders
    input_ids: [1, L] int64, the prompt; a run of the model's image token stands for one image, one tile, or one row

    Returns input_ids [1, L'] with exactly as many image tokens as are kept of each image, attention_mask [1, L'],
    mm_encoder_outputs, and position_ids [4, 1, L'] (of THREE_AXES [3, 1, L']) where the model has rotary positions of
    three axes, and what MARKED and PREFIX have.

    Raises RequestError when the prompt has not one placeholder for each image, or several bundles are given for a model
    of three axes, and ImageError as the encoder does.
    """
    encoders = encoder if isinstance(encoder, Sequence) else [encoder]
    each = images if isinstance(images, list) else [images]
    text = split(input_ids, model.config.image_token_id)
    ran = [[_outputs(of, one) for of in encoders] for one in each]
    encoded = [outputs for parts in ran for outputs in parts]
    count, rest = divmod(len(text) - 1, max(1, len(each)))
    lengths = [] if rest else [length for parts in ran for length in _lengths(model, encoders, parts, count)]
    if not lengths:
        raise RequestError(
            f"the prompt must have one image placeholder (token {model.config.image_token_id}) for each image, "
            f"got {len(text) - 1} for {len(each)}"
        )
    prompt = text[0]
    for length, behind in zip(lengths, text[1:], strict=True):
        prompt = prompt + [model.config.image_token_id] * length + behind
    expanded = torch.tensor([prompt], device=input_ids.device)
    inputs: dict[str, Any] = {"input_ids": expanded, "attention_mask": torch.ones_like(expanded)}
    if (mark := MARKED.get(model.config.model_type)) is not None:
        inputs[mark] = (expanded == model.config.image_token_id).long()
    if (prefix := PREFIX.get(model.config.model_type)) is not None:
        inputs[prefix] = torch.zeros_like(expanded)
    if "positions" in encoded[0]:
        if len(encoders) > 1:
            raise RequestError(
                f"{model.config.model_type} places the tokens of one grid: give one bundle, got {len(encoders)}"
            )
        places = [outputs["positions"] for outputs in encoded]
        axes = _positions(text, places, max(encoders[0].grid)).to(input_ids.device)
        inputs["position_ids"] = axes[1:] if model.config.model_type in THREE_AXES else axes
    return inputs | {"mm_encoder_outputs": {"image": _encoder_outputs(encoded, model)}}


def _lengths(model: Any, encoders: Sequence[TokenEncoder], ran: list[dict[str, Tensor]], runs: int) -> list[int]:
    """How many tokens each of the runs of placeholders of one image gets; none where these are not as many as its
    bundles, and its tiles that are read one after the other, nor as its rows of tokens, of a model that ends each row.

    ran: what each of the encoders handed out
    """
    if runs == 1:
        return [sum(len(outputs["tokens"]) for outputs in ran)]
    parts = [length for encoder, outputs in zip(encoders, ran, strict=True) for length in _parts(encoder, outputs)]
    if len(parts) == runs:
        return parts
    rows, columns = encoders[0].grid
    ends = {model.config.model_type, model.config.vision_config.model_type} & {*BREAKS}
    if not ends or runs != rows or len(ran) > 1:
        return []
    return torch.bincount(ran[0]["indices"][0].long() // columns, minlength=rows).tolist()


def _parts(encoder: TokenEncoder, outputs: dict[str, Tensor]) -> list[int]:
    """How many tokens each tile has of an encoder of tiles that are read one after the other; else all of them."""
    tiles = encoder.preprocessing.tiles
    if tiles is None or not tiles.squeezed or encoder.manifest.pooled:
        return [len(outputs["tokens"])]
    return [outputs["indices"].shape[1]] * tiles.count


def _outputs(encoder: TokenEncoder, image: ImageLike) -> dict[str, Tensor]:
    """What the encoder hands out for one image; its tokens as one sequence [L, D]."""
    outputs = encoder.outputs(image)
    tokens, tiles = outputs["tokens"], encoder.preprocessing.tiles
    if tiles is None:
        tokens = tokens[0]
    else:
        shape = encoder.preprocessing.tile_shape(image)
        tokens = packed(tokens, outputs["indices"], encoder.grid, shape, tiles.squeezed, tiles.whole)
    return {name: torch.from_numpy(array) for name, array in (outputs | {"tokens": tokens}).items()}


def _encoder_outputs(encoded: list[dict[str, Tensor]], model: Any) -> Any:
    """As get_image_features of the model returns them: the tokens of each image, and what goes into deeper layers."""
    device, dtype = model.device, model.dtype
    from transformers.modeling_outputs import BaseModelOutputWithPooling
    from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

    tokens: Any = [outputs["tokens"].to(device, dtype) for outputs in encoded]
    deeper: Any = [name for name in encoded[0] if name.startswith("deepstack_")]
    if model.config.model_type in TOGETHER:
        tokens = torch.cat(tokens)
    if not deeper:
        return BaseModelOutputWithPooling(pooler_output=tokens)
    deeper = [[outputs[name][0].to(device, dtype) for outputs in encoded] for name in deeper]
    return BaseModelOutputWithDeepstackFeatures(pooler_output=tokens, deepstack_features=deeper)


def _positions(text: list[list[int]], places: list[Tensor], side: int) -> Tensor:
    """[4, 1, L']: the place in the prompt, then time, row and column.

    places: [3, K] of each image, from 0; side: the longer one of the whole image's grid, where the text goes on
    """
    start, parts = 0, []
    for at, words in enumerate(text):
        parts.append((start + torch.arange(len(words))).expand(3, -1))
        start += len(words)
        if at < len(places):
            parts.append(places[at] + start)
            start += side
    axes = torch.cat(parts, dim=1)
    return torch.cat((torch.arange(axes.shape[1])[None], axes))[:, None]


def split(input_ids: Tensor, image_token: int) -> list[list[int]]:
    """The text before the first image, and the text behind each."""
    pieces: list[list[int]] = [[]]
    previous = None
    for token in input_ids[0].tolist():
        if token != image_token:
            pieces[-1].append(token)
        elif previous != image_token:
            pieces.append([])
        previous = token
    return pieces
