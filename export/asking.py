"""What `edgeprune export` is told of what a graph takes beside the image: a text side, a prior, both halves apart."""

from __future__ import annotations

from collections.abc import Mapping

from edgeprune.errors import RequestError
from edgeprune.traits import Traits

__all__ = ["PRIORS", "check_asking", "parse_prior"]

PRIORS = ("mask", "mul", "fuse:W")


def check_asking(
    method: str,
    traits: Mapping[str, Traits],
    inside: str | None,
    prior: str | None,
    split: bool,
    text_model: str | None,
) -> None:
    """traits: of every method, by name. Raises RequestError for what nothing would be asked by."""
    asks = ", ".join(name for name, one in traits.items() if one.asks)
    if split and prior is None and not traits[method].asks:
        raise RequestError(
            f"--split parts what hangs on a question or a prior from the rest, and nothing of {method} does; leave it "
            f"out, add --prior, or choose a method that is asked: {asks}"
        )
    if text_model is not None and not traits[method].asks:
        raise RequestError(f"--text-model goes with a method that is asked: {asks}; got {method}")
    if prior is None:
        return
    use, _ = parse_prior(prior)
    able = {name for name, one in traits.items() if one.ranks or (use == "mask" and one.masks)}
    if method not in able:
        why = "a method that ranks patches, or picks one after the other" if use == "mask" else "a method that ranks"
        raise RequestError(f"--prior {prior} goes with {why}: {', '.join(sorted(able))}; got {method}")
    if inside is not None:
        raise RequestError(
            f"--prior is of patches that stay in their places, got --inside {inside}, which moves them; leave one of "
            "the two out"
        )


def parse_prior(text: str) -> tuple[str, float]:
    """How a prior is used, and of fuse its weight. Raises RequestError for what is none of PRIORS.

    >>> parse_prior("mask"), parse_prior("fuse:0.5")
    (('mask', 0.0), ('fuse', 0.5))
    """
    use, _, number = text.partition(":")
    try:
        weight = float(number or 0)
    except ValueError:
        weight = -1.0
    if text in ("mask", "mul") or (use == "fuse" and 0 < weight <= 1):
        return use, weight
    raise RequestError(f"--prior must be {', '.join(PRIORS[:-1])} or {PRIORS[-1]} with W in (0, 1], got {text}")
