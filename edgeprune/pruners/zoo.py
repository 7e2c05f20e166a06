"""ZOO: keep the patches that the projector is most sensitive at, and that are least like those kept already.

    M(h) = W2 act(W1 h + b1) + b2                            the projector
    S_i  = sqrt(g^T Q g / d)      g = act'(W1 h_i + b1), Q = (W2^T W2) * (W1 W1^T) elementwise, d: length of h
    rel  = (S - min S) / (max S - min S)
    first = argmax of S;    next = argmax over i of rel_i (1 - max over chosen s of cos(x_i, x_s))    x = M(h)
    score[i] = that value, for the patches that were picked; the first one's is its rel

S is an approximation of our own. The paper has mean over j of ||M(h + e u_j) - M(h - e u_j)|| / (2 e) for 64 random
directions u_j, which are 128 runs of the projector; what is under the root here is the mean of the square of that over
all directions of length 1, for small e: the Frobenius norm of the Jacobian, squared, over d. Q is computed once.

Paper   https://arxiv.org/abs/2509.24837
Source  the formula of the paper; its repository, AIM-SKKU/ZOO-Prune@13096a4, has no code
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from edgeprune import pruners
from edgeprune.errors import MethodError
from edgeprune.pruners import Eager, Selection, Traits, greedily
from edgeprune.pruners._greedy import cosine, greedy
from edgeprune.taps import Taps

PARTS = 8
FLAT = 1e-6
"""the share of the largest S that its spread is taken for at least, so that equal patches do not divide by zero"""


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    written_from: ClassVar[str] = "paper"
    traits: ClassVar[Traits] = Traits(
        reads=("features", "projected features", "projector weights"),
        multiply_adds="8871.0 M",
        early=False,
        nested=True,
        masks=True,
        deviations=(
            "the sensitivity of a patch is sqrt(g^T Q g / d), a closed form and an approximation of our own; the paper "
            "averages finite differences along 64 random directions",
            "a chosen patch cannot be chosen again, so that exactly K distinct ones remain",
            f"the spread of the sensitivities is taken as {FLAT:g} of the largest at least where it divides",
        ),
        on_tiles=("each tile has its own minimum, maximum and pool of candidates",),
    )

    def prepared(self, projector: nn.Module) -> Prepared:
        """The method with what it needs of these weights, so that no graph computes it.

        Raises MethodError when the projector is not a linear layer, an activation and a linear layer.
        """
        first, activation, second = _layers(projector)
        x = torch.linspace(-1, 1, 5 * first.in_features).reshape(1, 5, -1)
        if not torch.allclose(projector(x), second(activation(first(x))), rtol=1e-4, atol=1e-5):
            raise MethodError(
                "zoo reads a projector that is two linear layers and an activation; this one computes something else "
                "with them; use divprune"
            )
        inner, outer = first.weight.detach(), second.weight.detach()
        return Prepared(self.keep, _upper((outer.T @ outer) * (inner @ inner.T)))

    def rule(self, patches: int) -> dict[str, Any]:
        return {"name": "greedy", "objective": "distance", "flat": FLAT}

    def select(self, taps: Taps) -> Selection:
        return self.prepared(taps.projector).select(taps)

    def official(self, eager: Eager) -> Selection:
        first, activation, second = _layers(eager.projector)
        h, x = eager.features, torch.nn.functional.normalize(eager.projected.float(), dim=-1)
        z = first(h).float()
        g = torch.func.jvp(activation, (z,), (torch.ones_like(z),))[1]
        inner, outer = first.weight.float(), second.weight.float()
        q = torch.mm(outer.mT, outer) * torch.mm(inner, inner.mT)
        sensitivity = (torch.linalg.vecdot(torch.matmul(g, q), g).clamp(min=0) / h.shape[2]).sqrt()
        least, most = sensitivity.amin(dim=1, keepdim=True), sensitivity.amax(dim=1, keepdim=True)
        spread = torch.maximum(most - least, FLAT * most).clamp(min=1e-30)
        relevance: Tensor = (sensitivity - least) / spread
        alike = torch.bmm(x, x.mT)

        def gain(chosen: Tensor) -> Tensor:
            if chosen.shape[1] == 0:
                return relevance
            return relevance * (1 - torch.take_along_dim(alike, chosen.unsqueeze(-1), dim=1).amax(dim=1))

        quantities = {"similarity": alike, "sensitivity": sensitivity}
        return replace(greedily(gain, h.shape[0], self.keep), quantities=quantities)


@dataclass(frozen=True)
class Prepared(Method):
    """With the weights that it needs, which are no option."""

    quadratic: tuple[Tensor, ...]
    """Q on and above its diagonal: PARTS blocks of columns, [those in front and its own, its own] float32 each"""

    def options(self) -> dict[str, Any]:
        return {}

    def sensitivity(self, features: Tensor, projector: nn.Module) -> Tensor:
        """S: [B, N, C] -> [B, N] float32. The hidden row is the one that the projector computes anyway."""
        first, activation, _ = _layers(projector)
        hidden: Tensor = first(features).float()
        slope: Tensor = torch.func.jvp(activation, (hidden,), (torch.ones_like(hidden),))[1]
        squared, end = slope.new_zeros(slope.shape[:-1]), 0
        for block in self.quadratic:
            start, end = end, len(block)
            squared = squared + ((slope[..., :end] @ block) * slope[..., start:end]).sum(dim=-1)
        return (squared.clamp_min(0) / features.shape[-1]).sqrt()

    def select(self, taps: Taps) -> Selection:
        sensitivity = self.sensitivity(taps.features, taps.projector)
        most = sensitivity.amax(dim=-1, keepdim=True)
        above = sensitivity - sensitivity.amin(dim=-1, keepdim=True)
        spread = torch.maximum(above.amax(dim=-1, keepdim=True), FLAT * most)
        relevance = above / spread.clamp_min(1e-30)
        return greedy(
            cosine(taps.projected),
            relevance,
            (relevance * 0 - 1,),
            gain=lambda state: relevance * (1 - state[0]),
            update=lambda state, pick: (torch.maximum(state[0], pick.row),),
            keep=self.keep,
        )


def _upper(matrix: Tensor) -> tuple[Tensor, ...]:
    """Columns of a symmetric matrix, block by block down to the diagonal: g^T Q g is the sum of (g block) g over them.

    What is above the square at the end of a block counts twice. 9/16 of the products of the whole.

    >>> _upper(torch.tensor([[1.0, 2.0], [2.0, 3.0]]))
    (tensor([[1.]]), tensor([[4.],
            [3.]]))
    """
    size, blocks = len(matrix), []
    for start in range(0, size, -(-size // PARTS)):
        end = min(start + -(-size // PARTS), size)
        blocks.append(torch.cat((2 * matrix[:start, start:end], matrix[start:end, start:end])))
    return tuple(blocks)


def _layers(projector: nn.Module) -> tuple[nn.Linear, nn.Module, nn.Linear]:
    """Raises MethodError when the projector is not a linear layer, one thing without weights, and a linear layer."""
    linears = [part for part in projector.modules() if isinstance(part, nn.Linear)]
    others = [part for part in projector.modules() if not list(part.children()) and part not in linears]
    if len(linears) != 2 or len(others) != 1 or list(others[0].parameters()):
        raise MethodError(
            "zoo reads a projector of two linear layers with an activation between them; this one has "
            f"{', '.join(type(part).__name__ for part in (*linears, *others)) or 'none'}; use divprune"
        )
    return linears[0], others[0], linears[1]
