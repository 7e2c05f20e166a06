"""The tables of README.md and docs/, made from what the code declares.

    python -m edgeprune.cli.tables.docs README.md docs/*.md        (`make docs`)

writes each page again where a table between its marks is not current:

    <!-- table: methods -->
    ...
    <!-- end -->
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from edgeprune import catalog, targets
from edgeprune.catalog import Entry, ReducerEntry
from edgeprune.cli.tables.methods import fits
from edgeprune.cli.tables.targets import checked
from edgeprune.runtime import parity
from edgeprune.runtime.parity.inside import STEPS
from edgeprune.traits import WEIGHTING

__all__ = ["TABLES", "current", "main"]

_MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def _markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Headings that end in ` >` stand right."""
    rule = ["---:" if one.endswith(" >") else "---" for one in headings]
    lines = ["|" + "|".join(rule) + "|", *("| " + " | ".join(cells) + " |" for cells in rows)]
    return "\n".join(["| " + " | ".join(one.removesuffix(" >") for one in headings) + " |", *lines])


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def methods() -> str:
    rows = []
    for one in catalog.methods():
        paper = f"[{one.paper.rpartition('/')[2]}]({one.paper})" if one.paper else "-"
        rows.append((f"`{one.name}`", one.does, one.reads, one.traits.multiply_adds, _source(one), paper))
    return _markdown(("method", "does", "reads", "multiply-adds >", "written from", "paper"), rows)


def reducers() -> str:
    headings = ("reducer", "does", "merges", "schedule of its paper", "options", "written from", "paper")
    rows = []
    for one in catalog.reducers():
        paper = f"[{one.paper.rpartition('/')[2]}]({one.paper})" if one.paper else "-"
        able = "yes" if one.merges else ""
        rows.append((f"`{one.name}`", one.does, able, one.schedule, _options(one), _source(one), paper))
    return _markdown(headings, rows)


def _source(one: Entry | ReducerEntry) -> str:
    """Official code is linked at its commit."""
    what, _, where = one.written_from.partition(" at ")
    repository, _, commit = where.partition("@")
    return f"[{what}](https://github.com/{repository}/tree/{commit})" if where else what


def traits() -> str:
    headings = ("method", "options", "any k <= K", "one pool of tiles", "merges", "drops inside", "parity rule")
    return _markdown(headings, [(f"`{one.name}`", *_traits(one)) for one in catalog.methods()])


def _traits(one: Entry) -> list[str]:
    """Cells: options with their defaults, then what it can."""
    able = (one.traits.nested, one.traits.pools_tiles, "origin" in one.traits.emits, one.traits.inside)
    rule = " ".join((f"`{one.rule}`", one.objective)).strip()
    return [_options(one), *("yes" if yes else "" for yes in able), rule]


def _options(one: Entry | ReducerEntry) -> str:
    """With their defaults; the page says what every method by attention has."""
    return _names(
        f"{name}={value.lower() if one.options[name] == 'bool' else value.strip(chr(39))}"
        for name, value in one.defaults.items()
        if name not in WEIGHTING
    )


def matrix() -> str:
    return _markdown(("encoders", "works", "refused"), fits(catalog.methods(), catalog.families()))


def encoders() -> str:
    rows = [
        (
            f"`{one.name}`" + (f" with {one.tower}" if one.tower else ""),
            _names(one.model_types),
            one.does,
            ", ".join(one.has),
            _names(f"--{option}" for option in one.options),
        )
        for one in catalog.families()
    ]
    return _markdown(("encoder", "`model_type`", "what it is", "has", "own flags"), rows)


def devices() -> str:
    rows = []
    for one in map(targets.load, targets.names()):
        sm = f"SM {', '.join(map(str, one.gpu.sm))}" if one.gpu else "-"
        engine = f"{one.engine.kind} {one.engine.version}"
        rows.append((f"`{one.name}`", one.description, sm, str(one.onnx.opset), one.onnx.float, engine, checked(one)))
    return _markdown(("target", "for", "GPU", "opset >", "precision", "engine", "checked"), rows)


def rules() -> str:
    """What a rule decides is the first sentence of its file."""
    entries, rows = catalog.methods(), []
    for name, rule in parity.RULES.items():
        users = [one.name + (f" ({one.objective})" if one.objective else "") for one in entries if one.rule == name]
        rows.append((f"`{name}`", _decides(name, rule), ", ".join(users)))
    return _markdown(("rule", "decides", "methods"), rows)


def steps() -> str:
    """The same of the rules of steps inside the encoder, each of which a reducer names in its file."""
    folder, rows = Path(catalog.__file__).parent / "pruners" / "inside", []
    sources = {one.name: (folder / f"{one.name}.py").read_text(encoding="utf-8") for one in catalog.reducers()}
    named = {name: re.findall(r'return \{"name": "(\w+)"', source) for name, source in sources.items()}
    for name, rule in STEPS.items():
        rows.append((f"`{name}`", _decides(name, rule.judge), ", ".join(one for one in named if name in named[one])))
    return _markdown(("rule", "decides", "reducers"), rows)


def _decides(name: str, rule: Callable[..., object]) -> str:
    head = " ".join((sys.modules[rule.__module__].__doc__ or "").split())
    said = re.search(rf"`{name}`: (.+?)\. ", f"{head} ")
    return said[1] if said else ""


TABLES = {one.__name__: one for one in (methods, reducers, traits, matrix, encoders, devices, rules, steps)}


def current(page: str) -> str:
    """The text of a page with its tables as they should be. Raises KeyError for a table that there is not."""
    return _MARKED.sub(lambda place: f"{place[1]}{TABLES[place[2]]()}\n{place[3]}", page)


def main(pages: Iterable[str]) -> None:
    for path in map(Path, pages):
        text = path.read_text(encoding="utf-8")
        if (made := current(text)) != text:
            path.write_text(made, encoding="utf-8")
            print(f"wrote {path}")


if __name__ == "__main__":
    main(sys.argv[1:])
