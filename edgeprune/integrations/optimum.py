"""`edgeprune export` as a command of optimum: `optimum-cli export edgeprune`.

    pip install 'edgeprune[export,optimum]'
    python -m edgeprune.integrations.optimum         once; `--remove` undoes it
    optimum-cli export edgeprune --method fastervlm --keep 64

optimum finds commands as files of the namespace optimum.commands.register and in no other way: it has no entry points.
The wheel does not carry such a file: where optimum is not installed, `import optimum` would succeed by it, and others
(transformers' is_optimum_available) would take optimum to be there. So the second line writes it, beside optimum's own
commands; it outlives edgeprune without harm.

The words behind `export edgeprune` are handed to the click command of edgeprune as they are. Options, help, errors and
exit codes are the same, and so is the bundle.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import Any, NoReturn

from edgeprune.errors import EdgepruneError, MissingPackageError, RequestError

__all__ = ["commands", "register", "registry", "unregister"]

FILE = "edgeprune.py"
SOURCE = '''\
"""Written by `python -m edgeprune.integrations.optimum`, which takes it away with --remove."""

try:
    from edgeprune.integrations.optimum import commands
except ImportError:  # edgeprune is gone
    REGISTER_COMMANDS = []
else:
    REGISTER_COMMANDS = commands()
'''


def commands() -> list[Any]:
    """What optimum registers: the command, and the one it stands below."""
    from optimum.commands.base import BaseOptimumCLICommand, CommandInfo
    from optimum.commands.export.base import ExportCommand

    class EdgepruneExportCommand(BaseOptimumCLICommand):  # type: ignore[misc]
        COMMAND = CommandInfo(name="edgeprune", help="Export a token-pruned vision encoder as an edgeprune bundle.")

        @staticmethod
        def parse_args(parser: Any) -> None:
            _take_every_word(parser)

        def run(self) -> NoReturn:
            from edgeprune.cli import main

            sys.argv = ["edgeprune", "export", *self.args.words]
            main()

    return [(EdgepruneExportCommand, ExportCommand)]


def registry() -> Path:
    """The folder, which may not exist yet, of such files beside optimum. Raises MissingPackageError without optimum."""
    try:
        spec = importlib.util.find_spec("optimum.commands.base")
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        raise MissingPackageError("optimum", "optimum")
    return Path(spec.origin).parent / "register"


def register() -> Path:
    """Make the command known to optimum. Raises MissingPackageError, and RequestError when it cannot be written."""
    path = registry() / FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(".tmp")
        scratch.write_text(SOURCE, encoding="utf-8")
        scratch.replace(path)
    except OSError as error:
        raise RequestError(f"{path} cannot be written: {error.strerror}; install optimum where you may write") from None
    return path


def unregister() -> Path:
    """Undo `register`; no error if there is nothing to undo. Raises as `register` does."""
    path = registry() / FILE
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise RequestError(f"{path} cannot be removed: {error.strerror}; remove it by hand") from None
    return path


def _take_every_word(parser: Any) -> None:
    """Let a parser hand on what follows the command as `words`, options and all, for click to read."""
    parse = parser.parse_known_args

    def take(words: list[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:
        parsed, _ = parse([], namespace)  # the defaults of optimum's own, which lead to the command
        parsed.words = list(words or [])
        return parsed, []

    parser.parse_known_args = take


def main() -> NoReturn:
    """Register the command, or with --remove take it away."""
    parser = argparse.ArgumentParser("python -m edgeprune.integrations.optimum", description=main.__doc__)
    parser.add_argument("--remove", action="store_true", help="take it away again")
    try:
        path = unregister() if parser.parse_args().remove else register()
    except EdgepruneError as error:
        print(f"edgeprune: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print(f"{'wrote' if path.exists() else 'removed'} {path}")
    sys.exit(0)


if __name__ == "__main__":
    main()
