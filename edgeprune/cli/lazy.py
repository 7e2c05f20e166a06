"""A group whose verbs are files: each is imported when it is called, or listed with its first line."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import click

from edgeprune.errors import unknown_name

__all__ = ["LazyGroup"]


class LazyGroup(click.Group):
    """package: where the files are; names: of the files, with - for _, in the order in which they are listed.

    Each file has its verb as `command`: a verb called like its file would be shadowed by it in the package.
    """

    def __init__(self, *arguments: Any, package: str = "", names: Sequence[str] = (), **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.package, self.names = package, tuple(names)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.names)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.names:
            return None
        command: click.Command = importlib.import_module(f"{self.package}.{cmd_name.replace('-', '_')}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.names and not args[0].startswith("-") and not ctx.resilient_parsing:
            raise click.UsageError(unknown_name("command", args[0], self.names), ctx)
        return super().resolve_command(ctx, args)
