"""A method made to fit an encoder: its budget and options checked, its weights brought to the encoder's pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import nn

from edgeprune import catalog, pruners
from edgeprune.encoders import Encoder
from edgeprune.encoders._attention import WINDOWS
from edgeprune.errors import MethodError, RequestError
from edgeprune.ports import ALIGNED
from edgeprune.pruners import Host, Method
from edgeprune.traits import WEIGHTING

__all__ = ["build_method"]


def build_method(
    method: type[Method],
    name: str,
    encoder: Encoder,
    keep: int | None,
    options: Mapping[str, str] | None = None,
    pooled: int = 1,
    scorer: nn.Module | None = None,
    pixels: tuple[tuple[float, ...], tuple[float, ...]] = ((0.0,) * 3, (1.0,) * 3),
) -> Method:
    """The method with its budget and options, checked against the encoder.

    options: name -> value as text, as the command line has them
    pooled: how many tiles are one pool of candidates
    scorer: the trained weights of a method that has such
    pixels: mean and spread that normalise the encoder's pixels, which a scorer has to be brought to

    Raises RequestError when keep is missing or outside 1..N, MethodError when an option is not the method's, or the
    encoder lacks what the method reads.
    """
    _check_place(method, name, encoder)
    if method.traits.needs_scorer != (scorer is not None):
        must = f"needs trained weights: give --scorer, made by `{method.traits.trained_by}`"
        raise MethodError(f"{name} {must}" if scorer is None else f"{name} has no weights: leave --scorer out")
    patches = pooled * encoder.patches
    if keep is None and method.traits.keeps_all:
        keep = patches
    if keep is None:
        raise RequestError(f"--keep must say how many of the {patches} patches to keep (1..{patches}); it is missing")
    if not 1 <= keep <= patches:
        raise RequestError(f"keep must be in 1..{patches} for {patches} patches, got {keep}")
    if method.traits.keeps_all and keep != patches:
        raise RequestError(f"method {name} keeps all {patches} patches, got keep {keep}; leave --keep out")
    if method.traits.needs_cls and not encoder.tower.has_cls:
        others = [one for one in pruners.names() if _offered(pruners.get(one), encoder)]
        raise MethodError(
            f"{name} reads the [CLS] row of the attention; {encoder.family} has no [CLS] token. Use {', '.join(others)}"
        )
    weighted = [part for part in encoder.projector.modules() if list(part.parameters(recurse=False))]
    if method.traits.needs_mlp and [isinstance(part, nn.Linear) for part in weighted] != [True, True]:
        has = ", ".join(type(part).__name__ for part in weighted) or "nothing"
        raise MethodError(
            f"{name} reads the weights of a two-layer projector; that of {encoder.family} has {has}. Use divprune"
        )
    typed = _typed(method, name, options or {})
    if scorer is None:
        make: Any = method
        built: Method = make(keep, **typed)
    else:
        tower, (mean, std) = encoder.tower, pixels
        patch, widths = tower.patch_embedding.kernel_size[0], encoder.widths
        host = Host(encoder.grid, patch, tower.width, encoder.layer, mean, std, *widths)
        built = method.fitted(keep, scorer, host, **typed)
    if built.space == ALIGNED and encoder.aligner is None:
        raise MethodError(
            f"{name} compares patches with a text in CLIP's joint space, which {encoder.family} has no way into: give "
            "--text-model, the CLIP checkpoint that its tower is of, or another --option form"
        )
    if built.pools and not method.traits.pools_tiles and not encoder.pools:
        raise MethodError(
            f"{name} with these options must choose among all tiles of an image, and {encoder.family} takes images "
            "whole, or keeps a share of each tile; leave the options out"
        )
    if method.traits.reads_language and encoder.keyer is None:
        raise MethodError(f"{name} reads keys of a language model, which {encoder.family} has none of; use divprune")
    built = built.prepared(encoder.projector)
    windowed = [at for at, module in enumerate(encoder.tower.attention) if len(getattr(module, WINDOWS, [1])) > 1]
    for layer in built.layers(encoder.layer):
        if layer in windowed:
            whole = [at + 1 for at in range(encoder.layer) if at not in windowed]
            raise MethodError(
                f"{name} must read a layer that attends to the whole image, layer {layer + 1} attends in windows; "
                f"whole are {', '.join(map(str, whole))}, counted from 1"
            )
    return built


def _check_place(method: type[Method], name: str, encoder: Encoder) -> None:
    """Raises MethodError when the encoder cannot go on with the tokens that the method keeps."""
    inside = method.traits.inside
    if encoder.headed and not method.traits.under_head:
        able = [one for one in pruners.names() if pruners.get(one).traits.under_head]
        raise MethodError(
            f"{name} drops tokens behind the encoder, too late for the head of {encoder.family}, which gives "
            f"{encoder.kind}; use {', '.join(able)}"
        )
    if inside and not _any_length(encoder):
        raise MethodError(
            f"{name} drops tokens inside the encoder, whose layers must take any number of patches, each of them a "
            f"token; those of {encoder.family} do not. Use divprune"
        )


def _any_length(encoder: Encoder) -> bool:
    """Whether its layers take any number of patches, each of which is a token."""
    return encoder.tower.embeddings is not None and encoder.groups is None and encoder.pooling is None


def _offered(method: type[Method], encoder: Encoder) -> bool:
    """Whether a method is a way out where there is no [CLS]."""
    traits = method.traits
    return not traits.needs_cls and not traits.keeps_all and (not traits.inside or _any_length(encoder))


def _typed(method: type[Method], name: str, options: Mapping[str, str]) -> dict[str, Any]:
    """Options in the types of the method's fields with a default: the type of that, int where it is None."""
    fields = [field for field in dataclasses.fields(method) if field.default is not dataclasses.MISSING]  # type: ignore[arg-type]
    kinds = {field.name: "int" if field.default is None else type(field.default).__name__ for field in fields}
    if method.traits.attends:  # which are of the encoder that it reads
        options = {option: text for option, text in options.items() if option not in WEIGHTING}
    return {option: catalog.option_value(name, option, text, kinds) for option, text in options.items()}
