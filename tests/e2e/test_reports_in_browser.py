"""Every kind of report opened from disk in a browser: no request, no error, nothing cut, legible in print."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.fleet.page import fleet_report
from ft_dagster.fleet.picture import look_at
from ft_dagster.settings import load_settings
from ft_dagster.spec import Declarations, VariantKey
from ft_dagster.versions.version_comparison import version_comparison
from ft_dagster.versions.version_files import NamedVersion
from ft_dagster.versions.version_report import version_report
from tests.e2e.browser import PROGRAM, BrowserTab, browser
from tests.kept_project import OLD_PROJECT
from tests.long import mostly_long

pytestmark = pytest.mark.slow
if PROGRAM is None:
    pytest.skip("no Chromium on this host", allow_module_level=True)

PLACES = VariantKey("acme", "places")
KINDS = ("version", "side_by_side", "fleet")
PAPER = 794  # pixels: the width of A4
LOADED = "document.readyState === 'complete' && document.querySelectorAll('svg').length > 0"
CUT = """[...document.querySelectorAll('td, th, dd, p, pre, text, circle, h1')].filter(e => {
  const box = e.getBoundingClientRect(), room = (e.closest('svg') || document.body).getBoundingClientRect();
  if (e.closest('svg') && (box.top < room.top - 1 || box.bottom > room.bottom + 1)) return true
  return box.right > Math.min(innerWidth, room.right) + 1 || box.left < Math.max(0, room.left) - 1
}).map(e => e.textContent.slice(0, 40))"""
COLOURS = "['backgroundColor', 'color'].map(of => getComputedStyle(document.body)[of])"
REQUEST = "Network.requestWillBeSent"
ERRORS = {"Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"}


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of each kind, of the same store."""
    folder = tmp_path_factory.mktemp("reports")
    shutil.copytree(OLD_PROJECT, folder / "project")
    settings = load_settings(folder / "project")
    declarations = Declarations(settings.project)
    picture = look_at(declarations, list(declarations), None, settings, datetime.now(UTC))
    pages = {
        "version": version_report(settings, PLACES),
        "side_by_side": version_comparison(settings, NamedVersion(PLACES, 1), NamedVersion(PLACES, 3)),
        "fleet": fleet_report(settings, picture),
    }
    for name, page in pages.items():
        (folder / f"{name}.html").write_text(page, "utf-8")
    return {name: folder / f"{name}.html" for name in pages}


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserTab]:
    with browser(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


def said(tab: BrowserTab, names: set[str]) -> list[dict[str, Any]]:
    return [event["params"] for event in tab.events if event.get("method") in names]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", mostly_long([1280, 1920], [1280]))
@pytest.mark.parametrize("kind", KINDS)
def test_a_report_opens_from_disk_without_request_or_error_and_nothing_is_cut(
    tab: BrowserTab, reports: dict[str, Path], kind: str, width: int, dark: bool
) -> None:
    tab.look(width, dark=dark)
    tab.open(reports[kind].as_uri(), LOADED)
    sent = [event["request"]["url"] for event in said(tab, {REQUEST})]
    assert [url for url in sent if not url.startswith(("file:", "data:"))] == []
    assert said(tab, ERRORS) == []
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert tab.evaluate(CUT) == []
    background, ink = tab.evaluate(COLOURS)
    assert (brightness(background) < brightness(ink)) is dark


@pytest.mark.parametrize("kind", KINDS)
def test_a_report_is_printed_dark_on_white_within_the_paper(
    tab: BrowserTab, reports: dict[str, Path], kind: str
) -> None:
    tab.look(PAPER, dark=True)
    tab.open(reports[kind].as_uri(), LOADED)
    tab.do("Emulation.setEmulatedMedia", media="print")
    assert tab.evaluate(COLOURS) == ["rgb(255, 255, 255)", "rgb(0, 0, 0)"]
    assert tab.evaluate(CUT) == []
    tab.do("Emulation.setEmulatedMedia", media="")
    assert len(tab.do("Page.printToPDF")["data"]) > 20_000


def test_a_fleet_is_sorted_by_a_click_on_a_header(tab: BrowserTab, reports: dict[str, Path]) -> None:
    tab.look(1280, dark=False)
    tab.open(reports["fleet"].as_uri(), LOADED)
    header = "[...document.querySelectorAll('th')].find(e => e.textContent === 'device hours')"
    column = f"[...{header}.closest('table').tBodies[0].rows].map(row => row.cells[6].dataset.by)"
    given = [float(value) for value in tab.evaluate(column)]
    assert len(set(given)) > 1
    for way in (1, -1):
        tab.click(header)
        shown = [float(value) for value in tab.evaluate(column)]
        assert shown == sorted(given, key=lambda hours: way * hours)


def brightness(colour: str) -> int:
    """Of "rgb(1, 2, 3)"."""
    return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(", "))
