"""The page of a bundle: what a reader finds on it, and what a browser makes of it."""

from __future__ import annotations

import base64
import io
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeprune.errors import RequestError
from edgeprune.quality.report import Fact, Page, Section, Table, describe_bundle, write_report
from edgeprune.quality.report.bundle import _facts
from edgeprune.quality.report.charts import bars
from edgeprune.quality.report.gallery import Gallery, Shown
from edgeprune.quality.report.page import Chart, Words, render
from edgeprune.runtime import load
from tests.brightest import GRID, KEEP, MakeBundle
from tests.covering import always

VOID = {"meta", "img", "input", "br"}
BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), "")


class Balance(HTMLParser):
    """Whether every element that opens closes, and what points out of the page."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href") and not (value or "").startswith(("data:", "#")):
                self.outside.append(f"{tag} {name}={value}")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def page(make_bundle: MakeBundle) -> str:
    return render(describe_bundle(make_bundle(picks=True, nested=True), measured=False))


def test_a_page_is_whole_and_points_nowhere_else(page: str) -> None:
    parser = Balance()
    parser.feed(page)
    assert (parser.open, parser.outside) == ([], [])
    assert "@import" not in page


def test_it_says_what_is_kept_and_that_it_is_proven(page: str) -> None:
    assert f"keeps {KEEP} of {GRID[0] * GRID[1]} tokens" in page
    assert '<b class="good">proven</b>' in page
    assert page.count(">pass<") == 2  # the probes


def test_of_a_quantised_graph_it_says_what_the_choice_lost(make_bundle: MakeBundle) -> None:
    bounds = {"regret": 0.01, "token_median": 0.05, "token_each": 0.15}
    page = render(describe_bundle(make_bundle(precision="int8", quantised={"bounds": bounds}), measured=False))
    assert "0.00% lost by the choice" in page
    assert "it may lose 1.00%" in page
    assert "lost by chance" in page
    assert "regret / tolerance" not in page


def test_it_says_what_shortened_the_sequence_and_what_was_learned_for_it(make_bundle: MakeBundle) -> None:
    manifest = replace(
        load(make_bundle()).manifest,
        inside={"reducer": "tome", "options": {"bias": True}},
        steps=((2, 12), (3, 6)),
        learned={"correction": {"kind": "affine", "images": 200, "residual": [0.4, 0.2]}},
    )
    (facts,) = _facts(manifest)
    assert isinstance(facts, Table)
    rows = {row[0]: row[1] for row in facts.rows}
    assert rows["inside"] == "tome bias=true: 24 tokens become 12 behind layer 2, 6 behind layer 3"
    assert rows["correction"] == "kind=affine, images=200, residual=0.4 to 0.2"


def test_the_patches_that_are_dimmed_are_those_that_the_runtime_drops(make_bundle: MakeBundle, tmp_path: Path) -> None:
    image = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(7).integers(0, 256, (60, 80, 3), np.uint8)).save(image)
    folder = make_bundle(picks=True, nested=True)
    page = render(describe_bundle(folder, [image], measured=False))
    (path,) = re.findall(r'<path d="([^"]*)" data-ranks="([^"]*)"', page)
    dropped = {int(y) * GRID[1] + int(x) for x, y in re.findall(r"M(\d+) (\d+)h1v1h-1z", path[0])}
    output = load(folder, "cpu")(image)
    assert dropped == set(range(GRID[0] * GRID[1])) - set(output.indices[0].tolist())
    assert output.picks is not None
    ranks = [int(one) for one in path[1].split()]
    assert [ranks.index(place) for place in range(KEEP)] == output.picks[0].tolist()


def test_the_slider_is_there_where_kept_sets_nest_alone(make_bundle: MakeBundle, page: str) -> None:
    assert f'<input type="range" min="1" max="{KEEP}" value="{KEEP}">' in page
    assert "<input" not in render(describe_bundle(make_bundle(), measured=False))


def test_pictures_are_those_of_the_probes(page: str) -> None:
    urls = re.findall(r'src="data:image/jpeg;base64,([^"]*)"', page)
    sizes = {Image.open(io.BytesIO(base64.b64decode(url))).size for url in urls}
    assert len(urls) == 2
    assert sizes == {(432, 288)}  # 48 x 32, enlarged by 9


@pytest.mark.slow
def test_times_stand_beside_the_baselines(make_bundle: MakeBundle) -> None:
    cost = {"formula": 9_000_000, "graph": 9_000_000, "unpruned_formula": 10_000_000}
    page = render(describe_bundle(make_bundle(cost=cost), rounds=3))
    assert '<div class="fact"><b class="">90.0%</b>' in page
    assert "median, ms" in page
    assert "<svg" in page


def test_text_of_a_bundle_is_no_markup() -> None:
    said = "<script>alert(1)</script>"
    table = Table(["a", "b >"], [[said, "1"]])
    page = render(Page(said, said, [Fact(said, said)], [Section(said, [table, Words(said)], folded=True)]))
    assert said not in page
    assert page.count("&lt;script&gt;") == 8  # the title twice


def test_the_ink_of_a_chart_is_the_readers() -> None:
    drawn = bars(["pruned", "unpruned"], [1.0, 2.0], [1.5, 2.5], "ms")
    assert drawn.startswith("<svg")
    assert "currentColor" in drawn
    assert not re.search("#000000|#010203|<script|http(?!://www.w3.org|://purl|://creativecommons)", drawn)


def test_a_report_takes_the_place_of_a_file_at_the_end_alone(tmp_path: Path) -> None:
    output = tmp_path / "report.html"
    output.write_text("before")
    broken = Page("t", "s", [], [Section("x", [Gallery(1, 1, 1, False, [Shown("n", "u", None)])])])  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        write_report(broken, output)
    assert output.read_text() == "before"
    write_report(Page("t", "s", []), output)
    assert "<h1>t</h1>" in output.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_disk_that_is_full_leaves_the_old_report_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    output = tmp_path / "report.html"
    output.write_text("before")
    monkeypatch.setattr("os.replace", full)
    with pytest.raises(RequestError, match="No space left"):
        write_report(Page("t", "s", []), output)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("report.html", "before")]


@pytest.mark.parametrize("name", ["report.pdf", "nowhere/report.html", "."])
def test_an_output_that_cannot_be_a_report_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError, match="report"):
        write_report(Page("t", "s", []), tmp_path / name)


@pytest.mark.skipif(not BROWSER, reason="no Chromium here")
@pytest.mark.parametrize("width", always([390, 1280]))
def test_a_browser_shows_it_without_a_scroll_to_the_side(make_bundle: MakeBundle, tmp_path: Path, width: int) -> None:
    """The kept patches are drawn, and the page is as wide as the window: what is wider says so in its title."""
    page = describe_bundle(make_bundle(picks=True, nested=True), measured=False)
    content = render(Page(page.title, page.subtitle, page.facts, [*page.sections, _chart()]))
    asks = (
        "<script>const s=document.querySelector('input'); s.value=1; s.dispatchEvent(new Event('input'));"
        "const drawn=document.querySelector('path').getAttribute('d').split('M').length-1;"
        "const wide=document.documentElement.scrollWidth<=innerWidth;"
        "document.title=[wide, document.querySelector('output').textContent, drawn].join()</script></body>"
    )
    file = tmp_path / "report.html"
    file.write_text(content.replace("</body>", asks), encoding="utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += [f"--window-size={width},900", f"--screenshot={tmp_path / 'shot.png'}"]
    dumped = subprocess.run([*command, "--dump-dom", file.as_uri()], capture_output=True, text=True, check=True).stdout
    cells = GRID[0] * GRID[1]
    assert f"<title>true,1 of {cells},{cells - 1}</title>" in dumped


def _chart() -> Section:
    return Section("x", [Chart(bars(["pruned"], [1.0], None, "ms"), "c")])
