"""The blocks of code on a page, as its reader copies them: tests run what a page says.

Imported as `from tests.pages import blocks`.
"""

from __future__ import annotations

import re
import textwrap

__all__ = ["blocks", "blocks_in_order", "commands", "languages"]

_FENCE = re.compile(r"^( *)(```+|~~~+)([^`\n]*)\n(.*?)^\1\2 *$", re.MULTILINE | re.DOTALL)


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a Markdown page in one language, in order, each ending in a newline; "" for those of none.

    >>> page = "```bash\\nls\\n```\\n\\n1. In a list:\\n   ```python\\n   if x:\\n       y\\n   ```\\n"
    >>> blocks(page, "bash"), blocks(page, "python"), blocks(page, "")
    (['ls\\n'], ['if x:\\n    y\\n'], [])
    """
    return [body for named, body in blocks_in_order(text) if named == language]


def blocks_in_order(text: str) -> list[tuple[str, str]]:
    """The language and the text of every block."""
    return [(_named(info), textwrap.dedent(body)) for _, _, info, body in _FENCE.findall(text)]


def commands(block: str) -> list[str]:
    """Those of a shell's block, each on one line, without comments.

    >>> commands("ls -l  # all\\n\\n# nothing\\nmv a \\\\\\n    b\\n")
    ['ls -l', 'mv a b']
    """
    joined = re.sub(r"\\\n\s*", "", block)
    lines = (re.sub(r"(^|\s+)#.*", "", line).strip() for line in joined.splitlines())
    return [line for line in lines if line]


def languages(text: str) -> list[str]:
    """Those of all blocks, in order: a page that says a new one has to be run in it, too.

    >>> languages("```bash\\nls\\n```\\n```\\nplain\\n```\\n")
    ['bash', '']
    """
    return [_named(info) for _, _, info, _ in _FENCE.findall(text)]


def _named(info: str) -> str:
    """The language in what follows a fence, such as ```console title="x"."""
    return (info.split() or [""])[0]
