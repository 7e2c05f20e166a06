"""What probes are given beside the image: questions, priors and places in the world, each of another kind in turn.

    text     a direction by chance, one patch of the image itself, the opposite of one, and, where it may be, none
             word by word: a few by chance, as many as there may be, one that is a patch of the image itself, and none
    prior    ones, a ramp, one patch alone, a letterbox, every second patch, zeros, and fewer patches than are kept
    xyz      nowhere, a wall in front of the camera, points by chance

All of it hangs on the probe's number alone, but for the patches that texts are made of, and is stored with the probe.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeprune.encoders import Encoder
from edgeprune.ports import ALIGNED, PRIOR, QUERIES, TEXT, TEXT_MASK, Port
from edgeprune.pruners import Method

__all__ = ["given_to"]

SEED = 30
LONG = 0.7
"""length of a text that is the mean of several unit vectors"""
SHORT = 3
"""words of a short question"""


def given_to(number: int, encoder: Encoder, method: Method, pixel_values: NDArray[np.float32]) -> dict[str, Tensor]:
    """Name -> [B, ...] float32, of every port, for the probe of that number. pixel_values: [B, 3, H, W]"""
    ports = encoder.ports(method.ports)
    given = encoder.blank(ports, len(pixel_values))
    rng = np.random.default_rng(SEED + number)
    for port in ports:
        if port.name == TEXT_MASK:
            continue  # with its text
        if port.name == TEXT and len(port.shape) > 1:
            given |= _words(number, port, encoder, given[TEXT], torch.from_numpy(pixel_values), rng)
        elif port.name == TEXT:
            given[TEXT] = _text(number, port, encoder, given[TEXT], torch.from_numpy(pixel_values), rng)
        elif port.name == PRIOR:
            given[PRIOR] = _prior(number, encoder.grid, method.keep, rng).expand_as(given[PRIOR]).contiguous()
        else:
            given[port.name] = _places(number, encoder.grid, rng).expand_as(given[port.name]).contiguous()
    return given


def _text(number: int, port: Port, encoder: Encoder, blank: Tensor, pixels: Tensor, rng: np.random.Generator) -> Tensor:
    kind = number % (4 if port.blank is not None else 3)
    if kind == 3:
        return blank
    if kind == 0:
        drawn: Tensor = torch.from_numpy(rng.standard_normal(blank.shape, np.float32))
        return LONG * torch.nn.functional.normalize(drawn, dim=-1)
    return (1 if kind == 1 else -1) * _patch(port, encoder, pixels, rng)


def _words(
    number: int, port: Port, encoder: Encoder, blank: Tensor, pixels: Tensor, rng: np.random.Generator
) -> dict[str, Tensor]:
    """text [B, L, C] and text_mask [B, L]; rows that are no words hold numbers too, which nothing may read"""
    kind, rows = number % 4, blank.shape[1]
    if kind == 3:
        return {TEXT: blank, TEXT_MASK: blank[:, :, 0]}
    text = torch.from_numpy(rng.standard_normal(blank.shape, np.float32))
    if kind == 2:
        text[:, 0] = _patch(port, encoder, pixels, rng)
    words = (min(SHORT, rows), rows, 1)[kind]
    return {TEXT: text, TEXT_MASK: (torch.arange(rows) < words).float().expand(len(text), -1).contiguous()}


def _patch(port: Port, encoder: Encoder, pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """The direction of one patch of each image, in the space of the port: [B, C], of length 1"""
    tower = encoder.tower
    with torch.inference_mode():
        hidden = encoder.hidden(tower.module(pixels, output_hidden_states=True))
        features = encoder.arrange(hidden[:, tower.prefix : hidden.shape[1] - tower.suffix])
        if port.space == ALIGNED:
            assert encoder.aligner is not None
            patches: Tensor = encoder.aligner(features)
        else:
            patches = encoder.project(features)
        if port.space == QUERIES:
            assert encoder.keyer is not None
            patches = encoder.keyer.to_every_head(encoder.keyer(patches))
    one = patches[:, int(rng.integers(patches.shape[1]))]
    return torch.nn.functional.normalize(one, dim=-1)


def _prior(number: int, grid: tuple[int, int], keep: int, rng: np.random.Generator) -> Tensor:
    """[N]"""
    rows, columns = grid
    patches = rows * columns
    down, along = torch.arange(rows)[:, None].expand(grid), torch.arange(columns)[None].expand(grid)
    kinds = (
        torch.ones(patches),
        torch.linspace(0, 2, patches),
        torch.nn.functional.one_hot(torch.tensor(int(rng.integers(patches))), patches),
        (down >= rows // 4) & (down < rows - rows // 4),
        (down + along) % 2,
        torch.zeros(patches),
        torch.from_numpy(rng.permutation(patches) < max(1, keep // 2)),
    )
    return kinds[number % len(kinds)].flatten().float()


def _places(number: int, grid: tuple[int, int], rng: np.random.Generator) -> Tensor:
    """[N, 3]"""
    rows, columns = grid
    down, along = torch.meshgrid(torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns), indexing="ij")
    wall = torch.stack((along, down, torch.full_like(down, 2.0)), dim=-1).reshape(-1, 3)
    kinds = (torch.zeros_like(wall), wall, torch.from_numpy(rng.standard_normal(tuple(wall.shape), np.float32)))
    return kinds[number % len(kinds)]
