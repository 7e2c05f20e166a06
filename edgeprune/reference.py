"""The independent reference: the official codes' way, in eager float32, with every attention map written out.

The whole tower runs with two products around a softmax in every layer, hidden states and attention maps are read at the
select layer, everything is projected, and the method's `official` form chooses. Nothing of the traced path is used: not
its recomputed scores, its take or the moved selection. Traced as it stands, it is also the export `official` that
`bench` compares with.

Where a method drops tokens inside the encoder, none is dropped here: the whole tower runs once more, and from that
place on nothing attends to the patches that are not kept. Where a reducer shortens the sequence on the way, each step
is taken as its `official` form says, or, to judge a device step by step, as that device took it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgeprune.encoders import Encoder
from edgeprune.encoders._attention import recording
from edgeprune.ports import PRIOR
from edgeprune.pruners import Eager, Method, Selection, depth_of, greedily_behind, one_pool, rows_of
from edgeprune.reference_steps import Steps, Taken

__all__ = ["OfficialEncoder"]


class OfficialEncoder(nn.Module):
    """pixel_values [B, 3, H, W] -> tokens [B, K, D], indices [B, K] int32 ascending, scores [B, N] float32, and what
    else the encoder hands out (`edgeprune.trace.outputs`)."""

    def __init__(self, encoder: Encoder, method: Method, pixels: nn.Module | None = None) -> None:
        super().__init__()
        self.pixels = pixels or nn.Identity()
        self.encoder = encoder.tower.module
        self.projector = encoder.projector
        self._encoder, self._method, self._areas = encoder, method, encoder.areas
        self._ports, self._pools = encoder.ports(method.ports), one_pool(type(method), method.options(), encoder)

    def forward(self, pixel_values: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        """others: what the method and a prior are given, in the order of their ports; without, what is blank"""
        given = dict(zip([port.name for port in self._ports], others, strict=True)) if others else None
        outputs, _ = self.choose(pixel_values, given=given)
        return outputs

    def choose(
        self,
        pixel_values: Tensor,
        forced: Mapping[int, Taken] | None = None,
        before: Mapping[str, Tensor] | None = None,
        given: Mapping[str, Tensor] | None = None,
    ) -> tuple[tuple[Tensor, ...], Selection]:
        """The outputs, and what the method said of how it chose them, with the quantities of each step among its own,
        as `<layer>.<name>`.

        forced: by layer, what a device did at the steps inside the encoder, to be done here as well
        before: `<layer>.<name>` -> [B, ...], what these steps kept of the frame before; None: this is the first one
        given: what the method and a prior are given beside the pixels, by name; None: what is blank
        """
        given = self._encoder.blank(self._ports, len(pixel_values)) if given is None else given
        if self._encoder.inside is not None:
            return self._stepped(self.pixels(pixel_values), forced, before, given)
        if (depth := depth_of(self._method, self._encoder)) is not None:
            return self._inside(self.pixels(pixel_values), depth, given)
        encoder, tower = self._encoder, self._encoder.tower
        modules = tower.attention[: encoder.layer]
        with recording(self.encoder, modules, written_out=True) as seen:
            out = self.encoder(self.pixels(pixel_values), output_hidden_states=True)
        hidden = encoder.hidden(out)
        features = encoder.arrange(hidden[:, tower.prefix :])
        projected = encoder.project(features)
        maps = [self._weighed(at, self._columns(seen.maps[module], dim=3)) for at, module in enumerate(modules)]
        keys = self._columns(seen.attention[modules[-1]].key, dim=2)
        if encoder.pooling is not None:
            features = torch.einsum("np,bpc->bnc", encoder.pooling.to(features.dtype), features)
        if self._pools:
            features, projected = (rows.reshape(1, -1, rows.shape[-1]) for rows in (features, projected))
            given = encoder.pooled(self._ports, given)
        eager = Eager(maps, features, projected, encoder.grid, tower.prefix, keys, self.projector, areas=self._areas)
        if self._method.traits.reads_branch and encoder.aligner is not None:
            added = [seen.attention[modules[layer]].output for layer in encoder.sources]
            branch = encoder.arrange(torch.cat([one[:, tower.prefix :] for one in added if one is not None], dim=2))
            if encoder.pooling is not None:
                branch = torch.einsum("np,bpc->bnc", encoder.pooling.to(branch.dtype), branch)
            eager = dataclasses.replace(eager, aligned_branch=encoder.aligner(branch))
        chosen = self._chosen(eager, given)
        if chosen.merged is not None:
            tokens = chosen.merged
        elif chosen.merge is None:
            tokens = rows_of(projected, chosen.indices)
        else:
            merge = chosen.merge.expand(features.shape[0], -1, -1)
            averaged = encoder.pooling is not None
            tokens = torch.bmm(merge, projected) if averaged else self.projector(torch.bmm(merge, features))
        emitted = chosen.emitted(self._method.traits.emits)
        outputs = [tokens, chosen.indices.to(torch.int32), chosen.scores, *emitted]
        if encoder.positions is not None:
            outputs.append(encoder.positions[:, chosen.indices[0]])
        for layer, projector in encoder.extras.values():
            everything = projector(encoder.arrange(out.hidden_states[layer][:, tower.prefix :]))
            outputs.append(rows_of(everything, chosen.indices))
        return tuple(outputs), chosen

    def _chosen(self, eager: Eager, given: Mapping[str, Tensor]) -> Selection:
        """What the method's official form chooses, and the prior has it choose, of what is given beside the pixels."""
        aligner, prior = self._encoder.aligner, self._encoder.prior
        joint = torch.empty(0) if aligner is None else aligner(eager.features)
        eager = dataclasses.replace(eager, given=given, aligned=joint)
        if (keyer := self._encoder.keyer) is not None:
            keys = keyer(eager.projected)
            eager = dataclasses.replace(eager, language_keys=keys.reshape(*keys.shape[:2], -1, keyer.head))
        if prior is not None and self._method.traits.masks:
            behind = given[PRIOR] <= 0
            with greedily_behind(behind):
                chosen = self._method.official(eager)
            return dataclasses.replace(chosen, quantities={**chosen.quantities, "barred": behind.float()})
        chosen = self._method.official(eager)
        if prior is None:
            return chosen
        scores = prior.official(chosen.scores, given[PRIOR])
        picks = scores.topk(self._method.keep, dim=1).indices
        return dataclasses.replace(chosen, indices=picks.sort(dim=1).values, scores=scores, picks=picks)

    def _stepped(
        self,
        pixels: Tensor,
        forced: Mapping[int, Taken] | None,
        before: Mapping[str, Tensor] | None,
        given: Mapping[str, Tensor],
    ) -> tuple[tuple[Tensor, ...], Selection]:
        """The sequence gets shorter on the way, and the method chooses of the rows that are left."""
        encoder, tower = self._encoder, self._encoder.tower
        modules = tower.attention[: encoder.layer]
        with recording(self.encoder, modules, written_out=True) as seen, Steps(encoder, seen, forced, before) as steps:
            out = self.encoder(pixels, output_hidden_states=True)
        hidden = encoder.hidden(out, steps.as_last)
        features = steps.rows(hidden)
        projected = features if encoder.head is not None else encoder.project(features)
        chosen = self._chosen(steps.eager(encoder.layer, features, projected, self.projector), given)
        if encoder.head is not None:
            read = [hidden[:, at] for at in encoder.head.rows]
            read += [steps.mean(hidden)] if encoder.head.mean else []
            outputs = list(self.projector(torch.stack(read, dim=1)))
        else:
            outputs = [rows_of(projected, chosen.indices)]
        outputs += steps.named(chosen, self._method.traits.emits)
        if encoder.positions is not None:
            outputs.append(encoder.positions[:, steps.names.gather(1, chosen.indices)[0]])
        for layer, projector in encoder.extras.values():
            earlier = projector(steps.rows(steps.as_last(out.hidden_states[layer])))
            outputs.append(rows_of(earlier, chosen.indices))
        outputs += [value for trail, scores in steps.taken.values() for value in (trail.to(torch.int32), scores)]
        assert encoder.inside is not None
        if encoder.inside.origin:
            outputs.append(steps.origin(chosen.indices))
        outputs += steps.kept
        return tuple(outputs), dataclasses.replace(chosen, quantities={**chosen.quantities, **steps.quantities})

    def _inside(self, pixels: Tensor, depth: int, given: Mapping[str, Tensor]) -> tuple[tuple[Tensor, ...], Selection]:
        encoder, tower, entered = self._encoder, self._encoder.tower, []
        hook = tower.blocks[depth].register_forward_pre_hook(lambda module, given: entered.append(given[0]))
        try:
            with recording(self.encoder, tower.attention[:depth], written_out=True) as seen:
                self.encoder(pixels)
        finally:
            hook.remove()
        end = entered[0].shape[1] - tower.suffix
        features = entered[0][:, tower.prefix : end]
        maps = [self._weighed(at, seen.maps[module]) for at, module in enumerate(tower.attention[:depth])]
        eager = Eager(maps, features, features, encoder.grid, tower.prefix, pixels=pixels, given=given)
        chosen = self._method.official(eager)
        outputs = self._masked(pixels, depth, chosen.indices, end)
        emitted = chosen.emitted(self._method.traits.emits)
        return (*outputs, chosen.indices.to(torch.int32), chosen.scores, *emitted), chosen

    def _masked(self, pixels: Tensor, depth: int, indices: Tensor, end: int) -> tuple[Tensor, ...]:
        """Tokens at the indices, or what the head says, when the layers from `depth` on see no other patches."""
        encoder, tower = self._encoder, self._encoder.tower
        seen = torch.ones(len(pixels), end + tower.suffix, dtype=torch.bool)
        seen[:, tower.prefix : end] = False
        seen.scatter_(1, indices + tower.prefix, True)
        visible = dict.fromkeys(tower.attention[depth:], seen)
        with recording(self.encoder, (), written_out=True, visible=visible):
            out = self.encoder(pixels, output_hidden_states=True)
        hidden = encoder.hidden(out)
        if encoder.head is not None:
            read = [hidden[:, at] for at in encoder.head.rows]
            read += [rows_of(hidden, indices + tower.prefix).mean(dim=1)] if encoder.head.mean else []
            return tuple(self.projector(torch.stack(read, dim=1)))
        return (rows_of(self.projector(hidden), indices + tower.prefix),)

    def _weighed(self, layer: int, attention: Tensor) -> Tensor:
        """Every query's attention to a token by the weight of its position: [B, H, S, S'] -> [B, H, S, S']"""
        if (weight := self._encoder.weighting.get(layer)) is None:
            return attention
        first = self._encoder.tower.prefix
        every = torch.ones(attention.shape[3])
        every[first : first + len(weight)] = weight
        return torch.einsum("bhij,j->bhij", attention, every)

    def _columns(self, x: Tensor, dim: int) -> Tensor:
        """Tokens in place of patches along a dimension, each the mean of its own."""
        if (areas := self._areas) is None:
            return x
        last, prefix = x.movedim(dim, -1), self._encoder.tower.prefix
        return torch.cat((last[..., :prefix], last[..., prefix:] @ areas.mT.to(x.dtype)), dim=-1).movedim(-1, dim)
