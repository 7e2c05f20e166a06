"""The page in a browser: it opens the folder beside it, shows what is kept, answers, and asks nobody else."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from edgeprune.bundle import load as load_bundle
from edgeprune.export import Exported
from edgeprune.export.assemble.library import place_library
from edgeprune.runtime import load
from tests.browser import NODE_MODULES, Page, needs_browser, open_browser, served

WEB = Path(__file__).parents[4] / "runtime/web"
PICTURE = "scene00.png"


class Points(HTMLParser):
    """What an HTML file points at, and whether every element that opens closes."""

    def __init__(self) -> None:
        super().__init__()
        self.at: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "link", "input"):
            self.open.append(tag)
        self.at += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def folder(assembled: Callable[..., Path], tmp_path: Path) -> Path:
    """With transformers.js in it."""
    own = tmp_path / "model"
    shutil.copytree(assembled(), own)
    place_library(own, NODE_MODULES)
    return own


@pytest.fixture
def page() -> Iterator[Page]:
    with open_browser() as page:
        yield page


def answer(page: Page, question: str) -> str:
    page.value(f"document.querySelector('#question').value = {question!r}")
    page.value("document.querySelector('#form').requestSubmit()")
    asked = page.value("document.querySelectorAll('.turn').length")
    page.until(f"document.querySelectorAll('.answer small').length === {asked}")
    said: str = page.value("[...document.querySelectorAll('.answer p')].at(-1).textContent")
    return said


def see(page: Page, picture: Path) -> None:
    page.until("document.querySelector('#file')?.disabled === false")
    page.choose("#file", picture)
    page.until("document.querySelector('#send').disabled === false")


def test_the_page_is_whole_and_points_nowhere_else() -> None:
    html = Points()
    html.feed((WEB / "index.html").read_text(encoding="utf-8"))
    assert html.open == []
    assert all(name == "data:," or (WEB / name).is_file() for name in html.at), html.at
    for file in WEB.iterdir():
        assert not re.search(r"(https?:)?//[a-z0-9-]+\.[a-z]", file.read_text(encoding="utf-8").replace("// ", "")), (
            file
        )


@pytest.mark.slow
@needs_browser
def test_it_shows_what_is_kept_and_answers_and_asks_nobody_else(
    folder: Path, exported_once: Callable[..., Exported], page: Page
) -> None:
    picture = folder / "questions" / PICTURE
    bundle = exported_once("fastervlm", "web", keep=64, baselines=False, runtime=False).folder
    with served(folder) as url:
        page.window(390, 844)
        page.open(url)
        see(page, picture)
        path = page.value("document.querySelector('#dropped path').getAttribute('d')")
        said = answer(page, "what color is the square?")
        again = answer(page, "what shape is the red object?")
        page.value("document.querySelector('#check').click()")
        checked = page.until("/torch's/.test(document.querySelector('#state').textContent) && "
                             "document.querySelector('#state').textContent")  # fmt: skip
    rows, columns = load_bundle(bundle).manifest.grid
    dropped = {int(y) * columns + int(x) for x, y in re.findall(r"M(\d+) (\d+)h1v1h-1z", path)}
    assert dropped == set(range(rows * columns)) - set(load(bundle, "cpu")(picture).indices[0].tolist())
    assert (said, again) == ("red", "square")
    assert checked == "33 of 33 answers are torch's, on WebAssembly"
    assert all(asked.startswith((url, f"blob:{url}", "data:")) for asked in page.asked_for), page.asked_for
    assert any(asked.endswith(".wasm") for asked in page.asked_for), "workers are watched, too"


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_the_window_and_its_words_stand_out(folder: Path, page: Page, width: int, scheme: str) -> None:
    """Nothing scrolls to the side, and text keeps the contrast that WCAG asks for, 4.5 to 1."""
    with served(folder) as url:
        page.window(width, 844, scheme)
        page.open(url)
        see(page, folder / "questions" / PICTURE)
        answer(page, "what color is the square?")
        assert page.value("document.documentElement.scrollWidth <= innerWidth")
        colours = page.value("""(() => {
            const style = getComputedStyle(document.documentElement);
            return Object.fromEntries(["paper", "card", "ink", "faint", "accent", "on-accent", "mine", "bad"].map(
                (name) => [name, style.getPropertyValue(`--${name}`).trim()]));
        })()""")
    assert colours["paper"] == {"light": "#fbfaf8", "dark": "#15171b"}[scheme]
    pairs = [("ink", "paper"), ("ink", "card"), ("ink", "mine"), ("faint", "paper"), ("faint", "card")]
    for text, ground in [*pairs, ("accent", "paper"), ("bad", "paper"), ("on-accent", "accent")]:
        assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)


@pytest.mark.slow
@needs_browser
def test_without_transformersjs_it_says_where_that_comes_from(assembled: Callable[..., Path], page: Page) -> None:
    with served(assembled()) as url:
        page.open(url)
        assert "npm install @huggingface/transformers" in page.until(
            "document.querySelector('#state.wrong')?.textContent"
        )


@pytest.mark.slow
@needs_browser
def test_webgpu_answers_too(folder: Path) -> None:
    """On SwiftShader, a GPU in software."""
    with served(folder) as url, open_browser(gpu=True) as page:
        page.open(f"{url}?device=webgpu")
        see(page, folder / "questions" / PICTURE)
        said = [answer(page, question) for question in ("what color is the square?", "what shape is the red object?")]
        state = page.value("document.querySelector('#state').textContent")
    assert said == ["red", "square"]
    assert state.endswith("on WebGPU")


def contrast(one: str, other: str) -> float:
    """https://www.w3.org/TR/WCAG21/#dfn-contrast-ratio, of #rgb or #rrggbb"""

    def luminance(colour: str) -> float:
        digits = colour.removeprefix("#")
        digits = digits if len(digits) == 6 else "".join(2 * digit for digit in digits)
        parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
