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

__all__ = ["main", "placed"]

BEGIN, END = "<!-- quality -->\n", "<!-- /quality -->"


def placed(page: str, sweep: Sweep) -> str:
    """The page with this table in place of the one that is there. Raises RequestError when it has no such place."""
    before, begin, rest = page.partition(BEGIN)
    _, end, behind = rest.partition(END)
    if not (begin and end):
        raise RequestError(f"the page must have {BEGIN.strip()} and behind it {END}; it lacks them")
    versions = ", ".join(f"{name} {version}" for name, version in sweep.about["versions"].items())
    return f"{before}{BEGIN}{to_markdown(sweep)}\n{sweep.about['machine']}; {versions}.\n{END}{behind}"


def main(folder: Path, page: Path) -> None:
    page.write_text(placed(page.read_text(encoding="utf-8"), read(folder / RESULT)), encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
