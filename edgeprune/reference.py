"""The independent reference: the official codes' way, in eager float32, with every attention map written out.

The whole tower runs, `hidden_states` and `attentions` are read at the select layer, everything is projected, and the
method's `official` form chooses. Nothing of the traced path is used: not its taps, its recomputed scores, its take or
the moved selection. Traced as it stands, it is also the naive export that the ledger compares with.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeprune.encoders import Encoder
from edgeprune.pruners import Eager, Method, Selection
from edgeprune.taps import attending

__all__ = ["OfficialEncoder"]


class OfficialEncoder(nn.Module):
    """pixel_values [B, 3, H, W] -> tokens [B, K, D], indices [B, K] int32 ascending, scores [B, N] float32."""

    def __init__(self, encoder: Encoder, method: Method, pixels: nn.Module | None = None) -> None:
        super().__init__()
        self.pixels = pixels or nn.Identity()
        self.encoder = encoder.tower.module
        self.projector = encoder.projector
        self._tower, self._layer, self._method = encoder.tower, encoder.layer, method
        self._normed = encoder.normed

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        tokens, chosen = self.choose(pixel_values)
        return tokens, chosen.indices.to(torch.int32), chosen.scores

    def choose(self, pixel_values: Tensor) -> tuple[Tensor, Selection]:
        """The tokens, and what the method said of how it chose them."""
        with attending(self.encoder, "eager"):
            out = self.encoder(self.pixels(pixel_values), output_hidden_states=True, output_attentions=True)
        hidden = out.last_hidden_state if self._normed else out.hidden_states[self._layer]
        features = hidden[:, self._tower.prefix :]
        projected = self.projector(features)
        chosen = self._method.official(
            Eager(out.attentions[: self._layer], features, projected, self._tower.grid, self._tower.prefix)
        )
        if chosen.merge is not None:
            merged = chosen.merge.expand(features.shape[0], -1, -1)
            tokens = self.projector(torch.bmm(merged, features))
        else:
            tokens = torch.gather(projected, 1, chosen.indices[..., None].expand(-1, -1, projected.shape[-1]))
        return tokens, chosen
