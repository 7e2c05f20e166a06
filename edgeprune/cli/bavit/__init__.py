"""`edgeprune bavit`: the background classifier of BAViT, from images to a file that `export` puts into a graph."""

from __future__ import annotations

import click

from edgeprune.cli.lazy import LazyGroup

__all__ = ["command"]

VERBS = ("eval", "finetune", "train")


@click.group(
    "bavit",
    cls=LazyGroup,
    package="edgeprune.cli.bavit",
    names=VERBS,
    short_help="Train, fine-tune and judge what drops background.",
)
def command() -> None:
    """Train a background classifier, which says which patches an encoder or detector may drop.

    \b
    edgeprune bavit train
    edgeprune bavit finetune --control
    edgeprune bavit eval
    """
