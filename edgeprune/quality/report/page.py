"""What a report is made of, and the HTML file that it becomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from edgeprune import __version__
from edgeprune.errors import MissingPackageError, RequestError
from edgeprune.quality.report.gallery import Gallery
from edgeprune.runtime.saving import save

__all__ = ["Fact", "Gallery", "Page", "Part", "Section", "Table", "check_output", "render", "write_report"]


@dataclass(frozen=True)
class Fact:
    """A figure that stands large at the top."""

    value: str
    what: str
    mood: str = ""
    """good, bad or none: its colour"""


@dataclass(frozen=True)
class Table:
    columns: Sequence[str]
    """a name that ends in " >" is of numbers, which stand to the right"""
    rows: Sequence[Sequence[str]]
    kind: str = "table"

    @property
    def headings(self) -> list[tuple[str, bool]]:
        """(name, whether to the right)"""
        return [(one.removesuffix(" >"), one.endswith(" >")) for one in self.columns]


@dataclass(frozen=True)
class Chart:
    """An SVG drawing, whose ink is that of the text around it."""

    svg: str
    caption: str
    kind: str = "chart"


@dataclass(frozen=True)
class Words:
    text: str
    kind: str = "words"


Part: TypeAlias = "Table | Chart | Words | Gallery"


@dataclass(frozen=True)
class Section:
    title: str
    parts: Sequence[Part]
    folded: bool = False
    """whether it opens at a click"""


@dataclass(frozen=True)
class Page:
    title: str
    subtitle: str
    facts: Sequence[Fact]
    sections: Sequence[Section] = field(default=())
    failed: str = ""
    """why its subject is not what it should be; empty where it is"""


def render(page: Page) -> str:
    """The page as HTML with everything in it. Raises MissingPackageError without jinja2."""
    try:
        import jinja2
    except ImportError as error:
        raise MissingPackageError("jinja2", "report", error) from None
    loader = jinja2.PackageLoader("edgeprune.quality.report", "")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("page.html.jinja").render(page=page, version=__version__)


def check_output(output: Path) -> None:
    """Before anything is measured. Raises RequestError when a report cannot be written there."""
    if output.suffix.lower() not in (".html", ".htm"):
        raise RequestError(f"a report is HTML, got {output.name}; choose a name that ends in .html")
    if output.is_dir():
        raise RequestError(f"{output} is a folder; name a file in it, as {output / 'report.html'}")
    if not output.absolute().parent.is_dir():
        raise RequestError(f"a report goes into a folder that is there, {output.parent} is not; make it first")


def write_report(page: Page, output: Path) -> None:
    """Takes the place of a file of that name, at the very end. Raises RequestError when it cannot be written."""
    check_output(output)
    content = render(page).encode()
    save(output, lambda file: file.write(content))
