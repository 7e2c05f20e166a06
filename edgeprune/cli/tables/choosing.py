"""For choosing a method: what it needs, what it costs and what it loses, from a sweep, beside what papers say.

    python -m edgeprune.cli.tables.choosing SWEEP docs/methods.md docs/quality.md

<!-- choosing -->
| method | needs | adds | lost at 64 | ...
<!-- /choosing -->
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path

from edgeprune import catalog
from edgeprune.cli.tables.quality import between
from edgeprune.quality.sweep import read
from edgeprune.quality.sweep.request import RESULT
from edgeprune.quality.sweep.rows import ALL, Row, Sweep
from edgeprune.traits import Traits

__all__ = ["choosing", "main", "said_of"]

BUDGETS = (64, 32, 16)
SAID_AT = "64"
"""tokens of LLaVA-1.5, of the papers' figures"""


def choosing(sweep: Sweep, said: Mapping[str, str]) -> str:
    """The table in Markdown, of the methods that the sweep has, what is lost least at the smallest budget first.

    said: method -> what papers say
    """
    rows: dict[str, dict[int, Row]] = {}
    for row in sweep.rows:
        if not row.refused and row.keep in BUDGETS and ALL in row.gains:
            rows.setdefault(row.method, {})[row.keep] = row
    lines = [
        ["method", "needs", "adds", *(f"lost at {keep}" for keep in BUDGETS), "papers, 64 of LLaVA-1.5's 576"],
        ["---", "---", "---:", *["---:"] * len(BUDGETS), "---:"],
    ]
    traits = {one.name: one.traits for one in catalog.methods()}
    known = {method: by_keep for method, by_keep in rows.items() if method in traits and len(by_keep) == len(BUDGETS)}
    for method in sorted(known, key=lambda name: -known[name][BUDGETS[-1]].gains[ALL].value):
        by_keep = known[method]
        adds = by_keep[BUDGETS[0]].multiply_adds / by_keep[BUDGETS[0]].unpruned_multiply_adds
        lost = [_lost(by_keep[keep]) for keep in BUDGETS]
        lines.append([f"`{method}`", _needs(traits[method]), f"{adds:.2f}", *lost, said.get(method, "-")])
    about = sweep.about
    note = (
        f"Points of {about['questions']:,} questions about {about['images']:,} images ({about['data']}), ± one "
        f"standard error; adds: multiply-adds of the encoder over the unpruned one's, at {BUDGETS[0]} tokens."
    )
    return "\n".join(["| " + " | ".join(line) + " |" for line in lines]) + f"\n\n{note}\n"


def _lost(row: Row) -> str:
    gain = row.gains[ALL]
    return f"{0.0 - 100 * gain.value:.1f} ±{100 * gain.error:.1f}"


def _needs(traits: Traits) -> str:
    also = {"training": traits.needs_scorer, "a question": traits.asks}
    return ", ".join([*traits.needs, *(word for word, needed in also.items() if needed)]) or "-"


def said_of(page: str) -> dict[str, str]:
    """Method -> the figures at SAID_AT tokens in the table of papers of a page, without their sources.

    >>> said_of("| method | 192 tokens | 64 |\\n|---|---|---|\\n| `zoo` | 98.3 [Z] | 95.2 [Z], 94.7 [C] |\\n")
    {'zoo': '95.2, 94.7'}
    """
    figures, column = {}, None
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if cells[0] == "method" and SAID_AT in cells:
            column = cells.index(SAID_AT)
        elif not line.startswith("|"):
            column = None
        elif column is not None and (name := re.fullmatch(r"`(\w+)`", cells[0])) and re.search(r"\d", cells[column]):
            figures[name[1]] = ", ".join(re.findall(r"\d+\.\d+", cells[column]))
    return figures


def main(folder: Path, page: Path, papers: Path) -> None:
    table = choosing(read(folder / RESULT), said_of(papers.read_text(encoding="utf-8")))
    page.write_text(between(page.read_text(encoding="utf-8"), "choosing", table), encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
