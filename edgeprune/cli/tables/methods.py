"""The pruning methods, and where each works."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.markup import escape
from rich.table import Table

from edgeprune.catalog import Entry, Family, ReducerEntry, refusal
from edgeprune.cli.tables import table

__all__ = ["fits", "matrix_table", "methods_table", "reducers_table"]


def methods_table(entries: Iterable[Entry], wide: bool = False) -> Table:
    """wide: with all that the files say, for more than 80 columns"""
    more = ("reads", "needs", "training", "paper") if wide else ()
    headings = ("name", "does", "multiply-\nadds >", "written from", *more)
    shown = table("Methods", *(escape(heading) for heading in headings))
    for entry in entries:
        shown.add_row(
            entry.name,
            escape(entry.does),
            entry.traits.multiply_adds,
            _source(entry, wide),
            *map(escape, _more(entry) if wide else ()),
        )
    shown.caption = "Multiply-adds of the selection itself, for one image of CLIP ViT-L/14 at 64 of 576 tokens."
    return shown


def reducers_table(entries: Iterable[ReducerEntry], wide: bool = False) -> Table:
    """wide: with what is merged, and the paper"""
    headings = ("name", "does", "schedule", "written from", *(("merges", "paper") if wide else ()))
    shown = table("Inside the encoder", *headings)
    for entry in entries:
        paper = entry.paper.replace("https://arxiv.org/abs/", "arXiv:")
        more = ("yes" if entry.merges else "", paper) if wide else ()
        shown.add_row(entry.name, escape(entry.does), entry.schedule or "-", _source(entry, wide), *more)
    shown.caption = (
        "As --method NAME, all that its steps leave goes on; as --inside NAME, another method chooses of it. Without a "
        "schedule of its paper: --schedule or --encoder-cost."
    )
    return shown


def _source(entry: Entry | ReducerEntry, wide: bool) -> str:
    """What it is written from, by default without the commit."""
    return escape(entry.written_from if wide else entry.written_from.partition(" at ")[0])


def _more(entry: Entry) -> tuple[str, ...]:
    training = "needed" if entry.traits.needs_scorer else "none"
    return entry.reads, entry.needs, training, entry.paper.replace("https://arxiv.org/abs/", "arXiv:")


def matrix_table(entries: Sequence[Entry], encoders: Sequence[Family]) -> Table:
    """A row for the encoders on which the same methods work."""
    shown = table("Methods by encoder", "encoders", "works", "refused")
    shown.columns[0].no_wrap = False
    for row in fits(entries, encoders):
        shown.add_row(*map(escape, row), end_section=True)
    return shown


def fits(entries: Sequence[Entry], encoders: Iterable[Family]) -> list[tuple[str, str, str]]:
    """(encoders, the methods that work on them, those that are refused and why); equal answers together."""
    rows: dict[tuple[str, str], list[str]] = {}
    for family, head in ((one, head) for one in encoders for head in one.heads):
        reasons: dict[str, list[str]] = {}
        for entry in entries:
            reasons.setdefault(refusal(entry, family, head), []).append(entry.name)
        works = ", ".join(reasons.pop("", []))
        refused = "; ".join(f"{reason}: {', '.join(names)}" for reason, names in reasons.items())
        rows.setdefault((works, refused), []).append(family.title + " --head" * head)
    return [(", ".join(names), *answer) for answer, names in rows.items()]
