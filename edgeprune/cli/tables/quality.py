"""Write the table of a sweep into a page, between its marks: `python -m edgeprune.cli.tables.quality SWEEP PAGE`.

<!-- quality -->
| method | K | ...
<!-- /quality -->
"""

from __future__ import annotations

import sys
from pathlib import Path

from edgeprune.errors import RequestError
from edgeprune.quality.sweep import read
from edgeprune.quality.sweep.request import RESULT
from edgeprune.quality.sweep.rows import Sweep
from edgeprune.quality.sweep.texts import to_markdown

__all__ = ["between", "main", "placed"]


def between(page: str, name: str, text: str) -> str:
    """The page with a text between its marks of this name. Raises RequestError when it has no such place."""
    first, last = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, begin, rest = page.partition(first)
    _, end, behind = rest.partition(last)
    if not (begin and end):
        raise RequestError(f"the page must have {first.strip()} and behind it {last}; it lacks them")
    return f"{before}{first}{text}{last}{behind}"


def placed(page: str, sweep: Sweep) -> str:
    """The page with this table in place of the one that is there. Raises RequestError when it has no such place."""
    versions = ", ".join(f"{name} {version}" for name, version in sweep.about["versions"].items())
    return between(page, "quality", f"{to_markdown(sweep)}\n{sweep.about['machine']}; {versions}.\n")


def main(folder: Path, page: Path) -> None:
    page.write_text(placed(page.read_text(encoding="utf-8"), read(folder / RESULT)), encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
