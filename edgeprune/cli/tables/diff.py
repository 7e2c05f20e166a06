"""How two bundles differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from edgeprune.cli.tables import count, table
from edgeprune.runtime.parity.diff import Diff

__all__ = ["diff_lines", "diff_tables"]

SAID = ("rule.steps",)
"""fields that `steps` and `inside` say already"""


def diff_tables(diff: Diff) -> list[Table]:
    """What the bundles say differently, and the probes, as far as there are such."""
    said = table("What they say", "", "old", "new")
    for row in _rows(diff):
        said.add_row(*map(escape, row))
    probes = table("The probes of the old one", "probe", "kept\nin both >", "of\nold >", "of\nnew >", "token\nerror >")
    for name, one in diff.probes.items():
        error = "" if one.token_error is None else f"{one.token_error:.1e}"
        probes.add_row(escape(name), str(one.common), str(one.old_kept), str(one.new_kept), error)
    return [said, *([probes] if diff.probes else [])]


def diff_lines(diff: Diff) -> list[str]:
    """Which probes were not compared, and why; then what it comes to, in one line."""
    reasons: dict[str, list[str]] = {}
    for name, why in diff.not_compared.items():
        reasons.setdefault(why, []).append(name)
    return [*(f"not compared: {', '.join(names)}: {why}" for why, names in reasons.items()), _line(diff)]


def _rows(diff: Diff) -> Iterator[tuple[str, ...]]:
    """(what, old, new)"""
    if any(diff.cost):
        yield ("multiply-adds", *(count(one) if one else "unknown" for one in diff.cost))
    yield ("encoder, bytes", *(f"{one:,}" for one in diff.encoder_nbytes))
    yield ("bundle, bytes", *(f"{one:,}" for one in diff.bundle_nbytes))
    for name, (old, new) in diff.fields.items():
        if name not in SAID:
            yield (name, *map(_steps if name == "steps" else _text, (old, new)))
    for name, both in diff.versions.items():
        yield (name, *(one or "-" for one in both))
    yield from (("deviation", one, "-") for one in diff.deviations[0])
    yield from (("deviation", "-", one) for one in diff.deviations[1])


def _steps(value: Any) -> str:
    """[(layers, tokens), ...] as --schedule has it."""
    return ", ".join(f"{layers}:{tokens}" for layers, tokens in value or ()) or "-"


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        nested = {name: isinstance(one, (Mapping, list, tuple)) for name, one in value.items()}
        said = (f"{name}=({_text(one)})" if nested[name] else f"{name}={_text(one)}" for name, one in value.items())
        return ", ".join(said) or "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value)) or "-"
    return "-" if value is None else str(value)


def _line(diff: Diff) -> str:
    if diff.set_change is None:
        sets = "nothing was run on the same probes"
    else:
        sets = f"kept sets change by up to {diff.set_change:.1%}"
    error = diff.token_error
    tokens = "no token to compare" if error is None else f"tokens differ by up to {error:.1e}"
    cost = "" if diff.cost_ratio is None else f"{diff.cost_ratio:.3f} of the multiply-adds"
    size = f"{diff.encoder_nbytes[1] / max(diff.encoder_nbytes[0], 1):.3f} of the encoder's bytes"
    return ", ".join(filter(None, (sets, "" if diff.set_change is None else tokens, cost, size)))
