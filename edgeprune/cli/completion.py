"""What a shell completes behind an option: methods with what they do, targets, checkpoints that a family loads.

Switched on by a line in the shell's start-up file, as for any program of click:

    eval "$(_EDGEPRUNE_COMPLETE=bash_source edgeprune)"     (zsh_source in zsh, fish_source in fish)
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from edgeprune.errors import EdgepruneError

__all__ = ["folders", "methods", "models", "reducers", "settings", "targets"]


def methods(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """And reducers, each of which is a method by itself."""
    from edgeprune import catalog

    every: list[catalog.Entry | catalog.ReducerEntry] = [*catalog.methods(), *catalog.reducers()]
    return _beginning(begun, ((one.name, one.does) for one in every))


def reducers(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    from edgeprune import catalog

    return _beginning(begun, ((one.name, one.does) for one in catalog.reducers()))


def settings(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """NAME= of the options of the method that was given before, and of the reducer."""
    from edgeprune import catalog

    given = [str(context.params.get(name)).replace("-", "_") for name in ("method", "inside")]
    every: list[catalog.Entry | catalog.ReducerEntry] = [*catalog.methods(), *catalog.reducers()]
    return _beginning(
        begun, ((f"{name}=", kind) for one in every if one.name in given for name, kind in one.options.items())
    )


def targets(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Those that come along, or a file."""
    from edgeprune.targets import load, names

    known = _beginning(begun, ((name, load(name).description) for name in names()))
    return known or [CompletionItem(begun, type="file")]


def models(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Checkpoints in the cache of Hugging Face that a family of encoders loads, with their model_type; or a folder."""
    return [*_beginning(begun, _cached()), *folders(begun)]


def folders(begun: str) -> list[CompletionItem]:
    return [CompletionItem(begun, type="dir")]


def _beginning(begun: str, items: Iterable[tuple[str, str]]) -> list[CompletionItem]:
    return [CompletionItem(name, help=help) for name, help in items if name.startswith(begun)]


def _cached() -> Iterator[tuple[str, str]]:
    """(org/name, model_type), by the layout of the cache: huggingface_hub takes its time to import."""
    from edgeprune import catalog

    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface"))
    hub = Path(os.environ.get("HF_HUB_CACHE", home / "hub")).expanduser()
    types: dict[str, str] = {}
    for config in sorted(hub.glob("models--*/snapshots/*/config.json")):
        id = config.parts[-4].removeprefix("models--").replace("--", "/")
        try:
            model_type = str(json.loads(config.read_text(encoding="utf-8"))["model_type"])
            catalog.check_model_type(model_type, id)
        except (OSError, ValueError, KeyError, TypeError, EdgepruneError):  # of another kind, or half there
            continue
        types[id] = model_type
    yield from types.items()
