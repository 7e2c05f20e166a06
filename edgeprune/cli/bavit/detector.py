"""What `edgeprune bavit finetune` and `eval` share: the detector, and the scorer in front of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeprune.cli.options import PATH

if TYPE_CHECKING:
    from edgeprune.pruners._scorer import Scorer

__all__ = ["TUNED", "model_option", "read_scorer", "scorer_file", "scorer_option", "size_option", "threads_option"]

SCORER = "scorer.safetensors"
TUNED = "bavit-detector"
"""where `finetune` writes unless it is told otherwise"""

scorer_option = click.option(
    "--scorer", type=PATH, default=Path("bavit-scorer"), show_default=True,
    help="What `bavit train` wrote: the folder, or its file.",
)  # fmt: skip
model_option = click.option(
    "--model", help="YOLOS: a folder or Hugging Face id; default the one of drawn scenes that comes along."
)
size_option = click.option("--size", metavar="HxW", help="Pixels of its images; default its own.")
threads_option = click.option("--threads", type=click.IntRange(min=1), help="CPU threads; default torch's choice.")


def read_scorer(path: Path) -> Scorer:
    """Of --scorer."""
    from edgeprune.pruners._scorer import load_scorer

    return load_scorer(scorer_file(path))


def scorer_file(path: Path) -> Path:
    """Of --scorer, the folder or its file."""
    return path if path.suffix == ".safetensors" else path / SCORER
