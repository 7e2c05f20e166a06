"""EntropyPrune: keep the patches whose heads say the most different things, by the entropy of their keys' spectrum.

    Z_i      = [H, d], the keys of patch i head by head, minus their mean over heads
    A_i      = Z_i Z_i^T / H;  l: its eigenvalues, at least 1e-10
    score[i] = - sum of l log l / log H; the K highest are kept

The official code reads the rotated queries of a language model's second layer, where pictures and text are together,
and drops there. Here it is the keys of the layer that produces the features, of the encoder itself, which needs no
language model and no query: what does not go on costs nothing behind the keys. Eigenvalues are not in ONNX: Jacobi's
rotations in a fixed order take their place (`_eigenvalues`).

Paper   https://arxiv.org/abs/2602.17196
Source  YahongWang1/EntropyPrune@9fc1cbb llava/model/language_model/modeling_llama_self.py, the formula alone
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from edgeprune import pruners
from edgeprune.errors import MethodError
from edgeprune.pruners import Eager, Selection, Traits
from edgeprune.pruners._eigenvalues import eigenvalues
from edgeprune.pruners._select import ranked_top
from edgeprune.taps import Taps

LEAST = 1e-10
"""what an eigenvalue is at least, as in the official code"""


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    written_from: ClassVar[str] = "official code at YahongWang1/EntropyPrune@9fc1cbb"
    traits: ClassVar[Traits] = Traits(
        reads=("keys",),
        multiply_adds="9.4 M",
        official_in_onnx=False,
        nested=True,
        deviations=(
            "keys of the encoder's last layer, not queries of a language model's second one, and tokens go in front of "
            "the language model instead of inside it",
            "eigenvalues by a fixed number of Jacobi's rotations in float32; the official code has LAPACK's in float64",
        ),
    )

    def layers(self, depth: int) -> tuple[int, ...]:
        return (depth - 1,)

    def rule(self, patches: int) -> dict[str, Any]:
        return {"name": "topk"}

    def select(self, taps: Taps) -> Selection:
        """Raises MethodError on an encoder of one head."""
        keys = taps.keys_of_heads()
        _check(heads := keys.shape[1])
        rows = (keys - keys.mean(dim=1, keepdim=True)).transpose(1, 2)  # [B, N, H, d]
        shares = eigenvalues(rows @ rows.transpose(2, 3) / heads).clamp_min(LEAST)
        scores = -(shares * shares.log()).sum(dim=-1) / math.log(heads)
        indices, picks = ranked_top(scores, self.keep)
        return Selection(indices, scores, picks=picks)

    def official(self, eager: Eager) -> Selection:
        """Raises MethodError on an encoder of one head."""
        q: Tensor = eager.keys[:, :, eager.prefix :].double().permute(0, 2, 1, 3)
        _check(heads := q.shape[2])
        z = q - q.mean(dim=2, keepdim=True)
        spectrum = torch.linalg.eigvalsh(torch.einsum("bnhd,bngd->bnhg", z, z) / heads).clamp(min=LEAST)
        entropy = torch.special.entr(spectrum).sum(dim=2) / torch.tensor(float(heads)).log()
        chosen = entropy.topk(self.keep, dim=1).indices
        return Selection(chosen.sort(dim=1).values, entropy.float(), picks=chosen)


def _check(heads: int) -> None:
    if heads < 2:
        raise MethodError(f"entropyprune compares the heads of a layer, and must have two or more; got {heads}")
